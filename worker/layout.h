/*
 * layout: where everything that the engine writes lies in its one block of memory. Computed once
 * from the model and the config, before any memory is taken; the engine has no other buffer, so the
 * plan is the use.
 *
 * Offsets are in bytes from a 64-byte aligned base; each is a multiple of 64.
 */
#ifndef LAMINAR_WORKER_LAYOUT_H
#define LAMINAR_WORKER_LAYOUT_H

#include <stdint.h>

#include "common/status.h"
#include "model/manifest.h"
#include "model/spec.h"
#include "worker/engine.h"
#include "worker/kv.h"

/* What the engine remembers of a sequence. */
struct lam_engine_slot {
    uint32_t n_positions; /* in the KV cache and the history */
    uint32_t n_prompt;
    struct lam_sample_params params;
};

/* Letters as in STYLE.md; S: max_seqs, R: max_logit_rows. */
struct lam_engine_layout {
    uint64_t x;            /* f32 [T, D]: the residual stream */
    uint64_t normed;       /* f32 [T, D] */
    uint64_t q;            /* f32 [T, H, d] */
    uint64_t k;            /* f32 [T, K, d] */
    uint64_t v;            /* f32 [T, K, d] */
    uint64_t attended;     /* f32 [T, H, d] */
    uint64_t gate;         /* f32 [T, F] */
    uint64_t up;           /* f32 [T, F] */
    uint64_t rope_table;   /* f32 [T, rope_dim / 2, 2] */
    uint64_t head_in;      /* f32 [R, D] */
    uint64_t logits;       /* f32 [R, V] */
    uint64_t penalised;    /* f32 [V]: what the sampler may change */
    uint64_t sampler;      /* lam_sample_scratch_bytes(V) */
    uint64_t output_norm;  /* f32 [D] */
    uint64_t rope_factors; /* f32 [rope_dim / 2], when the model has them */
    uint64_t ids;          /* i32 [T] */
    uint64_t positions;    /* i32 [T] */
    uint64_t rows;         /* const void * [T]: embedding rows */
    uint64_t seqs;         /* struct lam_seq_rows [S] */
    uint64_t slots;        /* struct lam_engine_slot [S] */
    uint64_t history;      /* i32 [S, n_ctx] */
    uint64_t kv_words;     /* u32 [lam_kv_words] */
    uint64_t kv_data;      /* [L, 2, kv_pages, kv_page_bytes] */
    uint64_t kv_page_bytes;
    uint64_t kv_side_bytes; /* K, or V, of one layer */
    uint64_t total_bytes;
};

/*
 * config: all zeros resolved. Errors: LAM_RESOURCE_EXHAUSTED when the sizes overflow; the flags to
 * lower are named.
 */
LAM_MUST_USE enum lam_status lam_engine_layout_plan(const struct lam_spec *spec,
    const struct lam_engine_config *config, const struct lam_kv_config *kv,
    struct lam_engine_layout *ret_layout, struct lam_err *err);

#endif
