/* uring_probe: does io_uring work here? Answered by a real read, since containers and policies
 * differ. */
#ifndef LAMINAR_CLI_URING_PROBE_H
#define LAMINAR_CLI_URING_PROBE_H

#include "common/status.h"

/*
 * Reads the first bytes of `path` through a ring and compares them with a plain read.
 * Errors: LAM_PERMISSION_DENIED, LAM_UNIMPLEMENTED and so on, in words; LAM_DATA_LOSS for wrong
 * bytes.
 */
LAM_MUST_USE enum lam_status lam_uring_probe(const char *path, struct lam_err *err);

#endif
