/*
 * measure: how fast this machine reads, for plans: its disk with direct reads as the loader makes
 * them, and its memory with all processors at once.
 */
#ifndef LAMINAR_CLI_MEASURE_H
#define LAMINAR_CLI_MEASURE_H

#include "common/status.h"

/*
 * Reads the file at `path`, up to some seconds of it. Errors: those of open; LAM_UNIMPLEMENTED when
 * its file system refuses direct reads; LAM_OUT_OF_RANGE when it is too small to say anything.
 */
LAM_MUST_USE enum lam_status lam_measure_disk(
    const char *path, double *ret_rate, struct lam_err *err);

/* The same with a file of its own, written for this in `folder` and gone afterwards. Errors: also
 * those of writing. */
LAM_MUST_USE enum lam_status lam_measure_disk_of(
    const char *folder, double *ret_rate, struct lam_err *err);

/* Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_measure_memory(double *ret_rate, struct lam_err *err);

#endif
