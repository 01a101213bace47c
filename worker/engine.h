/*
 * engine: the forward pass. Rows of several sequences go through all layers together; on a CPU each
 * layer is used straight from the pool, on a device the layers that do not stay flow through slots.
 *
 * Memory: what the plan (model/plan.h) says, to the byte: one arena for everything that kernels
 * touch, in host memory for a CPU, and the one allocation of the process on a device. After
 * creation nothing allocates. All functions are for one thread.
 */
#ifndef LAMINAR_WORKER_ENGINE_H
#define LAMINAR_WORKER_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/status.h"
#include "kernels/device.h"
#include "kernels/ops.h"
#include "model/plan.h"
#include "model/sample.h"
#include "worker/profile.h"
#include "worker/units.h"

struct lam_engine;

/* What the hardware does, in bytes and operations per second: for the plan. 0: a stated default. */
struct lam_engine_rates {
    double disk;
    double link;
    double device_memory;
    double product;       /* weights in products with one row; 0: as device_memory */
    double layer_seconds; /* beside products; 0: as the plan assumes */
    double device_flops;
    double host_memory;
};

/* What is asked for; 0 is "not given", which is the plan's to choose. */
struct lam_engine_config {
    const struct lam_kernel_ops *ops;
    const struct lam_device_ops *device; /* NULL: the ops compute in host memory */
    uint32_t device_index;               /* among the visible devices */
    const char *vram;                    /* model/vram.h, for this one device; NULL: auto */
    uint32_t n_threads;                  /* 0: all cores */
    uint32_t n_ctx;                      /* positions of one sequence */
    uint32_t max_seqs;                   /* slots */
    uint32_t max_rows;                   /* rows of one step */
    uint32_t max_logit_rows; /* rows of one step whose logits are computed; 0: max_seqs */
    bool kv_given;
    enum lam_dtype kv_dtype; /* read when kv_given */
    uint32_t page_tokens;    /* positions of a KV page: a power of two; 0: 64 */
    uint32_t kv_pages;       /* shared by all sequences; 0: enough for max_seqs full sequences */
    uint32_t layer_batch;    /* layers in one slot of a device */
    enum lam_objective objective;
    struct lam_engine_rates rates;
    uint64_t pin_bytes; /* of the pool, in one piece; 0: 1 GiB. Tests have small pools */
};

/* Rows of one sequence in a step: the contract of SequenceRows in proto/laminar/v1/worker.proto. */
struct lam_engine_rows {
    uint32_t seq;
    uint32_t position; /* 0 begins the slot anew; else continues exactly */
    const int32_t *tokens;
    uint32_t n_tokens;
    bool sampled; /* one row, of the token that was drawn last for the slot; tokens is not read */
    bool sample;
    uint32_t logit_rows; /* last rows whose logits the caller wants in `logits`; 0 for none */
    struct lam_sample_params params; /* read with position 0 */
    uint32_t n_prompt;               /* read with position 0 */
};

struct lam_engine_result {
    int32_t token;       /* sampled, or -1 */
    const float *logits; /* [logit_rows, V], before penalties; valid until the next step */
};

/*
 * Plans, takes the memory, loads what stays on a device, opens the session of the rest. units must
 * outlive the engine and have no session. Errors: LAM_RESOURCE_EXHAUSTED: it does not fit, with the
 * arithmetic and the flags to lower; LAM_INVALID_ARGUMENT; those of units and device.
 */
LAM_MUST_USE enum lam_status lam_engine_create(const struct lam_engine_config *config,
    struct lam_units *units, struct lam_engine **ret_engine, struct lam_err *err);
void lam_engine_destroy(struct lam_engine *engine); /* NULL is allowed */

/* The config with every 0 resolved. */
const struct lam_engine_config *lam_engine_config(const struct lam_engine *engine);

/* What the memory was built from: one device, fits. Lives as long as the engine. */
const struct lam_plan *lam_engine_plan(const struct lam_engine *engine);

/* All that the process may hold on the device; CPU: 0, the system's limit. */
uint64_t lam_engine_cap_bytes(const struct lam_engine *engine);

/* What the process holds on the device, asked of the device now; 0 when it cannot say exactly. CPU:
 * the arena. */
uint64_t lam_engine_device_bytes(const struct lam_engine *engine);

/* Pages of the KV cache that sequences hold, of lam_engine_config()->kv_pages. */
uint32_t lam_engine_kv_pages_used(const struct lam_engine *engine);

/* The backend in words, for logs and `laminar ps`; lives as long as the engine. */
const char *lam_engine_backend(const struct lam_engine *engine);

/* Of the last step; zeroed before the first. */
const struct lam_pass_profile *lam_engine_profile(const struct lam_engine *engine);

/* `begun` is called once in each pass, on the engine's thread, as soon as it is under way: the
 * device has work, or the engine itself is about to wait or to compute. It is the place for work
 * that must not delay the beginning of a pass. NULL: nothing is called. */
void lam_engine_on_begun(struct lam_engine *engine, void (*begun)(void *arg), void *arg);

/* Gives a slot's pages back. */
void lam_engine_free(struct lam_engine *engine, uint32_t seq);

/*
 * One pass. rows: [n]; results: [n], filled for each entry.
 * Errors: LAM_INVALID_ARGUMENT (token out of range, position that does not continue, no token was
 * drawn to go on with, too many rows: nothing was computed); LAM_RESOURCE_EXHAUSTED (no free KV
 * page: nothing was computed); those of lam_units: the pass broke off and the engine is not usable
 * any more.
 */
LAM_MUST_USE enum lam_status lam_engine_step(struct lam_engine *engine,
    const struct lam_engine_rows *rows, uint32_t n, struct lam_engine_result *results,
    struct lam_err *err);

/* False after a pass that broke off: its units are out of step. Only destroy is allowed then. */
bool lam_engine_usable(const struct lam_engine *engine);

#endif
