/* kv: where a position's keys and values lie in a paged cache (see lam_kv_layer in ops.h), and how
 * Q8_0 ones are made. */
#ifndef LAMINAR_KERNELS_KV_H
#define LAMINAR_KERNELS_KV_H

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/ops.h"

enum { LAM_KV_Q8_ELEMS = 32, LAM_KV_Q8_BYTES = 34 };

/* Bytes of the d values of one position of one head. */
static inline size_t lam_kv_row_bytes(const struct lam_kv_layer *kv)
{
    switch (kv->dtype) {
    case LAM_F32:
        return (size_t)kv->head_dim * 4;
    case LAM_F16:
        return (size_t)kv->head_dim * 2;
    default:
        assert(kv->dtype == LAM_Q8_0 && kv->head_dim % LAM_KV_Q8_ELEMS == 0);
        return (size_t)kv->head_dim / LAM_KV_Q8_ELEMS * LAM_KV_Q8_BYTES;
    }
}

/* Offset of the d values of (position, head) from kv->k, and equally from kv->v. */
static inline size_t lam_kv_offset(const struct lam_kv_layer *kv, const struct lam_seq_rows *seq,
    uint32_t position, uint32_t kv_head)
{
    size_t page = seq->pages[position / kv->page_tokens];
    size_t slot = position % kv->page_tokens;
    size_t row = (page * kv->n_kv_heads + kv_head) * kv->page_tokens + slot;

    return row * lam_kv_row_bytes(kv);
}

/*
 * n values (a multiple of 32) as Q8_0, bit for bit what every backend stores: d = max |x| / 127
 * rounded to F16, q = x * (1 / d) to nearest even with d not yet rounded. A block that holds a NaN
 * or an infinity becomes NaN; one whose d is 0 in F16 becomes 0.
 */
static inline void lam_kv_pack_q8_0(const float *x, uint32_t n, uint8_t *out)
{
    for (uint32_t at = 0; at < n; at += LAM_KV_Q8_ELEMS, out += LAM_KV_Q8_BYTES) {
        float largest = 0;
        bool finite = true;
        for (uint32_t i = 0; i < LAM_KV_Q8_ELEMS; i++) {
            finite = finite && fabsf(x[at + i]) <= FLT_MAX;
            largest = fmaxf(largest, fabsf(x[at + i]));
        }
        float d = largest / 127.0f;
        uint16_t half = finite ? lam_f16_from_f32(d) : 0x7E00u;
        float inverse = finite && half != 0 ? 1.0f / d : 0;
        memcpy(out, &half, sizeof(half));
        for (uint32_t i = 0; i < LAM_KV_Q8_ELEMS; i++)
            out[2 + i] = (uint8_t)(inverse > 0 ? (int)rintf(x[at + i] * inverse) : 0);
    }
}

#endif
