/*
 * meter: how busy a drive is with our requests: how many are under way, how long each takes, and
 * for which share of the time there is at least one. Any thread; the lock is held for a few
 * additions.
 */
#ifndef LAMINAR_LOADER_METER_H
#define LAMINAR_LOADER_METER_H

#include <pthread.h>
#include <stdint.h>

#include "common/metric.h"

struct lam_meter {
    struct lam_metric latency; /* of requests */

    pthread_mutex_t lock; /* guards the rest */
    uint32_t depth;
    uint64_t busy_since_ns; /* while depth > 0 */
    uint64_t busy_ns;       /* before that */
    uint64_t tick_ns;       /* time and busy time of the last tick */
    uint64_t tick_busy_ns;
    uint64_t busy_ppm; /* in the interval before it */
};

struct lam_meter_counts {
    uint32_t depth;
    uint64_t busy_ns; /* since the start */
    uint64_t busy_ppm;
};

void lam_meter_init(struct lam_meter *meter);
void lam_meter_done(struct lam_meter *meter);

/* A request is handed to the drive at now_ns; later, it has ended. */
void lam_meter_begin(struct lam_meter *meter, uint64_t now_ns);
void lam_meter_end(struct lam_meter *meter, uint64_t begin_ns, uint64_t now_ns);

/* Ends an interval of busy_ppm: about once a second. */
void lam_meter_tick(struct lam_meter *meter, uint64_t now_ns);

void lam_meter_count(struct lam_meter *meter, uint64_t now_ns, struct lam_meter_counts *ret_counts);

#endif
