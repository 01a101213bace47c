/*
 * aside: one thread for work that would keep the I/O thread, and with it every other client,
 * waiting: long texts become tokens here. Work is done in the order in which it was put.
 *
 * Knows nothing of calls and models: run() does what is to be done, and its last act is to tell the
 * I/O thread (lam_rpc_call_nudge). put and drop are for one thread.
 */
#ifndef LAMINAR_GATEWAY_ASIDE_H
#define LAMINAR_GATEWAY_ASIDE_H

#include <stdbool.h>

#include "common/status.h"

/* So much work may be put and not yet dropped: a bound for memory. */
#define LAM_ASIDE_MAX 64u

struct lam_aside;

enum lam_aside_state { LAM_ASIDE_WAITS, LAM_ASIDE_RUNS, LAM_ASIDE_RAN };

/* Part of the caller's object, which belongs to aside from put until destroy() is called. */
struct lam_aside_work {
    void (*run)(struct lam_aside_work *work);     /* on the thread; not if dropped before */
    void (*destroy)(struct lam_aside_work *work); /* once, on either thread, after run */
    /* aside's: */
    struct lam_aside_work *next;
    enum lam_aside_state state;
    bool dropped;
};

/* Starts the thread. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_aside_create(struct lam_aside **ret_aside, struct lam_err *err);

/* When all work is dropped; waits for what still runs. NULL is allowed. */
void lam_aside_destroy(struct lam_aside *aside);

/* Errors: LAM_RESOURCE_EXHAUSTED over LAM_ASIDE_MAX; the work is then still the caller's. */
LAM_MUST_USE enum lam_status lam_aside_put(
    struct lam_aside *aside, struct lam_aside_work *work, struct lam_err *err);

/* The caller wants it no more: due once for all that was put. What waits does not run, what runs is
 * destroyed when it returns, what ran is destroyed now. */
void lam_aside_drop(struct lam_aside *aside, struct lam_aside_work *work);

#endif
