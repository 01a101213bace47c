/*
 * forward (private to worker/): one pass of the model, and the engine as a pass sees it. engine.c
 * takes the memory, checks each step and fills the pass; forward.c computes it.
 */
#ifndef LAMINAR_WORKER_FORWARD_H
#define LAMINAR_WORKER_FORWARD_H

#include "worker/engine.h"
#include "worker/kv.h"
#include "worker/layout.h"

struct lam_engine {
    struct lam_engine_config config;
    struct lam_units *units;
    const struct lam_model *model;
    struct lam_kernels *kernels;
    struct lam_engine_layout layout;
    struct lam_kv kv;
    void *block;         /* from the heap */
    bool broken;         /* a pass has not come to its end */
    unsigned char *base; /* 64-byte aligned, inside block: layout's offsets count from here */
};

/* One walk through the layers: ids, positions and seqs of the layout are filled for it. */
struct lam_pass {
    uint32_t n_rows;
    uint32_t n_seqs;
    const struct lam_engine_rows *rows; /* [n_seqs] */
};

static inline void *lam_engine_at(const struct lam_engine *engine, uint64_t offset)
{
    return engine->base + offset;
}

/* Rows of this sequence whose logits a pass computes: its last ones. */
static inline uint32_t lam_engine_wanted(const struct lam_engine_rows *rows)
{
    return rows->sample && rows->logit_rows == 0 ? 1 : rows->logit_rows;
}

/* Fills `logits` of the layout: wanted rows, sequence by sequence. Errors: those of lam_units. */
LAM_MUST_USE enum lam_status lam_forward(
    struct lam_engine *engine, const struct lam_pass *pass, struct lam_err *err);

#endif
