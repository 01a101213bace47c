/*
 * pin (private to worker/): pins the loader's pool for the fast copies of a device, piece by piece,
 * on a thread of its own: a large pool takes many seconds, and copies work meanwhile, slowly.
 */
#ifndef LAMINAR_WORKER_PIN_H
#define LAMINAR_WORKER_PIN_H

#include <pthread.h>
#include <stdbool.h>

#include "kernels/device.h"
#include "worker/units.h"

struct lam_pin {
    const struct lam_device_ops *device;
    struct lam_kernels *kernels;
    struct lam_units_pool pool;
    uint64_t piece_bytes;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t stopping;
    bool stop; /* under the lock */
};

/* Starts the thread. It stops at the first piece that cannot be pinned, with a line in the log:
 * copies from there on stay slow. A copy may not cross a multiple of piece_bytes in the pool. The
 * struct must stay where it is until lam_pin_stop. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_pin_start(struct lam_pin *pin, const struct lam_device_ops *device,
    struct lam_kernels *kernels, struct lam_units_pool pool, uint64_t piece_bytes,
    struct lam_err *err);

/* Joins the thread and unpins; after a start that succeeded. No copy from the pool may be under
 * way. */
void lam_pin_stop(struct lam_pin *pin);

#endif
