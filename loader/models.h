/*
 * models: the models of one loader, and how they divide its pool.
 *
 * Each file is there once, however often and under whatever names it was given (links, other
 * spellings of a path): all of its workers share one copy of every byte. A model's handle is its
 * number, from 1. Files are opened at the start only: a worker names one of them, so it cannot make
 * the loader read whatever the loader's user may read.
 *
 * The pool is divided by size. First each model gets what it needs to stream well (three of its
 * largest units); the rest goes to the models in proportion to what they still lack to be kept
 * whole. A pool that is too small for the first step is divided in proportion to it. What is left
 * when all are kept whole goes to embedding tables, one model after the other.
 *
 * Immutable after lam_models_start, so any thread may look things up.
 */
#ifndef LAMINAR_LOADER_MODELS_H
#define LAMINAR_LOADER_MODELS_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/share.h"

#define LAM_MODELS_MAX 16u

struct lam_model_name {
    char *given; /* as on the command line */
    char *real;  /* absolute, without links */
    uint32_t share;
};

struct lam_models {
    struct lam_share shares[LAM_MODELS_MAX];
    uint32_t n_shares;
    struct lam_model_name names[LAM_MODELS_MAX];
    uint32_t n_names;
    uint64_t pool_bytes;
};

/* options: of each model. Errors: those of lam_share_open. Close afterwards either way. models:
 * zeroed. */
LAM_MUST_USE enum lam_status lam_models_open(struct lam_models *models, const char *const *paths,
    size_t n_paths, const struct lam_share_options *options, struct lam_err *err);

/* Bytes of budget_bytes for each share, by the rule above. ret_bytes: [n_shares]. */
void lam_models_split(const struct lam_models *models, uint64_t budget_bytes, uint64_t *ret_bytes);

/* Lays out all models within --ram; sets pool_bytes. Errors: those of lam_memory_budget and
 * lam_policy_layout. */
LAM_MUST_USE enum lam_status lam_models_lay_out(
    struct lam_models *models, const char *ram, struct lam_err *err);

/* Populates the first region of each model and starts its threads. */
LAM_MUST_USE enum lam_status lam_models_start(
    struct lam_models *models, struct lam_pool *pool, struct lam_err *err);

/* A zeroed struct is allowed. */
void lam_models_close(struct lam_models *models);

/* NULL: no such model. A path is compared as text with the name given and with the real one; "" is
 * the first model. */
struct lam_share *lam_models_at(struct lam_models *models, uint64_t handle);
uint64_t lam_models_find(const struct lam_models *models, const char *path); /* 0: none */

#endif
