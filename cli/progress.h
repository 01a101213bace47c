/*
 * progress: how far the loader has come, on stderr: a bar on a terminal, plain lines otherwise. A
 * thread of its own asks the loader ten times a second.
 */
#ifndef LAMINAR_CLI_PROGRESS_H
#define LAMINAR_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

struct lam_progress;

struct lam_loader_stats {
    char engine[16];
    bool direct;
    bool fixed_buffers;
    char pages[16];
    uint64_t pool_bytes;
    uint64_t pool_used_bytes;
    uint64_t pool_ready_bytes; /* given by the machine so far */
    double pool_ready_seconds; /* in this time */
    uint64_t disk_bytes;
    uint64_t disk_reads;
    uint64_t units_loaded;
    uint64_t units_hit;
    uint64_t units_granted;
};

/*
 * loader: "unix:" address, which need not answer yet and must outlive this. model_bytes: what one
 * pass walks over. Errors: LAM_RESOURCE_EXHAUSTED.
 */
LAM_MUST_USE enum lam_status lam_progress_start(const char *loader, uint64_t model_bytes,
    struct lam_progress **ret_progress, struct lam_err *err);

/* Draws no more; takes the bar off the terminal. May be called again. */
void lam_progress_hide(struct lam_progress *progress);

/* The loader's counters now. Hide first: the thread must have ended. */
LAM_MUST_USE enum lam_status lam_progress_stats(
    struct lam_progress *progress, struct lam_loader_stats *ret_stats, struct lam_err *err);

void lam_progress_destroy(struct lam_progress *progress); /* NULL is allowed */

#endif
