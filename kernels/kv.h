/* kv: where a position's keys and values lie in a paged cache (see lam_kv_layer in ops.h). */
#ifndef LAMINAR_KERNELS_KV_H
#define LAMINAR_KERNELS_KV_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

static inline size_t lam_kv_elem_bytes(const struct lam_kv_layer *kv)
{
    return kv->dtype == LAM_F16 ? 2 : 4;
}

/* Offset of the d values of (position, head) from kv->k, and equally from kv->v. */
static inline size_t lam_kv_offset(const struct lam_kv_layer *kv, const struct lam_seq_rows *seq,
    uint32_t position, uint32_t kv_head)
{
    size_t page = seq->pages[position / kv->page_tokens];
    size_t slot = position % kv->page_tokens;
    size_t row = (page * kv->n_kv_heads + kv_head) * kv->page_tokens + slot;

    return row * kv->head_dim * lam_kv_elem_bytes(kv);
}

#endif
