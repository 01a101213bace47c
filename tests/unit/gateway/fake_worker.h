/*
 * fake_worker: a worker that speaks the protocol over a real stream and computes nothing. Its next
 * token is a letter that depends on all tokens before it, so that what a client reads proves which
 * rows the worker got.
 */
#ifndef LAMINAR_TESTS_UNIT_GATEWAY_FAKE_WORKER_H
#define LAMINAR_TESTS_UNIT_GATEWAY_FAKE_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "rpc/client.h"
#include "tests/unit/gateway/tiny_model.h"

#define FAKE_SLOTS 4u
#define FAKE_CONTEXT_MAX 16384u

struct fake_worker_slot {
    uint32_t epoch;
    uint32_t n;
    bool drawn;
    int32_t token;
    int32_t tokens[FAKE_CONTEXT_MAX];
};

struct fake_worker {
    const char *id;
    const struct tiny_model *model;
    uint64_t step_ns;         /* how long a pass takes */
    uint32_t context;         /* at most FAKE_CONTEXT_MAX */
    bool loud;                /* every token is TINY_LOUD */
    int32_t first_bad_answer; /* from this step on it answers nonsense; 0: never */
    uint32_t held_step;       /* this step is answered when the next one is here; 0: none */
    atomic_bool hangs;        /* for as long as this is set it answers no step */
    struct lam_rpc_channel *channel;
    struct lam_rpc_stream *stream;
    pthread_t thread;
    struct lam_buf next; /* a step that came before the answer to the one before */
    struct fake_worker_slot slots[FAKE_SLOTS];
    atomic_uint steps;  /* with rows */
    atomic_uint shared; /* of those, with rows of several sequences */
    atomic_uint ahead;  /* rows of a token that the gateway did not know yet */
    atomic_uint held;   /* slots in use */
    atomic_bool broken; /* the gateway broke the protocol */
    struct lam_err end; /* how the stream ended; read it after stop */
};

/* The letter that follows tokens[0, n), as a token. */
int32_t fake_next_token(const int32_t *tokens, uint32_t n);

/* Attaches. The fields down to first_bad_answer are set by the caller. Asserts on failure. */
void fake_worker_start(struct fake_worker *worker, const char *target);

/* Breaks the stream, as a crash does, and waits for the thread. */
void fake_worker_kill(struct fake_worker *worker);

/* Waits until the gateway has ended the stream. */
void fake_worker_join(struct fake_worker *worker);

#endif
