/*
 * fake_units: worker/units.h over a tiny_model, linked in place of the real one. A unit is copied
 * to a fresh place at acquire and overwritten with NaNs at release, so that any later use of it
 * spoils the result.
 */
#ifndef LAMINAR_TESTS_UNIT_WORKER_FAKE_UNITS_H
#define LAMINAR_TESTS_UNIT_WORKER_FAKE_UNITS_H

#include "tests/unit/worker/tiny_model.h"
#include "worker/units.h"

struct lam_units *fake_units_create(const struct tiny_model *tiny);

/* The nth acquire from now (1-based) fails with a disk's fault; 0: none does. */
void fake_units_fail_acquire(struct lam_units *units, uint64_t nth);

/* Units acquired and not yet released. */
uint32_t fake_units_held(const struct lam_units *units);

/* Units acquired since creation. */
uint64_t fake_units_acquired(const struct lam_units *units);

#endif
