/*
 * ring (private to worker/): where streamed pieces lie on the device. A pure function of their
 * sizes.
 *
 * Pieces come in one endless order, are copied and used in it, and have different sizes. All share
 * one region that is at least twice as large as the largest. A piece gets the range whose bytes
 * were needed longest ago, and never one that the piece directly before has: while that one is
 * computed on, this one can be copied. So no copy begins later than it would with two
 * slots of the largest size, and where pieces are small more of them fit: a layer's three
 * (attention, gate with up, down) are in the region at once.
 */
#ifndef LAMINAR_WORKER_RING_H
#define LAMINAR_WORKER_RING_H

#include <stdint.h>

#define LAM_RING_PLACES 48u /* that are remembered */

struct lam_ring_place {
    uint64_t begin, end; /* in the region */
    uint64_t n_before;   /* the first so many pieces of all must have been used, then it is free */
};

struct lam_ring {
    uint64_t bytes;
    uint64_t n; /* placed since init */
    struct lam_ring_place places[LAM_RING_PLACES];
};

void lam_ring_init(struct lam_ring *ring, uint64_t bytes);

/* Places piece number ring->n. bytes_next: of the one after it. Both at most half of the region. */
void lam_ring_add(struct lam_ring *ring, uint64_t bytes, uint64_t bytes_next);

/* Of the last LAM_RING_PLACES pieces. Valid until as many more were added. */
const struct lam_ring_place *lam_ring_at(const struct lam_ring *ring, uint64_t number);

#endif
