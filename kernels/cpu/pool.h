/*
 * pool: a few threads that share the chunks of one call at a time. Built for calls of 2 to 1000 us
 * that follow each other closely: between calls a worker spins for some 30 us, then sleeps in the
 * kernel.
 *
 * The caller is one of the workers, and a call is complete when its chunks are, not when every
 * worker has looked at it: on a busy machine a worker that the scheduler holds back costs
 * parallelism, never a wait. One thread calls lam_pool_run; chunks run on any thread, in any order.
 */
#ifndef LAMINAR_KERNELS_CPU_POOL_H
#define LAMINAR_KERNELS_CPU_POOL_H

#include <stdint.h>

#include "common/status.h"

struct lam_pool;

/* Runs one chunk. worker: 0 (the caller) .. n_threads - 1, for scratch. */
typedef void (*lam_chunk_fn)(void *arg, uint32_t chunk, uint32_t worker);

/* n_threads: 1 or more, counting the caller. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_pool_create(
    uint32_t n_threads, struct lam_pool **ret_pool, struct lam_err *err);

/* Joins the threads. NULL is allowed. */
void lam_pool_destroy(struct lam_pool *pool);

/* fn(arg, chunk, worker) for each chunk in [0, n_chunks); returns when all are done. */
void lam_pool_run(struct lam_pool *pool, lam_chunk_fn fn, void *arg, uint32_t n_chunks);

#endif
