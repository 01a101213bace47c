/*
 * unpack: a panel of LANES weight rows, turned so that a vector lane is a row. Quantised blocks
 * become 32 columns of unsigned bytes with an f32 scale per row; every format ends in the same
 * struct tile, so there is one multiplication kernel. Included once per instruction set, after its
 * vec_*.h.
 */
#ifndef LAMINAR_KERNELS_CPU_UNPACK_H
#define LAMINAR_KERNELS_CPU_UNPACK_H

#include <string.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/unroll.h"

/* Row pointers of a panel; lanes past the last row repeat it, so that loads stay inside the matrix.
 */
struct panel {
    const uint8_t *rows[LANES];
    vi offsets; /* rows[lane] - rows[0] */
};

/* 32 columns of a panel. Lane n of q[j] holds weights 4j..4j+3 of row n, offset to be unsigned. */
struct tile {
    vi q[8];
    vf scale;
    vf extra; /* the minimum, or the scale of columns 16..31, or unused: see enum tile_kind */
};

/* How a tile's dot product with quantised activations becomes a float. */
enum tile_kind {
    TILE_OFFSET, /* scale * (q - 2^shift) */
    TILE_WIDE,   /* the same for 8-bit weights */
    TILE_MIN,    /* scale * q + extra */
    TILE_HALVES, /* scale (first 16 columns) or extra (last 16) * (q - 2^shift) */
};

static void panel_init(
    struct panel *panel, const void *base, uint64_t row_bytes, uint32_t row_begin, uint32_t n_rows)
{
    int32_t offsets[LANES];

    for (uint32_t lane = 0; lane < LANES; lane++) {
        uint32_t row = row_begin + lane < n_rows ? row_begin + lane : n_rows - 1;
        panel->rows[lane] = (const uint8_t *)base + row * row_bytes;
        offsets[lane] = (int32_t)(panel->rows[lane] - panel->rows[0]);
    }
    panel->offsets = vi_load(offsets);
}

static inline vi panel_gather(const struct panel *panel, size_t offset)
{
    return vi_gather(panel->rows[0] + offset, panel->offsets);
}

/* The f16 in the high half of each lane. */
static inline vf v_from_f16_high(vi x)
{
    return v_from_f16_low(vi_shr(x, 16));
}

/* Low nibbles of a turned 16-byte group are columns 0..15, high nibbles 16..31. */
LAM_INLINE void split_nibbles(const vi turned[4], vi q[8])
{
    vi mask = vi_set(0x0F0F0F0F);

    LAM_UNROLL
    for (int j = 0; j < 4; j++) {
        q[j] = vi_and(turned[j], mask);
        q[j + 4] = vi_and(vi_shr(turned[j], 4), mask);
    }
}

/* Bits 8i..8i+7 of each lane as bit 4 of the four bytes of ret[0] (the lower bits) and ret[1]. */
LAM_INLINE void spread_bits(vi bits, int i, vi ret[2])
{
    vi mine = vi_set((int32_t)0x80402010); /* byte b keeps bit 4 + b */
    vi bit4 = vi_set(0x10101010);
    vi bytes = vi_repeat_byte(bits, i);

    ret[0] = vi_min_u8(vi_and(vi_shl(bytes, 4), mine), bit4);
    ret[1] = vi_min_u8(vi_and(bytes, mine), bit4);
}

LAM_INLINE void unpack_q4(const struct panel *panel, size_t at, size_t header, struct tile *out)
{
    vi turned[4];

    vi_load_turned(panel->rows, at + header, turned);
    split_nibbles(turned, out->q);
}

LAM_INLINE void unpack_q5(const struct panel *panel, size_t at, size_t header, struct tile *out)
{
    vi bits = panel_gather(panel, at + header);

    unpack_q4(panel, at, header + 4, out);
    LAM_UNROLL
    for (int i = 0; i < 4; i++) {
        vi fifth[2];
        spread_bits(bits, i, fifth);
        out->q[2 * i] = vi_or(out->q[2 * i], fifth[0]);
        out->q[2 * i + 1] = vi_or(out->q[2 * i + 1], fifth[1]);
    }
}

LAM_INLINE void unpack_scale(const struct panel *panel, size_t at, struct tile *out)
{
    out->scale = v_from_f16_low(panel_gather(panel, at));
    out->extra = v_zero();
}

LAM_INLINE void unpack_scale_min(const struct panel *panel, size_t at, struct tile *out)
{
    vi both = panel_gather(panel, at);

    out->scale = v_from_f16_low(both);
    out->extra = v_from_f16_high(both);
}

LAM_INLINE void unpack_q4_0(const struct panel *panel, size_t at, struct tile *out)
{
    unpack_scale(panel, at, out);
    unpack_q4(panel, at, 2, out);
}

LAM_INLINE void unpack_q4_1(const struct panel *panel, size_t at, struct tile *out)
{
    unpack_scale_min(panel, at, out);
    unpack_q4(panel, at, 4, out);
}

LAM_INLINE void unpack_q5_0(const struct panel *panel, size_t at, struct tile *out)
{
    unpack_scale(panel, at, out);
    unpack_q5(panel, at, 2, out);
}

LAM_INLINE void unpack_q5_1(const struct panel *panel, size_t at, struct tile *out)
{
    unpack_scale_min(panel, at, out);
    unpack_q5(panel, at, 4, out);
}

LAM_INLINE void unpack_q8_0(const struct panel *panel, size_t at, struct tile *out)
{
    unpack_scale(panel, at, out);
    vi_load_turned(panel->rows, at + 2, out->q);
    vi_load_turned(panel->rows, at + 18, out->q + 4);
    LAM_UNROLL
    for (int j = 0; j < 8; j++)
        out->q[j] = vi_widen(out->q[j]);
}

/* Scales and minimums of the 8 sub-blocks of Q4_K and Q5_K, from the block's first 16 bytes. */
LAM_INLINE void unpack_k_scales(const struct panel *panel, size_t at, struct tile out[8])
{
    vi head[4]; /* d and dmin; then 12 bytes of 6-bit numbers */
    vi six = vi_set(63), four = vi_set(15), top = vi_set(0x30);

    vi_load_turned(panel->rows, at, head);
    vf d = v_from_f16_low(head[0]);
    vf neg_dmin = v_mul(v_from_f16_high(head[0]), v_set(-1.0f));
    LAM_UNROLL
    for (unsigned s = 0; s < 4; s++) {
        vi scale = vi_shr(head[1], 8 * s);
        vi min = vi_shr(head[2], 8 * s);
        vi both = vi_shr(head[3], 8 * s);
        vi high_scale = vi_or(vi_and(both, four), vi_and(vi_shr(scale, 2), top));
        vi high_min = vi_or(vi_and(vi_shr(both, 4), four), vi_and(vi_shr(min, 2), top));
        out[s].scale = v_mul(d, v_from_int(vi_and(scale, six)));
        out[s].extra = v_mul(neg_dmin, v_from_int(vi_and(min, six)));
        out[s + 4].scale = v_mul(d, v_from_int(high_scale));
        out[s + 4].extra = v_mul(neg_dmin, v_from_int(high_min));
    }
}

/* 32 bytes per row: low nibbles are one sub-block, high nibbles the next. */
LAM_INLINE void unpack_k_pair(const struct panel *panel, size_t at, struct tile *out)
{
    vi mask = vi_set(0x0F0F0F0F);
    vi turned[8];

    vi_load_turned(panel->rows, at, turned);
    vi_load_turned(panel->rows, at + 16, turned + 4);
    LAM_UNROLL
    for (int j = 0; j < 8; j++) {
        out[0].q[j] = vi_and(turned[j], mask);
        out[1].q[j] = vi_and(vi_shr(turned[j], 4), mask);
    }
}

LAM_INLINE void unpack_q4_k(const struct panel *panel, size_t at, struct tile *out)
{
    unpack_k_scales(panel, at, out);
    LAM_UNROLL
    for (unsigned pair = 0; pair < 4; pair++)
        unpack_k_pair(panel, at + 16 + (size_t)pair * 32, out + (size_t)pair * 2);
}

LAM_INLINE void unpack_q5_k(const struct panel *panel, size_t at, struct tile *out)
{
    vi bits[8]; /* bit s of byte l: fifth bit of weight l of sub-block s */

    unpack_k_scales(panel, at, out);
    vi_load_turned(panel->rows, at + 16, bits);
    vi_load_turned(panel->rows, at + 32, bits + 4);
    LAM_UNROLL
    for (unsigned s = 0; s < 8; s++) {
        if (s % 2 == 0)
            unpack_k_pair(panel, at + 48 + (size_t)s * 16, out + s);
        LAM_UNROLL
        for (int j = 0; j < 8; j++) {
            vi bit = vi_and(vi_shr(bits[j], s), vi_set(0x01010101));
            out[s].q[j] = vi_or(out[s].q[j], vi_shl(bit, 4));
        }
    }
}

LAM_INLINE void unpack_q6_k(const struct panel *panel, size_t at, struct tile *out)
{
    vi scales[4];
    vf d = v_from_f16_high(panel_gather(panel, at + 206));

    vi_load_turned(panel->rows, at + 192, scales);
    LAM_UNROLL
    for (unsigned s = 0; s < 8; s++) {
        vi low = vi_sar(vi_shl(scales[s / 2], 24 - 16 * (s % 2)), 24);
        vi high = vi_sar(vi_shl(scales[s / 2], 16 - 16 * (s % 2)), 24);
        out[s].scale = v_mul(d, v_from_int(low));
        out[s].extra = v_mul(d, v_from_int(high));
    }
    LAM_UNROLL
    for (unsigned half = 0; half < 2; half++) {
        vi bits[8]; /* two bits for each of four sub-blocks */
        struct tile *four = out + (size_t)half * 4;
        vi_load_turned(panel->rows, at + 128 + (size_t)half * 32, bits);
        vi_load_turned(panel->rows, at + 144 + (size_t)half * 32, bits + 4);
        LAM_UNROLL
        for (unsigned s = 0; s < 2; s++) {
            struct tile pair[2];
            unpack_k_pair(panel, at + (size_t)half * 64 + (size_t)s * 32, pair);
            memcpy(four[s].q, pair[0].q, sizeof(pair[0].q));
            memcpy(four[s + 2].q, pair[1].q, sizeof(pair[1].q));
        }
        LAM_UNROLL
        for (unsigned s = 0; s < 4; s++) {
            LAM_UNROLL
            for (int j = 0; j < 8; j++) {
                vi two = vi_and(vi_shr(bits[j], 2 * s), vi_set(0x03030303));
                four[s].q[j] = vi_or(four[s].q[j], vi_shl(two, 4));
            }
        }
    }
}

typedef void (*unpack_fn)(const struct panel *panel, size_t block_offset, struct tile *out);

struct unpack_info {
    unpack_fn unpack;
    enum tile_kind kind;
    int32_t shift; /* the stored number is 2^shift too large; 0: not at all */
};

/* NULL unpack: the format has no tiles (float weights). */
static const struct unpack_info unpack_infos[LAM_DTYPE_END] = {
    [LAM_Q4_0] = {unpack_q4_0, TILE_OFFSET, 3},
    [LAM_Q4_1] = {unpack_q4_1, TILE_MIN, 0},
    [LAM_Q5_0] = {unpack_q5_0, TILE_OFFSET, 4},
    [LAM_Q5_1] = {unpack_q5_1, TILE_MIN, 0},
    [LAM_Q8_0] = {unpack_q8_0, TILE_WIDE, WIDE_SHIFT},
    [LAM_Q4_K] = {unpack_q4_k, TILE_MIN, 0},
    [LAM_Q5_K] = {unpack_q5_k, TILE_MIN, 0},
    [LAM_Q6_K] = {unpack_q6_k, TILE_HALVES, 5},
};

/* Four dwords per row: 4 columns of F32, 8 of F16 or BF16. */
LAM_INLINE void unpack_float_group(
    enum lam_dtype dtype, const uint8_t *const *rows, size_t offset, float *out)
{
    vi turned[4];

    vi_load_turned(rows, offset, turned);
    LAM_UNROLL
    for (int j = 0; j < 4; j++) {
        if (dtype == LAM_F32) {
            v_store(out + j * LANES, v_from_bits(turned[j]));
        } else if (dtype == LAM_F16) {
            v_store(out + 2 * j * LANES, v_from_f16_low(turned[j]));
            v_store(out + (2 * j + 1) * LANES, v_from_f16_high(turned[j]));
        } else {
            v_store(out + 2 * j * LANES, v_from_bits(vi_shl(turned[j], 16)));
            v_store(out + (2 * j + 1) * LANES,
                v_from_bits(vi_and(turned[j], vi_set((int32_t)0xFFFF0000))));
        }
    }
}

/*
 * Columns [0, n_cols) of float rows to out[col][LANES]. out has room for n_cols rounded up to 8. A
 * last group of less than 16 bytes goes through a padded copy, so that nothing is read past a row.
 */
static void unpack_floats(
    enum lam_dtype dtype, const uint8_t *const *rows, uint32_t n_cols, float *out)
{
    uint32_t elem_bytes = dtype == LAM_F32 ? 4 : 2;
    uint32_t bytes = n_cols * elem_bytes;
    uint32_t whole = bytes / 16 * 16;
    uint8_t rest[LANES][16] = {{0}};
    const uint8_t *rest_rows[LANES];

    for (uint32_t at = 0; at < whole; at += 16)
        unpack_float_group(dtype, rows, at, out + (size_t)(at / elem_bytes) * LANES);
    if (whole == bytes)
        return;
    for (uint32_t lane = 0; lane < LANES; lane++) {
        memcpy(rest[lane], rows[lane] + whole, bytes - whole);
        rest_rows[lane] = rest[lane];
    }
    unpack_float_group(dtype, rest_rows, 0, out + (size_t)(whole / elem_bytes) * LANES);
}

#endif
