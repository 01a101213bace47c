/*
 * held: what the process holds on its device, held against its cap. The plan keeps to the cap by
 * itself; this is for what nobody planned: a library that takes memory with its first call, a
 * driver that grows. So the device is asked again after the first pass, and from then on at most
 * once a second, because asking takes as long as a small pass.
 */
#ifndef LAMINAR_WORKER_HELD_H
#define LAMINAR_WORKER_HELD_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/engine.h"

struct lam_held {
    uint64_t bytes; /* lam_engine_device_bytes, as it was read last */
    uint64_t read_ns;
    bool read_since_start; /* the first pass is behind the reading */
    bool over;             /* the cap; told in the log when it began */
};

/* A first reading. [the engine's thread, as the next] */
void lam_held_init(struct lam_held *held, const struct lam_engine *engine);

/* Behind a step. Logs an error when the cap is passed, and a line when it is kept again. */
void lam_held_look(struct lam_held *held, const struct lam_engine *engine);

#endif
