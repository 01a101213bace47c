/*
 * extent: small pieces of the model file for ReadExtent: rows of the embedding, mostly.
 *
 * A decode step asks for one row and waits for it. Two places are tried in order: a unit that stays
 * in the pool (in a tied model the head is the embedding), whose bytes were checked when they came;
 * then the file, on a thread of its own, where all ranges of a request are asked for at once and
 * each is checked. Rows come back often, so here, and only here, the page cache is of use. Without
 * checksums a row that lies in the page cache is answered at once.
 */
#ifndef LAMINAR_LOADER_EXTENT_H
#define LAMINAR_LOADER_EXTENT_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/file.h"
#include "loader/integrity.h"
#include "loader/sessions.h"
#include "rpc/server.h"

#define LAM_EXTENT_RANGES_MAX 4096u
#define LAM_EXTENT_BYTES_MAX ((uint64_t)1 << 20)

/* Requests that wait for the thread, those included whose calls have ended: a bound for memory, as
 * many as there may be open calls. */
#define LAM_EXTENT_WAITING_MAX 256u

struct lam_extents;

/* All pointers outlive the extents. integrity: NULL for reads without checks. Starts the thread. */
LAM_MUST_USE enum lam_status lam_extents_create(const struct lam_file *file,
    struct lam_integrity *integrity, const unsigned char *pool_base, struct lam_sessions *sessions,
    struct lam_extents **ret_extents, struct lam_err *err);

/* Drops what waits, joins the thread. Before the server is destroyed. NULL is allowed. */
void lam_extents_destroy(struct lam_extents *extents);

/*
 * Answers the call with a ReadExtentResponse, now or later. On the server's I/O thread; does not
 * block. Errors: LAM_INVALID_ARGUMENT (no or too many ranges, more than a MiB), LAM_OUT_OF_RANGE (a
 * range outside of the file), LAM_RESOURCE_EXHAUSTED (no memory, or too many wait); the caller ends
 * the call then.
 */
LAM_MUST_USE enum lam_status lam_extents_read(struct lam_extents *extents,
    struct lam_rpc_call *call, const uint64_t *offsets, size_t n_offsets, uint64_t bytes_each,
    struct lam_err *err);

#endif
