/*
 * elementwise: quantisation of activations, rms_norm, rope, kv_write and swiglu for one instruction
 * set. Included once per instruction set, after its vec_*.h.
 */
#ifndef LAMINAR_KERNELS_CPU_ELEMENTWISE_H
#define LAMINAR_KERNELS_CPU_ELEMENTWISE_H

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/cpu/isa.h"
#include "kernels/half.h"
#include "kernels/kv.h"

/* exp(x) within 2 units in the last place; 0 below -87.3 (no subnormals), the largest finite value
 * above. */
static inline vf v_exp(vf x)
{
    /* The bounds come first: v_max and v_min keep a NaN that is their second operand. */
    vf clamped = v_min(v_set(88.3762626f), v_max(v_set(-87.3365447f), x));
    /* x = n * ln2 + r. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. */
    vf magic = v_set(12582912.0f);
    vf shifted = v_fma(clamped, v_set(1.44269504f), magic);
    vf n = v_sub(shifted, magic);
    vf r = v_fma(n, v_set(-0.693145752f), clamped);
    r = v_fma(n, v_set(-1.42860677e-6f), r);
    vf p = v_set(1.0f / 5040);
    p = v_fma(p, r, v_set(1.0f / 720));
    p = v_fma(p, r, v_set(1.0f / 120));
    p = v_fma(p, r, v_set(1.0f / 24));
    p = v_fma(p, r, v_set(1.0f / 6));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p, r, v_set(1.0f));
    p = v_fma(p, r, v_set(1.0f));
    vf power = v_from_bits(vi_shl(vi_add(vi_bits(shifted), vi_set(127)), 23));
    return v_zero_below(x, -87.3365447f, v_mul(p, power));
}

static inline vf v_abs(vf x)
{
    return v_from_bits(vi_and(vi_bits(x), vi_set(0x7FFFFFFF)));
}

/*
 * The largest magnitude is taken over the bits, where NaN > infinity > numbers, so a NaN or
 * infinity in x makes the scale, and with it every result of the row, NaN or infinite instead of
 * vanishing.
 */
static void quantise_block(const float *x, struct lam_q8_block *out)
{
    vi max_bits = vi_zero();
    float scale, inverse;
    int32_t sums[2];

    for (int i = 0; i < LAM_Q8_ELEMS; i += LANES)
        max_bits = vi_max_u32(max_bits, vi_bits(v_abs(v_load(x + i))));
    float max = lam_f32_from_bits(vi_hmax_u32(max_bits));
    if (max < 1e-30f) { /* 127 / max could overflow; such a block adds nothing */
        scale = 0;
        inverse = 0;
    } else {
        scale = max / 127;
        inverse = 127 / max;
    }
    for (int half = 0; half < 2; half++) {
        vi sum = vi_zero();
        for (int i = half * 16; i < half * 16 + 16; i += LANES) {
            /* v_max turns a NaN into its second operand, so the sums stay small. */
            vi q = v_to_int(v_max(v_mul(v_load(x + i), v_set(inverse)), v_set(-127)));
            sum = vi_add(sum, q);
            vi_store_i8(out->q + i, q);
        }
        sums[half] = vi_hsum(sum);
    }
    out->scale = scale;
    out->neg_half_sum[0] = -sums[0];
    out->neg_half_sum[1] = -sums[1];
    out->neg_sum = -(sums[0] + sums[1]);
    out->scaled_sum = scale * (float)(sums[0] + sums[1]);
}

static void quantise(const float *x, size_t n_blocks, struct lam_q8_block *out)
{
    for (size_t b = 0; b < n_blocks; b++)
        quantise_block(x + b * LAM_Q8_ELEMS, &out[b]);
}

static void rms_norm(const struct lam_rms_norm_args *args, uint32_t row_begin, uint32_t row_end)
{
    uint32_t n_cols = args->n_cols;
    uint32_t whole = n_cols / LANES * LANES;
    uint32_t rest = n_cols - whole;

    for (uint32_t t = row_begin; t < row_end; t++) {
        const float *x = args->x + (size_t)t * n_cols;
        float *out = args->out + (size_t)t * n_cols;
        vf sums = v_zero();
        for (uint32_t i = 0; i < whole; i += LANES)
            sums = v_fma(v_load(x + i), v_load(x + i), sums);
        vf last = v_load_n(x + whole, rest);
        sums = v_fma(last, last, sums);
        double mean = (double)v_hsum(sums) / n_cols;
        vf scale = v_set((float)(1 / sqrt(mean + (double)args->eps)));
        for (uint32_t i = 0; i < whole; i += LANES)
            v_store(out + i, v_mul(v_mul(v_load(x + i), scale), v_load(args->weight + i)));
        last = v_mul(v_mul(last, scale), v_load_n(args->weight + whole, rest));
        v_store_n(out + whole, last, rest);
    }
}

/* Pairs (0, 1), (2, 3): cosines in the even lanes of the table, sines in the odd ones. */
static void rope_adjacent(float *x, const float *table, uint32_t rope_dim)
{
    for (uint32_t i = 0; i < rope_dim; i += LANES) {
        uint32_t n = rope_dim - i < LANES ? rope_dim - i : LANES;
        vf values = v_load_n(x + i, n);
        vf cos_sin = v_load_n(table + i, n);
        vf crossed = v_mul(v_swap_pairs(values), v_odd(cos_sin));
        v_store_n(x + i, v_fma_alternate(values, v_even(cos_sin), crossed), n);
    }
}

static void rope_halves(float *x, const float *table, uint32_t rope_dim)
{
    uint32_t n_pairs = rope_dim / 2;

    for (uint32_t i = 0; i < n_pairs; i++) {
        float c = table[2 * i];
        float s = table[2 * i + 1];
        float low = x[i];
        float high = x[i + n_pairs];
        x[i] = low * c - high * s;
        x[i + n_pairs] = high * c + low * s;
    }
}

static void rope(const struct lam_rope_args *args, uint32_t row_begin, uint32_t row_end)
{
    for (uint32_t t = row_begin; t < row_end; t++) {
        const float *table = args->table + (size_t)t * args->rope_dim;
        for (uint32_t h = 0; h < args->n_heads; h++) {
            float *x = args->x + ((size_t)t * args->n_heads + h) * args->head_dim;
            if (args->pairing == LAM_ROPE_ADJACENT)
                rope_adjacent(x, table, args->rope_dim);
            else
                rope_halves(x, table, args->rope_dim);
        }
    }
}

static void store_kv(const struct lam_kv_layer *kv, void *base, size_t offset, const float *x)
{
    uint8_t *out = (uint8_t *)base + offset;
    uint32_t i = 0;

    if (kv->dtype == LAM_F32) {
        memcpy(out, x, (size_t)kv->head_dim * sizeof(*x));
        return;
    }
    if (kv->dtype == LAM_Q8_0) {
        lam_kv_pack_q8_0(x, kv->head_dim, out);
        return;
    }
    for (; i + LANES <= kv->head_dim; i += LANES)
        v_store_f16(out + (size_t)i * 2, v_load(x + i));
    if (i < kv->head_dim) {
        uint16_t halves[LANES];
        v_store_f16(halves, v_load_n(x + i, kv->head_dim - i));
        memcpy(out + (size_t)i * 2, halves, (kv->head_dim - i) * sizeof(*halves));
    }
}

static void kv_write(const struct lam_kv_write_args *args, const struct lam_seq_rows *seq,
    uint32_t row_begin, uint32_t row_end)
{
    const struct lam_kv_layer *kv = &args->kv;

    for (uint32_t i = row_begin; i < row_end; i++) {
        for (uint32_t h = 0; h < kv->n_kv_heads; h++) {
            size_t row = ((size_t)(seq->row_begin + i) * kv->n_kv_heads + h) * kv->head_dim;
            size_t offset = lam_kv_offset(kv, seq, seq->pos_begin + i, h);
            store_kv(kv, kv->k, offset, args->k + row);
            store_kv(kv, kv->v, offset, args->v + row);
        }
    }
}

static inline vf silu_times(vf gate, vf up)
{
    vf negative = v_mul(gate, v_set(-1.0f));

    return v_mul(v_div(gate, v_add(v_set(1.0f), v_exp(negative))), up);
}

static void swiglu(const struct lam_swiglu_args *args, uint64_t begin, uint64_t end)
{
    uint64_t i = begin;

    for (; i + LANES <= end; i += LANES)
        v_store(args->out + i, silu_times(v_load(args->gate + i), v_load(args->up + i)));
    if (i < end) {
        uint32_t rest = (uint32_t)(end - i);
        vf gate = v_load_n(args->gate + i, rest);
        v_store_n(args->out + i, silu_times(gate, v_load_n(args->up + i, rest)), rest);
    }
}

#endif
