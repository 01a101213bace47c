/*
 * policy: which units stay in the pool, and where everything lies in it. Pure arithmetic.
 *
 * A pass walks all units in a cycle. Under a cyclic scan every recency rule hits nothing as soon as
 * the model is larger than the memory; a fixed subset hits its whole share. So as many units as fit
 * are kept, spread evenly over the cycle (the disk is then asked for bytes at a steady rate), and
 * the others stream through a few lanes. model/kept.h chooses; this gives everything its address.
 *
 *     pool:  [ lane 0 | lane 1 | lane 2 | part | ahead | ahead | kept unit | kept unit | ... ]
 *
 *     lane:  |<---------- place 2i ---------->|<- early ->|     early_bytes + the largest unit
 *            |<- early ->|<--------- place 2i+1 --------->|
 *
 * The two places of a lane overlap: while a unit in one is in use, the first bytes of the next can
 * already be read into the part of the other that nothing else covers, so the drive is busy
 * although a lane holds one unit only. What is left over when no more whole unit fits keeps the end
 * of one unit: its place begins in the last lane and ends with that part.
 *
 * Places ahead are there when a model lies on several drives: each holds a unit that its drive has
 * read while it was another one's turn (loader/slots.h says when).
 *
 * A place holds the aligned window of the file around its unit, so that a direct read lands in it
 * without a copy: the unit's first byte is at (file offset modulo the alignment) within the place.
 * The lanes lie at the front, so that the first region of the pool is enough to begin with.
 */
#ifndef LAMINAR_LOADER_POLICY_H
#define LAMINAR_LOADER_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "model/kept.h"
#include "model/manifest.h"

#define LAM_POLICY_NO_UNIT UINT32_MAX

/* The largest piece that io_uring takes as one fixed buffer. */
#define LAM_POLICY_REGION_BYTES_MAX ((uint64_t)1 << 30)

/* The first regions are smaller, each twice the one before: serving starts with the first, and a
 * machine may take a second to give a GiB of memory. */
#define LAM_POLICY_REGION_BYTES_FIRST ((uint64_t)128 << 20)

struct lam_place {
    uint64_t pool_offset; /* multiple of the alignment */
    uint64_t bytes;       /* multiple of the alignment */
    uint32_t lane;        /* places of one lane may overlap; others: no lane, n_lanes */
};

/* A part of the pool that is populated, registered and opened as a whole. No lane and no kept unit
 * crosses an edge, unless it alone is larger than a region. */
struct lam_region {
    uint64_t pool_offset;
    uint64_t bytes;
};

/*
 * places: n_slots of the lanes first, in each lane's order, the last of them that of part_unit if
 * there is one; then n_ahead, each for any unit; then the kept units in pass order. Sorted by
 * pool_offset and by their ends.
 */
struct lam_layout {
    uint64_t align;
    uint64_t pool_bytes;
    uint32_t n_units; /* with the table, if it is kept: it is the last one then */
    bool has_table;
    uint32_t n_lanes;
    uint32_t n_slots;
    uint32_t n_ahead;
    uint32_t n_kept;   /* of n_units */
    uint32_t n_places; /* n_slots + n_ahead + n_kept */
    uint32_t n_drives;
    uint32_t part_unit;       /* whose last part_bytes stay, or LAM_POLICY_NO_UNIT */
    uint64_t part_bytes;      /* multiple of the alignment */
    bool *kept;               /* [n_units] */
    uint32_t *drives;         /* [n_units] whose turn it is in a pass, < n_drives */
    struct lam_place *places; /* [n_places] */
    uint64_t region_bytes;    /* of the first, at most, and of the others in proportion */
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

struct lam_policy_request {
    const struct lam_unit *units; /* [n_units] */
    uint32_t n_units;             /* > 0 */
    uint64_t align;               /* a power of two */
    uint64_t budget_bytes;
    uint32_t lanes_wanted;  /* > 0: fewer where no more fit, none where all units are kept */
    const uint32_t *drives; /* [n_units] the drive of each, < n_drives; NULL: all on one */
    uint32_t n_drives;
    uint64_t region_bytes; /* of the first region; 0: LAM_POLICY_REGION_BYTES_FIRST */
};

/*
 * Lays the units out in at most budget_bytes. Errors: LAM_RESOURCE_EXHAUSTED when not even one slot
 * fits, naming the smallest --ram that works, and when there is no memory for the tables. Destroy
 * with lam_layout_done.
 */
LAM_MUST_USE enum lam_status lam_policy_layout(
    const struct lam_policy_request *request, struct lam_layout *ret_layout, struct lam_err *err);

/* Puts the model's table (model/manifest.h), whose aligned window takes that many bytes, behind a
 * layout that keeps all units. Errors: LAM_RESOURCE_EXHAUSTED; the layout is as it was. */
LAM_MUST_USE enum lam_status lam_policy_add_table(
    struct lam_layout *layout, uint64_t window_bytes, struct lam_err *err);

void lam_layout_done(struct lam_layout *layout); /* a zeroed struct is allowed */

#endif
