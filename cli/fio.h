/*
 * fio: the yardstick of `laminar bench loader`: fio reads the same files, sequentially, in turns
 * where they are several, with io_uring, O_DIRECT, registered files and buffers. A process of its
 * own for each reading.
 */
#ifndef LAMINAR_CLI_FIO_H
#define LAMINAR_CLI_FIO_H

#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"

struct lam_fio_way {
    uint64_t block_bytes;
    uint32_t depth;
};

/* Puts one more into the list of files, as fio wants it. Errors: LAM_INVALID_ARGUMENT for a path
 * that fio would take for two; LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_fio_add(
    struct lam_buf *files, const char *path, struct lam_err *err);

/*
 * Reads the files for run_ms, from their starts and over again, with way->depth requests under way
 * in all, and gives the speed that fio reports. Gives up when end_fd becomes readable. Errors:
 * LAM_NOT_FOUND (fio is not installed); LAM_CANCELLED (end_fd); LAM_FAILED_PRECONDITION with what
 * fio said.
 */
LAM_MUST_USE enum lam_status lam_fio_read(const struct lam_buf *files,
    const struct lam_fio_way *way, uint32_t run_ms, int end_fd, double *ret_bytes_per_s,
    struct lam_err *err);

#endif
