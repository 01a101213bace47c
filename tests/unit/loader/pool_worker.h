/*
 * pool_worker: the worker's side of the loader's protocol, step by step, for tests: each step is a
 * function, so a test can leave one out or do it twice. Asserts where a step has to work.
 */
#ifndef LAMINAR_TESTS_UNIT_LOADER_POOL_WORKER_H
#define LAMINAR_TESTS_UNIT_LOADER_POOL_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/mem.h"
#include "model/gguf.h"
#include "model/manifest.h"
#include "model/spec.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "proto/pool_socket.h"
#include "rpc/client.h"

struct pool_worker {
    struct lam_rpc_channel *channel;
    struct lam_rpc_stream *stream;
    uint64_t model;        /* handle for sessions and extents: 1 from pool_worker_connect on */
    uint64_t timeout_ns;   /* of unary calls; 0: one for what hangs */
    const uint32_t *units; /* [n_units] the cycle of sessions; none: all */
    size_t n_units;
    int connection; /* to the pool socket; -1: none */
    const unsigned char *pool;
    uint64_t pool_bytes;
    unsigned char token[LAM_POOL_TOKEN_BYTES];
    struct lam_arena arena;
    struct lam_arena stats_arena; /* of the last statistics alone */
    struct lam_buf received;
    struct lam_buf sending;
};

/* What the loader said: one of the two. */
struct pool_event {
    bool fault;
    bool kept;
    uint32_t unit;
    uint64_t generation;
    uint64_t pool_offset;
    uint64_t pool_ready_bytes, pool_ready_ns;
    int32_t status;
    char reason[512];
};

/* Takes the pool at DIR/pool.sock and a channel to unix:DIR/loader.sock. */
void pool_worker_connect(struct pool_worker *worker, const char *dir);
/* False when there is no loader, or it dies meanwhile; then there is nothing to disconnect. */
bool pool_worker_try_connect(struct pool_worker *worker, const char *dir);
void pool_worker_disconnect(struct pool_worker *worker); /* whatever is still open */

/* Opens the stream and the session. False: there is no loader any more. */
void pool_worker_open(struct pool_worker *worker);
bool pool_worker_try_open(struct pool_worker *worker);
void pool_worker_credit(struct pool_worker *worker, uint32_t n_units);
void pool_worker_release(struct pool_worker *worker, uint32_t unit, uint64_t generation);

/* The next event; LAM_OK, or how the stream ended (a good end is LAM_CANCELLED). */
enum lam_status pool_worker_next(
    struct pool_worker *worker, struct pool_event *ret_event, struct lam_err *err);

/* Unary calls. The answer lives until the next one, or the next event. */
Laminar__V1__RegisterModelResponse *pool_worker_register(
    struct pool_worker *worker, const char *path, struct lam_err *err);
/* What they return lives until the next call of either, whatever comes in between. */
Laminar__V1__GetStatsResponse *pool_worker_stats(struct pool_worker *worker); /* of all models */
Laminar__V1__GetStatsResponse *pool_worker_stats_of(struct pool_worker *worker, uint64_t model);
enum lam_status pool_worker_pin(
    struct pool_worker *worker, uint32_t *units, size_t n_units, struct lam_err *err);
enum lam_status pool_worker_unpin(
    struct pool_worker *worker, uint32_t *units, size_t n_units, struct lam_err *err);
enum lam_status pool_worker_extent(struct pool_worker *worker, uint64_t *offsets, size_t n_offsets,
    uint64_t bytes_each, Laminar__V1__ReadExtentResponse **ret_response, struct lam_err *err);

/* Verify: a stream of its own, to be destroyed by the caller. What comes lives until the next call;
 * *ret_response is NULL at a good end. */
struct lam_rpc_stream *pool_worker_verify(struct pool_worker *worker);
enum lam_status pool_worker_verified(struct pool_worker *worker, struct lam_rpc_stream *stream,
    Laminar__V1__VerifyResponse **ret_response, struct lam_err *err);

#endif
