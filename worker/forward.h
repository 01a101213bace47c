/*
 * forward (private to worker/): one pass of the model, and the engine as a pass sees it. start.c
 * plans and takes the memory, engine.c checks each step and fills the pass, forward.c computes it.
 *
 * Two memories. What kernels touch lies in the arena, at the plan's offsets, and is a device's
 * where there is one. What the engine itself reads and writes lies in the host block, at the
 * layout's. On a CPU the host block is a part of the arena.
 */
#ifndef LAMINAR_WORKER_FORWARD_H
#define LAMINAR_WORKER_FORWARD_H

#include <string.h>

#include "kernels/cpu/pool.h"
#include "worker/engine.h"
#include "worker/kv.h"
#include "worker/layout.h"
#include "worker/weights.h"

struct lam_engine {
    struct lam_engine_config config;
    struct lam_units *units;
    const struct lam_model *model;
    struct lam_kernels *kernels;
    struct lam_kernel_config shapes; /* that the kernels were made for */
    struct lam_plan plan;
    uint64_t cap_bytes;
    struct lam_engine_layout layout;
    struct lam_kv kv;
    unsigned char *arena;      /* the plan's offsets count from here */
    unsigned char *host;       /* layout's offsets count from here */
    void *arena_block;         /* CPU: from the heap */
    void *host_block;          /* device: from the heap */
    float *logits;             /* [max_logit_rows, V] for the host */
    int32_t *argmaxes;         /* device: [max_logit_rows] tokens of a pass without logits */
    struct lam_pool *samplers; /* threads that draw; NULL: the engine's own */
    struct lam_weights *weights;
    uint32_t *arranged; /* [n_pieces] bits of enum lam_tensor_role; NULL: none (arrange.h) */
    struct lam_pass_profile profile;
    void (*begun)(void *arg); /* lam_engine_on_begun */
    void *begun_arg;
    bool told;         /* begun was called in this pass */
    uint64_t floor_ns; /* of every pass */
    bool broken;       /* a pass has failed: only destroy is allowed */
};

/* One walk through the layers: ids, positions and seqs of the layout are filled for it, and what
 * kernels read of them is uploaded. */
struct lam_pass {
    uint32_t n_rows;
    uint32_t n_seqs;
    const struct lam_engine_rows *rows; /* [n_seqs] */
    bool argmax; /* the device chooses the tokens; no logits come to the host */
};

/* Where kernels find something: a device's address where there is a device. */
static inline void *lam_engine_at(const struct lam_engine *engine, uint64_t offset)
{
    return engine->arena + offset;
}

static inline void *lam_engine_host(const struct lam_engine *engine, uint64_t offset)
{
    return engine->host + offset;
}

static inline const struct lam_plan_buffers *lam_engine_buffers(const struct lam_engine *engine)
{
    return &engine->plan.arenas[0].buffers;
}

/* To the arena, in order with the operations; `from` may be reused at once. */
static inline void lam_engine_upload(
    const struct lam_engine *engine, uint64_t offset, const void *from, uint64_t bytes)
{
    if (engine->config.device)
        engine->config.device->upload(engine->kernels, engine->arena + offset, from, bytes);
    else
        memcpy(engine->arena + offset, from, bytes);
}

/* The pass is under way, as lam_engine_on_begun has it: only the first call of a pass counts. */
static inline void lam_engine_tell_begun(struct lam_engine *engine)
{
    if (engine->begun && !engine->told)
        engine->begun(engine->begun_arg);
    engine->told = true;
}

/* Rows of this sequence whose logits a pass computes: its last ones. */
static inline uint32_t lam_engine_wanted(const struct lam_engine_rows *rows)
{
    return rows->sample && rows->logit_rows == 0 ? 1 : rows->logit_rows;
}

/* Fills `logits` in the arena: wanted rows, sequence by sequence; *ret_n_wanted of them. On a
 * device all of it is queued when this returns. Errors: those of units and weights. */
LAM_MUST_USE enum lam_status lam_forward(struct lam_engine *engine, const struct lam_pass *pass,
    uint32_t *ret_n_wanted, struct lam_err *err);

#endif
