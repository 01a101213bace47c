/*
 * layout: where everything that the engine itself reads and writes lies in its block of host
 * memory: sequences, tables, scratch of the sampler. What kernels touch is in the plan
 * (model/plan.h). Computed once, before any memory is taken; the engine has no other buffer.
 *
 * Offsets are in bytes from a 64-byte aligned base; each is a multiple of 64.
 */
#ifndef LAMINAR_WORKER_LAYOUT_H
#define LAMINAR_WORKER_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "model/plan.h"
#include "model/sample.h"
#include "worker/kv.h"

/* What the engine remembers of a sequence. */
struct lam_engine_slot {
    uint32_t n_positions; /* in the KV cache and the history */
    uint32_t n_prompt;
    bool drawn;          /* a token was drawn from the last rows */
    int32_t token;       /* the one; -1: none */
    const float *logits; /* within a step: what it is drawn from; NULL: the device drew it */
    struct lam_sample_params params;
};

/* Letters as in STYLE.md; S: slots. */
struct lam_engine_layout {
    uint64_t ids;           /* i32 [T] */
    uint64_t tables;        /* u32 [S, pages of a context]: the page tables that kernels have */
    uint64_t rows;          /* const void * [T]: embedding rows */
    uint64_t seqs;          /* struct lam_seq_rows [S] */
    uint64_t slots;         /* struct lam_engine_slot [S] */
    uint64_t kv_words;      /* u32 [lam_kv_words] */
    uint64_t history;       /* i32 [S, n_ctx] */
    uint64_t sampler;       /* [n_samplers, sampler_bytes] */
    uint64_t sampler_bytes; /* lam_sample_scratch_bytes(V), aligned */
    uint64_t arrival;       /* as in model/plan.h; no rows for a CPU */
    uint64_t total_bytes;
};

/*
 * packed_row_bytes: of an embedding row, 0 for a CPU. n_samplers: threads that draw. Errors:
 * LAM_RESOURCE_EXHAUSTED when the sizes overflow; the flags to lower are named.
 */
LAM_MUST_USE enum lam_status lam_engine_layout_make(const struct lam_plan *plan,
    const struct lam_kv_config *kv, uint32_t n_rows, uint32_t n_vocab, uint32_t n_samplers,
    uint64_t packed_row_bytes, struct lam_engine_layout *ret_layout, struct lam_err *err);

#endif
