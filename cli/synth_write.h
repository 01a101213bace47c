/*
 * synth_write: a model of synth_model.h onto a disk, as fast as the disk takes it.
 *
 * Several threads make and write stretches of 8 MiB, past the page cache where the file system
 * allows it. A file grows under the name FILE.partial, is on the disk before it is renamed, and is
 * removed when anything goes wrong, with all shards that were there already.
 */
#ifndef LAMINAR_CLI_SYNTH_WRITE_H
#define LAMINAR_CLI_SYNTH_WRITE_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/synth_shards.h"
#include "common/status.h"

struct lam_synth_output {
    const char *path; /* of the model: lam_synth_shards_path */
    bool force;       /* replace a regular file that is there */
    bool sparse;      /* the header only; the weights are a hole that reads as zeros */
};

/*
 * on_progress: called some times a second by the caller's thread; may be NULL. Meanwhile SIGINT,
 * SIGTERM and SIGHUP end the writing, unless they are ignored: then *ret_signal is the signal's
 * number and the status LAM_CANCELLED. Call while the process has no other threads.
 *
 * Errors: LAM_ALREADY_EXISTS; LAM_RESOURCE_EXHAUSTED names the space that is missing, before a byte
 * is written; LAM_INVALID_ARGUMENT for what is no regular file; those of open(2) and pwrite(2).
 */
LAM_MUST_USE enum lam_status lam_synth_write(const struct lam_synth_shards *shards,
    const struct lam_synth_output *output,
    void (*on_progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes), void *arg,
    int *ret_signal, struct lam_err *err);

#endif
