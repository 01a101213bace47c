/*
 * model_file: the headers of a model file, opened by the command line itself: for `inspect` and
 * `tokenize`, and for `run` and `serve`, which so refuse a bad file before they start anything.
 */
#ifndef LAMINAR_CLI_MODEL_FILE_H
#define LAMINAR_CLI_MODEL_FILE_H

#include <stdint.h>

#include "common/flag.h"
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

#define LAM_SHARD_DIRS_MAX 16u

/* --shards DIR, once or more. Zero-initialise; not to be moved after lam_shard_flag. */
struct lam_shard_flag {
    struct lam_flag_list list;
    const char *items[LAM_SHARD_DIRS_MAX];
};

/* The flag, for a command's table. */
struct lam_flag lam_shard_flag(struct lam_shard_flag *it);

/* What was given. */
struct lam_file_dirs lam_shard_dirs(const struct lam_shard_flag *it);

/* As lam_file_open_header (loader/file.h). shards: may be NULL. */
LAM_MUST_USE enum lam_status lam_model_file_open(const char *path,
    const struct lam_shard_flag *shards, struct lam_model_file *ret_file, struct lam_err *err);

void lam_model_file_close(struct lam_model_file *file); /* a zeroed struct is allowed */

#endif
