/*
 * sessions: the state machine of slots.h, connected to the world: streams of workers on one side,
 * reader and checker on the other, the pool socket watching both.
 *
 * One lock guards the machine. Whoever brings an event (a message, the end of a read, the end of a
 * worker) takes it, feeds the event, and carries out what follows: queueing a message on a stream
 * and leaving a load with the reader, neither of which blocks. Reclaiming what a dead worker held
 * is therefore done at once, on the thread that heard of the death, and never by a worker that
 * waits for memory.
 *
 * A session ends when its worker says so (it half-closes the stream), or with the worker's pool
 * connection or process. A stream that is lost in any other way, after an error or because nobody
 * answered pings for a while, ends no lease: a worker that is stopped still has its mapping, and
 * may go on to read what it holds. Such a session is detached: it gets nothing more, and waits for
 * the end of the connection. So nothing that a process might read is ever refilled under it.
 */
#ifndef LAMINAR_LOADER_SESSIONS_H
#define LAMINAR_LOADER_SESSIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/checker.h"
#include "loader/handover.h"
#include "loader/policy.h"
#include "loader/pool.h"
#include "loader/reader.h"
#include "loader/slots.h"
#include "loader/watch.h"
#include "rpc/server.h"

struct lam_sessions;

struct lam_sessions_config {
    const struct lam_file *file; /* both outlive the sessions */
    const struct lam_layout *layout;
    uint32_t n_workers;          /* sessions at a time, as lam_slots_config.n_seats */
    const struct lam_pool *pool; /* outlives them too; of it only what it has so far is read */
    uint64_t pool_offset;        /* where the layout begins in the pool that workers map */
};

/* The config is copied. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_sessions_create(const struct lam_sessions_config *config,
    struct lam_sessions **ret_sessions, struct lam_err *err);

/* After the checker, the handover and the server have stopped. NULL is allowed. */
void lam_sessions_destroy(struct lam_sessions *sessions);

/* Before any event. */
void lam_sessions_connect(struct lam_sessions *sessions, struct lam_reader *reader,
    struct lam_checker *checker, struct lam_handover *handover);

/* ---- streams: on the server's I/O thread; errors end the stream with their status ---- */

/* What a worker asks for in the stream's first message. */
struct lam_session_request {
    const void *token;
    size_t token_bytes;
    const uint32_t *units; /* [n_units] its cycle, as for lam_slots_open */
    size_t n_units;
};

/* Errors: LAM_PERMISSION_DENIED (unknown token), LAM_FAILED_PRECONDITION (the connection or the
 * stream has a session that has not ended), LAM_INVALID_ARGUMENT, LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_sessions_open(struct lam_sessions *sessions,
    struct lam_rpc_call *call, const struct lam_session_request *request, struct lam_err *err);

/* Errors of both: LAM_FAILED_PRECONDITION when the call has no session; those of lam_slots_credit
 * and lam_slots_release. */
LAM_MUST_USE enum lam_status lam_sessions_credit(struct lam_sessions *sessions,
    struct lam_rpc_call *call, uint32_t n_units, struct lam_err *err);
LAM_MUST_USE enum lam_status lam_sessions_release(struct lam_sessions *sessions,
    struct lam_rpc_call *call, uint32_t unit, uint64_t generation, struct lam_err *err);

/* The worker is done with all that it held. No session on the call is fine, here and below. */
void lam_sessions_close(struct lam_sessions *sessions, struct lam_rpc_call *call);

/* The stream is over, and nobody knows what the worker does. */
void lam_sessions_detach(struct lam_sessions *sessions, struct lam_rpc_call *call);

/* As lam_slots_pin and lam_slots_unpin. [any thread] */
LAM_MUST_USE enum lam_status lam_sessions_pin(
    struct lam_sessions *sessions, uint32_t unit, struct lam_err *err);
LAM_MUST_USE enum lam_status lam_sessions_unpin(
    struct lam_sessions *sessions, uint32_t unit, struct lam_err *err);

/* About once a second: tries again what could not be read. [any thread] */
void lam_sessions_tick(struct lam_sessions *sessions);

/* ---- from other threads ---- */

/* Region r of the layout is populated: places that have all of their memory may be used. */
void lam_sessions_back(struct lam_sessions *sessions, uint32_t r);

/* The region to be populated next, and whether a session waits for it. False: none is left. */
bool lam_sessions_next_region(
    struct lam_sessions *sessions, uint32_t *ret_region, bool *ret_awaited);

/* Callbacks of the checker and of the handover; arg: the sessions. */
void lam_sessions_on_issued(void *arg, const struct lam_load *load);
void lam_sessions_on_read(void *arg, const struct lam_load_end *end);
void lam_sessions_on_idle(void *arg);
void lam_sessions_on_load_end(void *arg, const struct lam_load_end *end);
void lam_sessions_on_gone(void *arg, const unsigned char *token, int pid);

/* The file is no longer what the sessions compute on: all of them end with this status and text. */
void lam_sessions_on_lost(void *arg, const struct lam_err *why);

/* Is [file_offset, file_offset + bytes) in the pool for good? Then *ret_pool_offset is where. */
bool lam_sessions_find_kept(
    struct lam_sessions *sessions, uint64_t file_offset, uint64_t bytes, uint64_t *ret_pool_offset);

void lam_sessions_count(struct lam_sessions *sessions, struct lam_slots_counts *ret_counts);

struct lam_sessions_times {
    uint64_t waited_ns[LAM_SLOTS_WAITS]; /* of all sessions, since the start */
    uint64_t lease_oldest_ns;            /* of a transit unit; 0: none is held */
    uint64_t deaths;                     /* of workers with a session */
};

void lam_sessions_time(struct lam_sessions *sessions, struct lam_sessions_times *ret_times);

/* Durations of loads; lives as long as the sessions. */
const struct lam_metric *lam_sessions_unit_seconds(const struct lam_sessions *sessions);

#endif
