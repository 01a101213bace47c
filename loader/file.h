/*
 * file: the model file of a loader: opened once, described once, watched for change.
 *
 * The header is read through the page cache and kept; weights are read by the reader, through
 * `direct_fd` where the file system allows it. The identity (device, inode, size, times) pins what
 * was opened: another file under the same name is never read, and a change is noticed by
 * lam_file_check. Immutable after open, so any thread may read the fields.
 */
#ifndef LAMINAR_LOADER_FILE_H
#define LAMINAR_LOADER_FILE_H

#include <stdint.h>
#include <sys/stat.h>

#include "common/status.h"
#include "model/gguf.h"
#include "model/manifest.h"
#include "model/spec.h"

/* Alignment of direct reads where the file system does not say; also the least that we use. */
#define LAM_FILE_ALIGN_DEFAULT 4096u

struct lam_file {
    char *path;
    int fd;        /* through the page cache, without read-ahead */
    int direct_fd; /* O_DIRECT, or -1 when the file system refuses it at open */
    struct stat identity;
    uint64_t bytes;
    uint64_t align;        /* of file offsets, lengths and memory of direct reads */
    unsigned char *header; /* [header_bytes], up to the first byte of tensor data */
    uint64_t header_bytes;
    uint64_t digest; /* XXH3 of the header */
    struct lam_gguf *gguf;
    struct lam_spec spec;
    struct lam_manifest manifest;
};

/*
 * Errors: LAM_NOT_FOUND, LAM_PERMISSION_DENIED, LAM_INVALID_ARGUMENT (a directory or device, an
 * empty file, no GGUF, malformed) and those of the model parsers, each with the path. Close with
 * lam_file_close.
 */
LAM_MUST_USE enum lam_status lam_file_open(
    const char *path, struct lam_file *ret_file, struct lam_err *err);

/* The same for any file that is not empty: nothing of it is read, and what a header would say stays
 * empty. */
LAM_MUST_USE enum lam_status lam_file_open_bytes(
    const char *path, struct lam_file *ret_file, struct lam_err *err);

/* Only what lam_file_open or lam_file_open_bytes has filled. */
void lam_file_close(struct lam_file *file);

/* Errors: LAM_DATA_LOSS, with what happened, when the file is no longer what was opened: it was
 * written to, cut, removed, renamed, or replaced under its name. [any thread] */
LAM_MUST_USE enum lam_status lam_file_check(const struct lam_file *file, struct lam_err *err);

/*
 * Reads [offset, offset + n_bytes) through the page cache. Errors: LAM_DATA_LOSS when the file ends
 * before, LAM_UNAVAILABLE for a device error. [any thread]
 */
LAM_MUST_USE enum lam_status lam_file_read(
    const struct lam_file *file, uint64_t offset, void *out, uint64_t n_bytes, struct lam_err *err);

/*
 * Opens the file behind fd once more for direct reads: the descriptor, or -1 when the file system
 * has none. *ret_align: of file offsets, lengths and memory, at least LAM_FILE_ALIGN_DEFAULT.
 */
int lam_file_open_direct(int fd, uint64_t *ret_align);

#endif
