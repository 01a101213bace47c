/*
 * registry: who is attached, and what they say about themselves. No rpc inside: messages go in,
 * answers come out, so that every wrong worker can be played in a unit test.
 *
 * A worker says Hello; the first one with a model is asked for the model's header, from which the
 * gateway makes its tokenizer once. A worker with another model, less context than is promised to
 * clients, or an id that is taken is refused. Nothing that a worker says is trusted before it is
 * checked here.
 *
 * Owned by one thread.
 */
#ifndef LAMINAR_GATEWAY_REGISTRY_H
#define LAMINAR_GATEWAY_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "gateway/report.h"
#include "gateway/schedule.h"
#include "gateway/served.h"
#include "proto/laminar/v1/worker.pb-c.h"

#define LAM_WORKERS_MAX 64u

enum lam_worker_phase {
    LAM_WORKER_NEW,    /* Hello is due */
    LAM_WORKER_HEADER, /* header chunks are due */
    LAM_WORKER_READY,
};

struct lam_worker {
    struct lam_worker *next;
    enum lam_worker_phase phase;
    char id[65];
    char device[33];
    char backend[129];
    uint64_t digest;
    uint64_t header_bytes;
    uint64_t file_bytes;
    uint32_t context_tokens;
    struct lam_sched_caps caps;
    struct lam_report report;
    struct lam_buf header;          /* as far as it has come */
    struct lam_sched_worker *sched; /* the service's: set while it takes steps */
    uint32_t n_steps;               /* the service's: steps without an answer */
    uint64_t step_ns; /* the service's: since when the oldest of them is the worker's turn */
    void *user;
};

struct lam_registry;

/* chat_name: template for every model; NULL: the model file's own. It must outlive the registry. */
LAM_MUST_USE enum lam_status lam_registry_create(
    const char *chat_name, struct lam_registry **ret_registry, struct lam_err *err);

/* After the last worker has left. NULL is allowed. */
void lam_registry_destroy(struct lam_registry *registry);

/* A stream has opened. Errors: LAM_RESOURCE_EXHAUSTED over LAM_WORKERS_MAX or without memory. */
LAM_MUST_USE enum lam_status lam_registry_enter(
    struct lam_registry *registry, void *user, struct lam_worker **ret_worker, struct lam_err *err);
void lam_registry_leave(struct lam_registry *registry, struct lam_worker *worker);

/*
 * The worker's first message. Afterwards it is READY, or HEADER when *ret_want_header.
 * Errors: LAM_INVALID_ARGUMENT names the field, value and range; LAM_FAILED_PRECONDITION: second
 * Hello, another model (both digests are named), too little context; LAM_ALREADY_EXISTS: the id.
 */
LAM_MUST_USE enum lam_status lam_registry_hello(struct lam_registry *registry,
    struct lam_worker *worker, const Laminar__V1__Hello *hello, bool *ret_want_header,
    struct lam_err *err);

/* The next chunk of the header; with the last one the worker becomes READY. Errors: those of
 * lam_served_create, LAM_INVALID_ARGUMENT for a chunk out of order or too long,
 * LAM_FAILED_PRECONDITION if none is due. */
LAM_MUST_USE enum lam_status lam_registry_header_chunk(struct lam_registry *registry,
    struct lam_worker *worker, const Laminar__V1__HeaderChunk *chunk, struct lam_err *err);

/* The model; NULL until a worker has brought one. It stays when workers leave. */
const struct lam_served *lam_registry_served(const struct lam_registry *registry);

/* The first of a list through `next`, in order of arrival; all phases. */
struct lam_worker *lam_registry_workers(const struct lam_registry *registry);

uint32_t lam_registry_n_ready(const struct lam_registry *registry);

#endif
