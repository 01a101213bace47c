/*
 * recording: the time of GET /trace?seconds=N: whoever asks is suspended, spans are recorded for so
 * long, and then he is resumed. One at a time, with a thread of its own for as long as it lasts,
 * because the ops thread has other requests to answer. Private to rpc/.
 */
#ifndef LAMINAR_RPC_RECORDING_H
#define LAMINAR_RPC_RECORDING_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/trace.h"

#define LAM_RECORDING_SECONDS_MAX 60

struct lam_recording {
    void (*suspend)(void *asker);
    void (*resume)(void *asker);
    void *asker;
    pthread_t thread;
    struct lam_trace_mark mark;
    uint64_t end_ns;
    bool running; /* from begin to end; of the thread that calls these */

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t changed;
    bool suspended;
    bool closed;
};

void lam_recording_init(
    struct lam_recording *recording, void (*suspend)(void *asker), void (*resume)(void *asker));

/*
 * Calls suspend(asker), records from now on, and calls resume(asker) after duration_ns, from
 * another thread. [one thread, which calls lam_recording_end as well]
 * Errors, without a call: LAM_ALREADY_EXISTS (one is running), LAM_UNAVAILABLE (closed),
 * LAM_RESOURCE_EXHAUSTED (no thread).
 */
LAM_MUST_USE enum lam_status lam_recording_begin(
    struct lam_recording *recording, uint64_t duration_ns, void *asker, struct lam_err *err);

/* After its resume: another one may begin. Nothing when none runs. */
void lam_recording_end(struct lam_recording *recording);

/* Cuts a running one short; afterwards nobody is suspended any more. [any thread] */
void lam_recording_close(struct lam_recording *recording);

void lam_recording_done(struct lam_recording *recording); /* closed and ended */

#endif
