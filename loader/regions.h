/*
 * regions: which regions of a layout have memory, and which is to get it next. Pure.
 *
 * The first one has it from the start. The others follow in any order: the one that somebody waits
 * for, else the first that has none. A place that is larger than a region lies in several, and has
 * memory when all of them have. The owner's lock guards it.
 */
#ifndef LAMINAR_LOADER_REGIONS_H
#define LAMINAR_LOADER_REGIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/policy.h"

#define LAM_REGIONS_NO_PLACE UINT32_MAX

struct lam_regions {
    const struct lam_layout *layout;
    bool *there; /* [n_regions] */
};

/* None is there yet. The layout outlives it. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_regions_init(
    struct lam_regions *regions, const struct lam_layout *layout, struct lam_err *err);
void lam_regions_done(struct lam_regions *regions); /* a zeroed struct is allowed */

/* Region r has memory now. Once for each. */
void lam_regions_add(struct lam_regions *regions, uint32_t r);

/* Has all of the place memory? */
bool lam_regions_have(const struct lam_regions *regions, uint32_t place);

/* The region that is to be next: the first one that the place lacks, or the first of all if it
 * lacks none or there is no such place. False: all are there. */
bool lam_regions_next(const struct lam_regions *regions, uint32_t place, uint32_t *ret_region);

#endif
