/*
 * engine: the forward pass. Rows of several sequences go through all layers together; each layer is
 * used straight from the pool and released.
 *
 * Memory: one arena, sized at creation from the config: activations, logits, KV pages, page tables.
 * After creation nothing allocates. All functions are for one thread.
 */
#ifndef LAMINAR_WORKER_ENGINE_H
#define LAMINAR_WORKER_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/status.h"
#include "kernels/ops.h"
#include "model/sample.h"
#include "worker/units.h"

struct lam_engine;

struct lam_engine_config {
    const struct lam_kernel_ops *ops;
    uint32_t n_threads;      /* 0: all cores */
    uint32_t n_ctx;          /* positions of one sequence; 0: the model's own, at most 8,192 */
    uint32_t max_seqs;       /* slots */
    uint32_t max_rows;       /* rows of one step */
    uint32_t max_logit_rows; /* rows of one step whose logits are computed; at least max_seqs */
    enum lam_dtype kv_dtype; /* LAM_F16 or LAM_F32 */
    uint32_t page_tokens;    /* positions of a KV page: a power of two */
    uint32_t kv_pages;       /* shared by all sequences; 0: enough for max_seqs full sequences */
};

/* Rows of one sequence in a step: the contract of SequenceRows in proto/laminar/v1/worker.proto. */
struct lam_engine_rows {
    uint32_t seq;
    uint32_t position; /* 0 begins the slot anew; else continues exactly */
    const int32_t *tokens;
    uint32_t n_tokens;
    bool sample;
    uint32_t logit_rows; /* last rows whose logits the caller wants in `logits`; 0 for none */
    struct lam_sample_params params; /* read with position 0 */
    uint32_t n_prompt;               /* read with position 0 */
};

struct lam_engine_result {
    int32_t token;       /* sampled, or -1 */
    const float *logits; /* [logit_rows, V], before penalties; valid until the next step */
};

/* units must outlive the engine. Errors: LAM_RESOURCE_EXHAUSTED names the bytes and the flags to
 * lower; LAM_INVALID_ARGUMENT. */
LAM_MUST_USE enum lam_status lam_engine_create(const struct lam_engine_config *config,
    struct lam_units *units, struct lam_engine **ret_engine, struct lam_err *err);
void lam_engine_destroy(struct lam_engine *engine); /* NULL is allowed */

/* The config with every 0 resolved. */
const struct lam_engine_config *lam_engine_config(const struct lam_engine *engine);

/* Bytes of the arena: exactly what the plan (layout.h) says. */
uint64_t lam_engine_arena_bytes(const struct lam_engine *engine);
const char *lam_engine_backend(const struct lam_engine *engine);

/* Gives a slot's pages back. */
void lam_engine_free(struct lam_engine *engine, uint32_t seq);

/*
 * One pass. rows: [n]; results: [n], filled for each entry.
 * Errors: LAM_INVALID_ARGUMENT (token out of range, position that does not continue, too many rows:
 * nothing was computed); LAM_RESOURCE_EXHAUSTED (no free KV page: nothing was computed); those of
 * lam_units: the pass broke off and the engine is not usable any more.
 */
LAM_MUST_USE enum lam_status lam_engine_step(struct lam_engine *engine,
    const struct lam_engine_rows *rows, uint32_t n, struct lam_engine_result *results,
    struct lam_err *err);

/* False after a pass that broke off: its units are out of step. Only destroy is allowed then. */
bool lam_engine_usable(const struct lam_engine *engine);

#endif
