/*
 * lease: which units of the model lie in the pool for us right now: the worker's end of
 * Loader.Stream (proto/laminar/v1/loader.proto).
 *
 * One background thread receives; acquire blocks on it. We begin with `credits`, and released units
 * give them back, `batch` at a time. Kept units cost none: the loader grants each of them once, as
 * soon as it is there, and they stay ours; the others come ahead of use, in the order of a pass. A
 * unit that is here may be used even after the loader is gone.
 */
#ifndef LAMINAR_WORKER_LEASE_H
#define LAMINAR_WORKER_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "model/manifest.h"
#include "rpc/client.h"
#include "worker/pool_map.h"
#include "worker/units.h"

struct lam_leases;

struct lam_lease_config {
    struct lam_rpc_channel *channel;
    const char *loader; /* its address, for error texts; must outlive the leases */
    const struct lam_manifest *manifest;
    const struct lam_pool_map *pool;
    uint64_t model;        /* the loader's handle */
    const uint32_t *cycle; /* [n_cycle], ascending; copied. NULL: every unit of a pass */
    uint32_t n_cycle;
    bool table; /* the table is leased as well (model/manifest.h), if it is kept */
    bool once;  /* one walk of the cycle: no more credits than units are given */
    uint32_t credits;
    uint32_t batch;      /* credits of one message; 1..credits */
    uint64_t timeout_ns; /* for one unit */
    /* Called once from the background thread when the loader ends the stream; may be NULL. */
    void (*on_lost)(void *arg);
    void *lost_arg;
};

/* Opens the stream and gives the first credits. What the config points to must outlive the leases,
 * but for the cycle. Errors: those of the stream; LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_leases_create(
    const struct lam_lease_config *config, struct lam_leases **ret_leases, struct lam_err *err);
/* Gives everything back and waits up to half a second for the loader to hear it. NULL is
 * allowed. */
void lam_leases_destroy(struct lam_leases *leases);

/* As lam_units_ready, lam_units_acquire, lam_units_release. Both go round the cycle, and a unit is
 * released before it is acquired again (asserted). */
LAM_MUST_USE bool lam_leases_ready(struct lam_leases *leases, uint32_t index);
LAM_MUST_USE enum lam_status lam_leases_acquire(
    struct lam_leases *leases, uint32_t index, const void **ret_base, struct lam_err *err);
void lam_leases_release(struct lam_leases *leases, uint32_t index);

/* As lam_units_find_kept. */
const void *lam_leases_find_kept(struct lam_leases *leases, uint32_t index);

/* LAM_OK, or why the stream ended. [any thread] */
LAM_MUST_USE enum lam_status lam_leases_check(struct lam_leases *leases, struct lam_err *err);

/* Acquire fails with LAM_CANCELLED from now on. [any thread] */
void lam_leases_stop(struct lam_leases *leases);

/* As lam_units_pool_ready, of this session. [any thread] */
struct lam_pool_ready lam_leases_pool_ready(struct lam_leases *leases);

/* Nanoseconds that acquire has waited. */
uint64_t lam_leases_stall_ns(const struct lam_leases *leases);

#endif
