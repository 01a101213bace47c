/*
 * fake_units: lam_units without a loader, for tests of the engine: units come from a tiny model in
 * memory, into a pool of a few places. A place is overwritten as soon as its unit is released, and
 * with the next unit as soon as that is granted, so that use after release does not go unnoticed.
 */
#ifndef LAMINAR_TESTS_UNIT_WORKER_FAKE_UNITS_H
#define LAMINAR_TESTS_UNIT_WORKER_FAKE_UNITS_H

#include "tests/unit/worker/tiny_model.h"
#include "worker/units.h"

struct lam_units *fake_units_create(const struct tiny_model *tiny);

/* Before a session: how many units the pool holds at a time (2 at first; the test dies when a
 * worker blocks for a unit that has no place), and a seed for units that come late: 0, never. */
void fake_units_set(struct lam_units *units, uint32_t n_places, uint32_t seed);

/* The nth acquire from now (1: the next) fails, and all after it; 0: none. */
void fake_units_fail_acquire(struct lam_units *units, uint64_t nth);

/* Units held right now. */
uint32_t fake_units_held(const struct lam_units *units);

/* Acquires so far. */
uint64_t fake_units_acquired(const struct lam_units *units);

/* From now on all units are kept, and are here at once. */
void fake_units_keep(struct lam_units *units);

/* Before an engine is made: the embedding's rows are kept too. */
void fake_units_keep_table(struct lam_units *units);

/* From now on no unit is here before it is asked for, and each acquire takes so long, as `sleep`
 * passes the time. */
void fake_units_slow(struct lam_units *units, uint64_t ns, void (*sleep)(uint64_t ns));

/* Embedding rows so far that a loader would have been asked for. */
uint64_t fake_units_gathered(const struct lam_units *units);

/* Sessions so far. */
uint32_t fake_units_sessions(const struct lam_units *units);

#endif
