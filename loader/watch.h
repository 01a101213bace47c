/*
 * watch: the times of sessions, for those who operate a loader: how long leases are held, how long
 * units take to come, and what sessions wait for. Pure: time goes in as a number.
 *
 * Not thread-safe: sessions calls it under its lock.
 */
#ifndef LAMINAR_LOADER_WATCH_H
#define LAMINAR_LOADER_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/metric.h"
#include "common/status.h"
#include "loader/slots.h"

struct lam_watch_lease {
    uint32_t unit; /* UINT32_MAX: none */
    uint64_t since_ns;
};

struct lam_watch_session {
    bool open;
    enum lam_slots_wait wait;
    uint64_t since_ns;
};

#define LAM_WATCH_STEPS 17u

struct lam_watch {
    uint32_t n_slots, n_places;
    uint64_t *load_ns;              /* [n_places] begin of the load under way */
    bool *checking;                 /* [n_places] the bytes are there, and are compared */
    struct lam_watch_lease *leases; /* [LAM_SLOTS_SESSIONS_MAX * n_slots] */
    struct lam_watch_session sessions[LAM_SLOTS_SESSIONS_MAX];
    uint64_t waited_ns[LAM_SLOTS_WAITS];
    uint64_t released_ns[LAM_SLOTS_SESSIONS_MAX]; /* last; 0: not yet */
    uint64_t step_ns[LAM_WATCH_STEPS];            /* the last of all, in a ring; 0 at first */
    uint64_t n_steps;
    uint64_t deaths;                /* of workers with a session */
    struct lam_metric unit_seconds; /* of loads */
};

/* Errors: LAM_RESOURCE_EXHAUSTED. Free with lam_watch_done. */
LAM_MUST_USE enum lam_status lam_watch_init(
    struct lam_watch *watch, uint32_t n_slots, uint32_t n_places, struct lam_err *err);
void lam_watch_done(struct lam_watch *watch); /* a zeroed struct is allowed */

/* Loads: begun; all bytes are there and are compared with their sums; over. */
void lam_watch_load(struct lam_watch *watch, uint32_t place, uint64_t now_ns);
void lam_watch_check(struct lam_watch *watch, uint32_t place);
void lam_watch_loaded(struct lam_watch *watch, uint32_t place, uint64_t now_ns);

/* Leases on transit units. A release that was refused may be told as well. It returns when the
 * lease was granted; 0: there was none. */
void lam_watch_grant(struct lam_watch *watch, uint32_t session, uint32_t unit, uint64_t now_ns);
uint64_t lam_watch_release(struct lam_watch *watch, uint32_t session, uint32_t unit);

/*
 * The session has released a unit that it held since then, n_steps of its cycle after the one that
 * it released before. Returns how long a session works on a unit, kept or not. It may have got the
 * unit before it came to it, or have waited for it: so the shorter one counts, of the hold and of
 * its part of the time between the two releases. Other load on the machine can only lengthen both,
 * in bursts: so the lower quartile of the last LAM_WATCH_STEPS is returned. As long as there are
 * fewer, the missing ones count as 0: a session is taken to be quick until it has shown otherwise.
 */
uint64_t lam_watch_step(struct lam_watch *watch, uint32_t session, uint64_t since_ns,
    uint32_t n_steps, uint64_t now_ns);

/* The session is open, and waits for this from now on. */
void lam_watch_wait(
    struct lam_watch *watch, uint32_t session, enum lam_slots_wait wait, uint64_t now_ns);

/* It has ended, with all its leases. */
void lam_watch_close(struct lam_watch *watch, uint32_t session, uint64_t now_ns);

/* Of the lease that has been held for the longest time; 0: there is none. */
uint64_t lam_watch_oldest_ns(const struct lam_watch *watch, uint64_t now_ns);

/* All time that sessions have waited for this, up to now. */
uint64_t lam_watch_waited_ns(
    const struct lam_watch *watch, enum lam_slots_wait wait, uint64_t now_ns);

#endif
