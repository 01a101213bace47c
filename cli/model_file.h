/*
 * model_file: the headers of a model file, opened by the command line itself: for `inspect` and
 * `tokenize`, and for `run` and `serve`, which so refuse a bad file before they start anything.
 */
#ifndef LAMINAR_CLI_MODEL_FILE_H
#define LAMINAR_CLI_MODEL_FILE_H

#include <stdint.h>

#include "common/status.h"
#include "model/gguf.h"

struct lam_model_file {
    void *header; /* [header_bytes] what gguf points into */
    uint64_t header_bytes;
    uint64_t file_bytes;
    struct lam_gguf *gguf;
};

/*
 * Reads as much of the file as its header needs. Errors: those of open(2) with the path named,
 * LAM_INVALID_ARGUMENT for what is no regular file, those of lam_gguf_parse. The error begins with
 * the path.
 */
LAM_MUST_USE enum lam_status lam_model_file_open(
    const char *path, struct lam_model_file *ret_file, struct lam_err *err);

void lam_model_file_close(struct lam_model_file *file); /* a zeroed struct is allowed */

#endif
