/*
 * verify_report: what `laminar verify` has to say, whoever has read the file: the command itself,
 * or a loader that serves it.
 */
#ifndef LAMINAR_CLI_VERIFY_REPORT_H
#define LAMINAR_CLI_VERIFY_REPORT_H

#include <limits.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/verify.h"

struct lam_verify_place {
    uint64_t offset;
    uint64_t bytes;
    char part[LAM_VERIFY_PART_BYTES]; /* "layer 3" */
};

struct lam_verify_report {
    uint64_t total_bytes;
    uint64_t n_chunks;
    uint64_t n_compared;
    uint64_t n_recorded;
    uint64_t n_different;
    uint32_t n_places;
    struct lam_verify_place places[LAM_VERIFY_PLACES_MAX];
    char record[PATH_MAX]; /* "": in memory only */
};

typedef void lam_verify_progress_fn(void *arg, uint64_t done_bytes, uint64_t total_bytes);

/*
 * Has the loader at `target` (as for lam_rpc_channel_create) read its model `path`, as it was named
 * there. Errors: the loader's; LAM_UNAVAILABLE when nobody answers; LAM_DATA_LOSS for answers that
 * make no sense. report: zeroed.
 */
LAM_MUST_USE enum lam_status lam_verify_remote(const char *target, const char *path,
    lam_verify_progress_fn *on_progress, void *arg, struct lam_verify_report *report,
    struct lam_err *err);

#endif
