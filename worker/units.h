/*
 * units: a worker's view of the loader: the model's headers, leases on units in the shared pool,
 * embedding rows.
 *
 * Leases belong to a session, which goes round a cycle of units: those that a device keeps are
 * taken once, in a session of their own, then another one streams the rest. One background thread
 * per session receives from the loader's stream; acquire blocks on it. Kept units are leased once
 * and then cost nothing; the others come ahead of use, as many as `credits`, and go back at
 * release. All functions are for one thread (the engine's), except those marked
 * [any thread].
 */
#ifndef LAMINAR_WORKER_UNITS_H
#define LAMINAR_WORKER_UNITS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "model/gguf.h"
#include "model/manifest.h"
#include "model/spec.h"

struct lam_units;

struct lam_units_config {
    const char *loader;      /* gRPC address: "unix:/run/laminar/loader.sock" */
    const char *pool_socket; /* path */
    uint32_t credits;        /* units in flight ahead; 0: two batches, at least 3 */
    uint32_t layer_batch;    /* consecutive units of one request; 0: auto (worker/batch.h) */
    uint32_t max_rows;       /* embedding rows of one gather */
    uint64_t timeout_ns;     /* to reach the loader at start, and for one unit or row */
    const char *model;       /* as the loader sees it; NULL: the one that it was started with */
    /* Called once, from the background thread, when the loader is lost; may be NULL. */
    void (*on_lost)(void *arg);
    void *lost_arg;
};

/* The model as every part of a worker sees it; lives as long as the units. */
struct lam_model {
    const void *header;
    uint64_t header_bytes;
    uint64_t file_bytes;
    uint64_t digest; /* XXH3 of the header bytes */
    struct lam_gguf *gguf;
    struct lam_spec spec;
    struct lam_manifest manifest;
};

/* What a session is for. Zeroed: every unit, again and again, one held at a time. */
struct lam_units_session {
    const uint32_t *cycle; /* [n_units], ascending; copied. NULL: all of a pass */
    uint32_t n_units;
    uint32_t n_ahead; /* units that are held beside the one acquired last */
    bool once;        /* the cycle is walked a single time */
    bool rows;        /* embedding rows are read where the loader keeps them, as far as it does */
};

/* The memory that all units lie in, read-only. */
struct lam_units_pool {
    const unsigned char *base;
    uint64_t bytes;
};

/*
 * Takes the pool from the pool socket, maps it read-only, reads and checks the model's header.
 * Errors: LAM_UNAVAILABLE (no loader; the address is named), those of the model parsers.
 */
LAM_MUST_USE enum lam_status lam_units_connect(
    const struct lam_units_config *config, struct lam_units **ret_units, struct lam_err *err);

/* Wakes a blocked acquire with LAM_CANCELLED and makes all later calls fail so. [any thread] */
void lam_units_stop(struct lam_units *units);
void lam_units_destroy(struct lam_units *units); /* NULL is allowed */

const struct lam_model *lam_units_model(const struct lam_units *units);

struct lam_units_pool lam_units_pool(const struct lam_units *units);

/* Opens the lease stream; one session at a time. Errors: LAM_UNAVAILABLE, LAM_CANCELLED after
 * lam_units_stop. */
LAM_MUST_USE enum lam_status lam_units_open(
    struct lam_units *units, const struct lam_units_session *session, struct lam_err *err);

/* Gives all units back and ends the session, if there is one. */
void lam_units_close(struct lam_units *units);

/* How many units one request of the session covers, and why: one sentence for the log. */
const char *lam_units_batch(const struct lam_units *units);

/* LAM_OK, or why the loader is lost. [any thread] */
LAM_MUST_USE enum lam_status lam_units_check(struct lam_units *units, struct lam_err *err);

/* Acquiring this unit would not block: it is here, or it fails at once. A session is open. */
LAM_MUST_USE bool lam_units_ready(struct lam_units *units, uint32_t index);

/*
 * Blocks until unit `index` is in the pool; *ret_base is its first byte, readable until release.
 * Units are acquired and released in the order of the cycle; a unit is released before it is
 * acquired again.
 * Errors: the loader's fault for this unit; LAM_UNAVAILABLE when the loader is gone;
 * LAM_DEADLINE_EXCEEDED.
 */
LAM_MUST_USE enum lam_status lam_units_acquire(
    struct lam_units *units, uint32_t index, const void **ret_base, struct lam_err *err);

/* The last access to the unit is complete. */
void lam_units_release(struct lam_units *units, uint32_t index);

/* The first byte of a unit that the loader keeps and the session holds for good; NULL: it is not
 * one of these, or not here yet. */
const void *lam_units_find_kept(struct lam_units *units, uint32_t index);

/*
 * Whether a session for embedding rows alone would be of use: the loader keeps their table, a unit
 * of its own.
 */
LAM_MUST_USE bool lam_units_table_kept(const struct lam_units *units);

/* ret_rows[i] = packed embedding row of token ids[i]; valid until the next gather. n <= max_rows.
 * Rows lie in units that the session holds for good; or come from a small cache of recent tokens,
 * else from the loader. ids are in the vocabulary. Errors: those of the loader's ReadExtent;
 * LAM_DATA_LOSS for an answer that does not fit the question; LAM_DEADLINE_EXCEEDED. */
LAM_MUST_USE enum lam_status lam_units_embedding_rows(struct lam_units *units, const int32_t *ids,
    uint32_t n, const void **ret_rows, struct lam_err *err);

/* A small extent outside of units (output norm, rope factors), copied to `out`: [extent->bytes], at
 * most 1 MiB. Errors: as lam_units_embedding_rows; LAM_UNIMPLEMENTED for a larger one. */
LAM_MUST_USE enum lam_status lam_units_read_extent(
    struct lam_units *units, const struct lam_extent *extent, void *out, struct lam_err *err);

/* The next n_bytes of an extent, at offset of it. */
typedef void (*lam_units_part_fn)(void *arg, uint64_t offset, const void *bytes, uint64_t n_bytes);

/* An extent of any size, in parts of at most 1 MiB that are given to `take` in order, while the
 * next ones are read. Errors: as lam_units_embedding_rows; then some parts have been given. */
LAM_MUST_USE enum lam_status lam_units_read_parts(struct lam_units *units,
    const struct lam_extent *extent, lam_units_part_fn take, void *arg, struct lam_err *err);

/* Of the pool's memory, as the loader said with the last unit that it granted, in this session or
 * in one before. */
struct lam_pool_ready {
    uint64_t bytes; /* what the machine has given so far; 0: nothing was granted yet */
    uint64_t ns;    /* how long that took */
};
struct lam_pool_ready lam_units_pool_ready(const struct lam_units *units);

/* Total time that acquire and gather have blocked. */
uint64_t lam_units_stall_ns(const struct lam_units *units);

#endif
