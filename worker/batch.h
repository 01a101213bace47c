/*
 * batch: how many consecutive units one request of ours to the loader covers, and how many may be
 * on their way. Pure.
 *
 * A request is a credit message. With a batch of N, credits go back N at a time, after N units have
 * been released, so the loader sees N consecutive units asked for together and reads them as one
 * stretch of the file. Large units fill a drive's queue one by one; small ones do so together only.
 */
#ifndef LAMINAR_WORKER_BATCH_H
#define LAMINAR_WORKER_BATCH_H

#include <stdint.h>

/* What the loader says about the model, and what we do with it. n_units: of the session, which may
 * have none. */
struct lam_batch_facts {
    uint32_t n_units;
    uint64_t unit_bytes_total;
    uint32_t n_slots;       /* streamed units that its pool holds at a time; 0: all units stay */
    uint64_t n_ahead_bytes; /* that keep its drive busy; 0: it does not say */
    uint32_t n_held;        /* units that we hold beside the one in use, while they are copied */
};

struct lam_batch {
    uint32_t n_units;   /* of one request */
    uint32_t n_credits; /* given at the start: at least n_units */
    char why[200];      /* one sentence for the log */
};

/*
 * asked: --layer-batch, 0 for auto: as many units as keep the drive busy, while two batches and one
 * unit fit into the loader's slots. credits: --credits, 0 for two batches, at least three units,
 * and those that we hold; fewer than a batch are raised to it.
 */
struct lam_batch lam_batch_choose(
    const struct lam_batch_facts *facts, uint32_t asked, uint32_t credits);

#endif
