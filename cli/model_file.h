/*
 * model_file: the headers of a model file, opened by the command line itself: for `inspect` and
 * `tokenize`, and for `run` and `serve`, which so refuse a bad file before they start anything.
 */
#ifndef LAMINAR_CLI_MODEL_FILE_H
#define LAMINAR_CLI_MODEL_FILE_H

#include <stdint.h>

#include "common/status.h"
#include "loader/file.h"
#include "model/gguf.h"

struct lam_model_file {
    struct lam_file file;
    const void *header; /* [header_bytes] what gguf points into; of all shards together */
    uint64_t header_bytes;
    uint64_t file_bytes; /* the same */
    const struct lam_gguf *gguf;
};

/* As lam_file_open_header (loader/file.h). */
LAM_MUST_USE enum lam_status lam_model_file_open(const char *path,
    const struct lam_file_dirs *shard_dirs, struct lam_model_file *ret_file, struct lam_err *err);

void lam_model_file_close(struct lam_model_file *file); /* a zeroed struct is allowed */

#endif
