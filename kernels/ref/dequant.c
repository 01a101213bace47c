/*
 * dequant: see dequant.h. One function per format, each a transcription of the layout: all formats
 * are little-endian, d and m are f16, and the order of the float operations is part of the
 * definition (this file is compiled without contraction of a * b + c).
 *
 *   32-weight blocks: low nibble j is weight j, high nibble j is weight j + 16.
 *   256-weight blocks: sub-blocks of 32 (Q4_K, Q5_K) or 16 (Q6_K) with small integer scales.
 */
#include "kernels/ref/dequant.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "kernels/half.h"

enum { QK = 32, QK_K = 256 };

static float half_at(const uint8_t *bytes)
{
    return lam_f32_from_f16(lam_load_u16(bytes));
}

static void dequant_q4_0(const uint8_t *block, float *out)
{
    float d = half_at(block);

    for (int j = 0; j < QK / 2; j++) {
        out[j] = d * (float)((block[2 + j] & 15) - 8);
        out[j + QK / 2] = d * (float)((block[2 + j] >> 4) - 8);
    }
}

static void dequant_q4_1(const uint8_t *block, float *out)
{
    float d = half_at(block);
    float m = half_at(block + 2);

    for (int j = 0; j < QK / 2; j++) {
        out[j] = d * (float)(block[4 + j] & 15) + m;
        out[j + QK / 2] = d * (float)(block[4 + j] >> 4) + m;
    }
}

/* Weight j of 32 with its fifth bit. */
static int nibble_and_bit(const uint8_t *qs, uint32_t qh, int j)
{
    int nibble = j < QK / 2 ? qs[j] & 15 : qs[j - QK / 2] >> 4;

    return nibble | (int)(qh >> j & 1) << 4;
}

static void dequant_q5_0(const uint8_t *block, float *out)
{
    float d = half_at(block);
    uint32_t qh = lam_load_u32(block + 2);

    for (int j = 0; j < QK; j++)
        out[j] = d * (float)(nibble_and_bit(block + 6, qh, j) - 16);
}

static void dequant_q5_1(const uint8_t *block, float *out)
{
    float d = half_at(block);
    float m = half_at(block + 2);
    uint32_t qh = lam_load_u32(block + 4);

    for (int j = 0; j < QK; j++)
        out[j] = d * (float)nibble_and_bit(block + 8, qh, j) + m;
}

static void dequant_q8_0(const uint8_t *block, float *out)
{
    float d = half_at(block);

    for (int j = 0; j < QK; j++)
        out[j] = (float)(int8_t)block[2 + j] * d;
}

/* The 6-bit scale and minimum of sub-block j (0..7) out of 12 packed bytes. */
static void scale_min(const uint8_t *packed, int j, int *ret_scale, int *ret_min)
{
    if (j < 4) {
        *ret_scale = packed[j] & 63;
        *ret_min = packed[j + 4] & 63;
    } else {
        *ret_scale = (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
        *ret_min = packed[j + 4] >> 4 | packed[j] >> 6 << 4;
    }
}

/* Q4_K, and Q5_K when high_bits is not NULL. */
static void dequant_k(const uint8_t *block, const uint8_t *high_bits, const uint8_t *qs, float *out)
{
    float d = half_at(block);
    float dmin = half_at(block + 2);

    for (int s = 0; s < QK_K / QK; s++) {
        int scale, min;
        scale_min(block + 4, s, &scale, &min);
        float sub_d = d * (float)scale;
        float sub_m = dmin * (float)min;
        for (int l = 0; l < QK; l++) {
            int byte = qs[s / 2 * QK + l];
            int q = s % 2 == 0 ? byte & 15 : byte >> 4;
            if (high_bits != NULL)
                q |= (high_bits[l] >> s & 1) << 4;
            out[s * QK + l] = sub_d * (float)q - sub_m;
        }
    }
}

static void dequant_q4_k(const uint8_t *block, float *out)
{
    dequant_k(block, NULL, block + 16, out);
}

static void dequant_q5_k(const uint8_t *block, float *out)
{
    dequant_k(block, block + 16, block + 48, out);
}

static void dequant_q6_k(const uint8_t *block, float *out)
{
    const uint8_t *low = block;        /* [2][64] */
    const uint8_t *high = block + 128; /* [2][32] */
    const uint8_t *scales = block + 192;
    float d = half_at(block + 208);

    for (int i = 0; i < QK_K; i++) {
        int half = i / 128;
        int quarter = i % 128 / 32; /* which two bits of `high`, which nibble of `low` */
        int l = i % 32;
        int byte = low[half * 64 + quarter % 2 * 32 + l];
        int nibble = quarter < 2 ? byte & 15 : byte >> 4;
        int q = nibble | (high[half * 32 + l] >> (2 * quarter) & 3) << 4;
        out[i] = d * (float)(int8_t)scales[i / 16] * (float)(q - 32);
    }
}

static void dequant_f32(const uint8_t *block, float *out)
{
    memcpy(out, block, sizeof(*out));
}

static void dequant_f16(const uint8_t *block, float *out)
{
    *out = half_at(block);
}

static void dequant_bf16(const uint8_t *block, float *out)
{
    *out = lam_f32_from_bf16(lam_load_u16(block));
}

typedef void (*block_fn)(const uint8_t *block, float *out);

static const block_fn block_fns[LAM_DTYPE_END] = {
    [LAM_F32] = dequant_f32,
    [LAM_F16] = dequant_f16,
    [LAM_BF16] = dequant_bf16,
    [LAM_Q4_0] = dequant_q4_0,
    [LAM_Q4_1] = dequant_q4_1,
    [LAM_Q5_0] = dequant_q5_0,
    [LAM_Q5_1] = dequant_q5_1,
    [LAM_Q8_0] = dequant_q8_0,
    [LAM_Q4_K] = dequant_q4_k,
    [LAM_Q5_K] = dequant_q5_k,
    [LAM_Q6_K] = dequant_q6_k,
};

void lam_dequant_row(enum lam_dtype dtype, const void *row, uint32_t n_cols, float *out)
{
    const struct lam_dtype_info *info = lam_dtype_info(dtype);
    block_fn dequant_block = block_fns[dtype];
    const uint8_t *block = row;

    assert(n_cols % info->block_elems == 0);
    for (uint32_t col = 0; col < n_cols; col += info->block_elems) {
        dequant_block(block, out + col);
        block += info->block_bytes;
    }
}
