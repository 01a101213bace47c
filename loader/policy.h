/*
 * policy: which units stay in the pool, and where everything lies in it. Pure arithmetic.
 *
 * A pass walks all units in a cycle. Under a cyclic scan every recency rule hits nothing as soon as
 * the model is larger than the memory; a fixed subset hits its whole share. So as many units as fit
 * are kept, spread evenly over the cycle (the disk is then asked for bytes at a steady rate), and
 * the others stream through a few transit slots, each as large as the largest unit.
 *
 *     pool:  [ slot 0 | slot 1 | slot 2 | kept unit | kept unit | ... ]
 *
 * A place holds the aligned window of the file around its unit, so that a direct read lands in it
 * without a copy: the unit's first byte is at (file offset modulo the alignment) within the place.
 * The slots lie at the front, so that the first region of the pool is enough to begin with.
 */
#ifndef LAMINAR_LOADER_POLICY_H
#define LAMINAR_LOADER_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "model/manifest.h"

/* One is computed on, one is ready, one is on its way. */
#define LAM_POLICY_SLOTS_WANTED 3u

/* The largest piece that io_uring takes as one fixed buffer. */
#define LAM_POLICY_REGION_BYTES_MAX ((uint64_t)1 << 30)

struct lam_place {
    uint64_t pool_offset; /* multiple of the alignment */
    uint64_t bytes;       /* multiple of the alignment */
};

/* A part of the pool that is populated, registered and opened as a whole. No place crosses an edge,
 * unless the place alone is larger than a region. */
struct lam_region {
    uint64_t pool_offset;
    uint64_t bytes;
};

/* places: the slots first, then the kept units in pass order; sorted by pool_offset. */
struct lam_layout {
    uint64_t align;
    uint64_t pool_bytes;
    uint32_t n_units;
    uint32_t n_slots;
    uint32_t n_kept;
    bool *kept;               /* [n_units] */
    struct lam_place *places; /* [n_slots + n_kept] */
    uint32_t n_regions;
    struct lam_region *regions; /* [n_regions], together the whole pool */
};

/* The aligned window of the file around a unit. */
struct lam_window {
    uint64_t file_offset;
    uint64_t bytes;
};

struct lam_window lam_policy_window(const struct lam_unit *unit, uint64_t align);

/* Bytes of a pool that keeps all units: asking for more is of no use. */
uint64_t lam_policy_bytes_full(const struct lam_unit *units, uint32_t n_units, uint64_t align);

/*
 * Lays out units[n_units], n_units > 0, in at most budget_bytes. align: a power of two.
 * Errors: LAM_RESOURCE_EXHAUSTED when not even one slot fits, naming the smallest --ram that works,
 * and when there is no memory for the tables. Destroy with lam_layout_done.
 */
LAM_MUST_USE enum lam_status lam_policy_layout(const struct lam_unit *units, uint32_t n_units,
    uint64_t align, uint64_t budget_bytes, struct lam_layout *ret_layout, struct lam_err *err);

void lam_layout_done(struct lam_layout *layout); /* a zeroed struct is allowed */

#endif
