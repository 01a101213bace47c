/*
 * trace_merge: the traces of several processes (rpc/ops.h), asked for at the same time and written
 * as one file that Perfetto opens.
 *
 * Processes of one machine share a clock, and their times stay as they are. Those of another
 * machine are shifted by the difference of the wall clocks, which is as good as these are.
 */
#ifndef LAMINAR_CLI_TRACE_MERGE_H
#define LAMINAR_CLI_TRACE_MERGE_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "common/buf.h"
#include "common/status.h"

#define LAM_TRACE_PROCESSES_MAX 32u

/* One process's page and what became of it. */
struct lam_trace_page {
    const char *address; /* of its operations port */
    struct lam_buf json; /* as it came */
    char process[64];
    int64_t pid;
    int64_t offset_ns; /* wall clock minus CLOCK_MONOTONIC */
    int64_t shift_ns;  /* that its times were shifted by */
    uint64_t n_spans;
    uint64_t lost;
};

/*
 * Writes all pages as one object and fills in the rest of them. Errors: LAM_DATA_LOSS (a page is
 * no trace, its address is named), LAM_RESOURCE_EXHAUSTED, LAM_UNAVAILABLE (`out` takes no more).
 */
LAM_MUST_USE enum lam_status lam_trace_merge(
    struct lam_trace_page *pages, size_t n, FILE *out, struct lam_err *err);

/* What became of them, as a list; NULL without memory. */
json_t *lam_trace_describe(const struct lam_trace_page *pages, size_t n);

/* Can the file be written? Before a recording that would be lost. */
LAM_MUST_USE enum lam_status lam_trace_check_path(const char *path, struct lam_err *err);

/*
 * Asks all of them and merges what they say, into a file that appears when it is complete; pages
 * need an address only. seconds: to record, 1 to 60; 0: what was recorded since the start. Errors:
 * those of lam_ops_get, of the first that failed, and of lam_trace_merge. Release the pages with
 * lam_trace_pages_done, in every case.
 */
LAM_MUST_USE enum lam_status lam_trace_collect(struct lam_trace_page *pages, size_t n,
    uint32_t seconds, const char *path, struct lam_err *err);

/* Says on stderr what a reader of the file should know: lost spans, times of other machines. */
void lam_trace_warn(const struct lam_trace_page *pages, size_t n);

void lam_trace_pages_done(struct lam_trace_page *pages, size_t n);

#endif
