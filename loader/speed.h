/*
 * speed: how fast a drive brings a file when the loader reads it, for plans: the same engines, the
 * same choice of how to ask (probe.h) and its record, a pool of the same pages. A file of any kind;
 * nothing of it is looked at.
 */
#ifndef LAMINAR_LOADER_SPEED_H
#define LAMINAR_LOADER_SPEED_H

#include <stdint.h>

#include "common/status.h"

/* Smaller files come from some cache of the drive's. */
#define LAM_SPEED_FILE_BYTES_MIN ((uint64_t)64 << 20)

struct lam_speed {
    double rate; /* bytes a second: the median of half seconds, after a first one */
    const char *engine;
    uint64_t request_bytes;
    uint32_t depth;
};

/*
 * Reads the file round and round for some seconds. What of it is still to be written is written
 * first. io_cache: as in lam_reader_config. Errors: those of opening; LAM_OUT_OF_RANGE when the
 * file is too small; LAM_UNIMPLEMENTED when its file system takes no direct reads, since others
 * would measure memory; those of reading, of a drive that hangs as well; LAM_RESOURCE_EXHAUSTED.
 */
LAM_MUST_USE enum lam_status lam_speed_measure(
    const char *path, const char *io_cache, struct lam_speed *ret_speed, struct lam_err *err);

#endif
