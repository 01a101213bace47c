/* plan_fixture: models in headers only, and machines to plan them for. No memory: asserts. */
#ifndef LAMINAR_TESTS_UNIT_MODEL_PLAN_FIXTURE_H
#define LAMINAR_TESTS_UNIT_MODEL_PLAN_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "model/plan.h"

struct plan_fixture {
    struct lam_spec spec;
    struct lam_manifest manifest;
};

/* The shapes of published models. */
struct lam_spec plan_fixture_8b(void);
struct lam_spec plan_fixture_70b(void);

/*
 * A model of that shape. mixed: Q4_K with Q6_K for the head and, in half of the layers, for v and
 * down, as the files called Q4_K_M are; else everything in dtype.
 */
void plan_fixture_init(
    struct plan_fixture *fixture, const struct lam_spec *spec, bool mixed, enum lam_dtype dtype);
void plan_fixture_done(struct plan_fixture *fixture);

/* n GPUs of cap_bytes: 25 GB/s links, 2 TB/s memory, 400 MiB of context. devices: [n]. */
void plan_fixture_gpus(struct lam_plan_device *devices, uint32_t n, uint64_t cap_bytes);
struct lam_plan_device plan_fixture_cpu(void);

/* All of the request given: context 4,096, one sequence, chunks of 512, f16; 256 GiB of RAM, a disk
 * of 7 GB/s. */
struct lam_plan_request plan_fixture_request(
    const struct plan_fixture *fixture, const struct lam_plan_device *devices, uint32_t n_devices);

/* The same numbers on every run. */
struct plan_random {
    uint64_t state; /* not 0 */
};

uint64_t plan_random_in(struct plan_random *random, uint64_t min, uint64_t max);

/* A small model of any shape, in one number format or several. */
void plan_random_model(struct plan_random *random, struct plan_fixture *fixture);

/* Everything that must be true of a plan that fits; asserts. */
void plan_check(const struct lam_plan_request *request, const struct lam_plan *plan);

#endif
