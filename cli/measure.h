/*
 * measure: how fast this machine reads, for plans: its disk as the loader reads
 * it, and its memory with all processors at once.
 */
#ifndef LAMINAR_CLI_MEASURE_H
#define LAMINAR_CLI_MEASURE_H

#include "common/status.h"
#include "loader/speed.h"

/*
 * The disk of a file that is written for this in `folder` and gone afterwards; a file that is there
 * goes to lam_speed_measure itself. Errors: those, and of writing.
 */
LAM_MUST_USE enum lam_status lam_measure_disk_of(
    const char *folder, const char *io_cache, struct lam_speed *ret_speed, struct lam_err *err);

/* Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_measure_memory(double *ret_rate, struct lam_err *err);

#endif
