/*
 * scan: what a session reads in each pass, round after round, of the units that a pool does not
 * keep. Pure arithmetic, and one place for it: the loader decides by this which lanes units stream
 * through (loader/slots.h), and a plan forecasts by it what the disk has to give (model/plan.h).
 *
 * A lane holds one unit, and early_bytes of the next while that one is in use. Units stream through
 * one lane as long as they are given back quickly: the drive is hardly ever idle, the other lanes
 * rest, and what lies in a resting lane is not read again. A session that computes for longer on a
 * unit than early_bytes take to be read lets the drive wait at each; with a second lane to stream
 * through there is no such wait, and one unit more to be read in each pass. What is faster is done,
 * and one lane is kept to where more would gain next to nothing: each change displaces units.
 * Where computing is the limit even so, all lanes are used.
 *
 * Times are counted in bytes: those that the drive reads meanwhile.
 */
#ifndef LAMINAR_MODEL_SCAN_H
#define LAMINAR_MODEL_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "model/kept.h"

struct lam_scan {
    uint32_t n_units;   /* of the session's cycle */
    uint32_t n_transit; /* of these, that the pool does not keep */
    uint32_t n_lanes;   /* of the pool */
    uint64_t slot_bytes;
    uint64_t early_bytes;
    uint64_t part_bytes; /* of one unit that streams, which are kept */
    uint64_t step_bytes; /* while a session works on one unit, kept or not */
};

/* How many lanes the units stream through: 1, 2 or all. */
uint32_t lam_scan_lanes(const struct lam_scan *scan);

/*
 * What a session that is alone reads in a pass, when it has gone round often enough. kept:
 * [table->n_units], from lam_kept_choose; cycle: [table->n_units], those that it goes round, or
 * NULL for all. Exact if no two units that stream differ in size; else within their difference for
 * each resting lane.
 */
uint64_t lam_scan_disk_bytes(const struct lam_kept_table *table, const struct lam_kept *pool,
    const bool *kept, const bool *cycle, uint64_t step_bytes);

/*
 * No more is read than `streamed_bytes`, the sum of any cycle's units that are not kept, less this:
 * what the resting lanes hold for sure.
 */
uint64_t lam_scan_saved_bytes(const struct lam_kept_table *table, const struct lam_kept *pool,
    const bool *kept, uint64_t step_bytes);

#endif
