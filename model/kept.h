/*
 * kept: what a pool of given size keeps of a model between passes, and what it leaves for the units
 * that stream. Pure arithmetic, and one place for it: the loader lays its pool out by this
 * (loader/policy.h), and a plan forecasts by it what the loader will do (model/plan.h).
 *
 * A place holds the aligned window of the file around its unit. Unless all fit, there are lanes,
 * each for the largest unit and a piece of the next (loader/policy.h draws them); of the rest the
 * largest evenly spread set that fits is kept, then each smaller unit that fits beside it, then the
 * end of one unit. The table (model/manifest.h) saves no reading in a pass, so it is kept by what
 * is left when all units are, or not at all.
 *
 * Several drives. Where a pass comes to runs of units on one drive each, the others would stand
 * still meanwhile. Memory in which they read ahead of their turn then saves more than memory that
 * keeps units: it is filled by a drive that has nothing else to do, once in each round over the
 * drives. It is made as large as it takes for all of them to read all the time, and not larger.
 * With F bytes in all, O of them not on the fullest of D drives, R runs a pass, K kept and A ahead:
 * the drives but the fullest have O (F - K) / F bytes to read, half of them ahead of their turn, in
 * R / D rounds; so A = (F - K) r with r = O / 2F * D / R.
 *
 * Sizes come from a checked manifest, whose extents lie inside one file: their sum stays far below
 * 2^63, so plain arithmetic is safe here.
 */
#ifndef LAMINAR_MODEL_KEPT_H
#define LAMINAR_MODEL_KEPT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "model/manifest.h"

/* One is computed on, one is ready, one is on its way; so for two workers in phase. */
#define LAM_KEPT_LANES_WANTED 3u

/* What every choice needs: sizes of the units, in pass order. */
struct lam_kept_table {
    uint32_t n_units;
    uint64_t align;
    uint64_t *windows;   /* [n_units] bytes of the aligned window around each */
    uint64_t *spread;    /* [n_units + 1]: bytes of k evenly spread units */
    uint64_t slot_bytes; /* the largest window */
    uint64_t full_bytes; /* of all windows: a pool of this size keeps the model */
    double full_ratio;   /* of the bytes, the part on the fullest drive */
    double ahead_ratio;  /* the r above; 0: one drive has, or all have, every unit */
};

/* units: [n_units], n_units > 0. align: a power of two. False: no memory. */
LAM_MUST_USE bool lam_kept_table_init(
    struct lam_kept_table *table, const struct lam_unit *units, uint32_t n_units, uint64_t align);

/* drives: [n_units] the drive of each unit, < n_drives; each has the same speed, as far as is
 * known. Not called: there is one. */
void lam_kept_table_set_drives(
    struct lam_kept_table *table, const uint32_t *drives, uint32_t n_drives);

void lam_kept_table_done(struct lam_kept_table *table); /* a zeroed struct is allowed */

/* What a pool of all units needs beside them to keep the model's table too; 0: it has none. */
uint64_t lam_kept_embedding_bytes(const struct lam_manifest *manifest, uint64_t align);

struct lam_kept {
    uint32_t n_lanes;     /* 0: all units are kept */
    uint64_t slot_bytes;  /* of a lane: the largest unit; 0 without lanes */
    uint64_t early_bytes; /* of a lane: what is read ahead of the next unit */
    uint64_t part_bytes;  /* the end of one unit, where no whole one fits; multiple of align */
    uint32_t n_ahead;     /* places of slot_bytes for what drives read ahead of their turn */
    uint32_t n_kept;
    uint64_t pool_bytes; /* all of it together, at most the budget */
};

/*
 * Marks the kept units in kept[n_units]. budget_bytes is at least table->slot_bytes or
 * table->full_bytes (asserted). lanes_wanted > 0: there are fewer where no more fit.
 */
void lam_kept_choose(const struct lam_kept_table *table, uint64_t budget_bytes,
    uint32_t lanes_wanted, bool *kept, struct lam_kept *ret_kept);

/* The time of a pass that reads so many bytes, over that of one drive for them: what drives read
 * ahead of their turn costs none. 1 with one drive; with enough places ahead, the part that the
 * fullest drive has. */
double lam_kept_drives_share(
    const struct lam_kept_table *table, uint32_t n_ahead, uint64_t disk_bytes);

#endif
