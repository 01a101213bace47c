/*
 * checker: stands between reader and sessions, and lets no unit through whose bytes are not right.
 *
 *     sessions --load--> checker --> reader --> checker --on_done--> sessions
 *
 * What the reader brought is summed up chunk by chunk, by as many threads as keep up with a drive,
 * and compared with the record (integrity.h). Other bytes than at first sight: the unit is read
 * again, once, and fails with LAM_DATA_LOSS if that did not help. Without a record (checksums off)
 * loads pass through.
 *
 * One more thread watches the file, four times a second, and saves the record. When the file is no
 * longer what was opened, on_lost is called, once, and lam_checker_lost says so from then on.
 */
#ifndef LAMINAR_LOADER_CHECKER_H
#define LAMINAR_LOADER_CHECKER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/file.h"
#include "loader/integrity.h"
#include "loader/jobs.h"
#include "loader/policy.h"
#include "loader/reader.h"

struct lam_checker;

struct lam_checker_config {
    const struct lam_file *file;     /* outlives the checker, as do all pointers here */
    struct lam_integrity *integrity; /* NULL: checksums are off */
    const struct lam_layout *layout;
    const unsigned char *pool_base;
    /* As those of the reader's config: once for each load, from a thread of the reader or ours. */
    void (*on_done)(void *arg, const struct lam_load_end *end);
    void (*on_issued)(void *arg, const struct lam_load *load);
    void (*on_idle)(void *arg);
    /* All bytes are there, and their sums are being compared. May be NULL. */
    void (*on_read)(void *arg, const struct lam_load_end *end);
    void (*on_lost)(void *arg, const struct lam_err *err); /* from our thread */
    void *arg;
};

/* Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_checker_create(
    const struct lam_checker_config *config, struct lam_checker **ret_checker, struct lam_err *err);

/* Before the first load. The reader's callbacks are the two below, with the checker as `arg`. */
void lam_checker_connect(struct lam_checker *checker, struct lam_reader *reader);

/* Ends the threads and saves the record: neither on_done nor lam_reader_load is called by us any
 * more. Before the reader is destroyed, which the checker must outlive. NULL is allowed. */
void lam_checker_stop(struct lam_checker *checker);

void lam_checker_destroy(struct lam_checker *checker); /* stopped; NULL is allowed */

/* Reads a unit into its place; at most LAM_JOBS_MAX loads that have not ended. [any thread] */
void lam_checker_load(struct lam_checker *checker, uint32_t unit, const struct lam_load *load);

/* As those of the reader. [any thread] */
void lam_checker_open(struct lam_checker *checker, uint32_t place, uint64_t generation);
void lam_checker_cancel(struct lam_checker *checker, uint32_t place, uint64_t generation);

/* Callbacks of the reader; arg: the checker. */
void lam_checker_on_idle(void *arg);
void lam_checker_on_issued(void *arg, const struct lam_load *load);
void lam_checker_on_load_end(void *arg, const struct lam_load_end *end);

/* LAM_OK, or why nothing of this file is given out any more. [any thread] */
LAM_MUST_USE enum lam_status lam_checker_lost(struct lam_checker *checker, struct lam_err *err);

#endif
