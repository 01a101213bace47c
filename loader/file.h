/*
 * file: the model of a loader on its drives: opened once, described once, watched for change.
 *
 * A model is one file, or several shards that lie wherever they lie (model/shards.h); either way
 * offsets here are those of the model's bytes, as the manifest has them, and only this file and
 * those that read know of parts. The header is read through the page cache and kept; weights are
 * read by the reader, through `direct_fd` where the file system allows it. The identity (device,
 * inode, size, times) of each part pins what was opened: another file under the same name is never
 * read, and a change is noticed by lam_file_check. Immutable after open, so any thread may read the
 * fields.
 */
#ifndef LAMINAR_LOADER_FILE_H
#define LAMINAR_LOADER_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/status.h"
#include "model/gguf.h"
#include "model/manifest.h"
#include "model/shards.h"
#include "model/spec.h"

/* Alignment of direct reads where the file system does not say; also the least that we use. */
#define LAM_FILE_ALIGN_DEFAULT 4096u

/* One file on a drive. */
struct lam_part {
    char *path;
    int fd;        /* through the page cache, without read-ahead */
    int direct_fd; /* O_DIRECT, or -1 when the file system refuses it at open */
    struct stat identity;
    uint64_t header_bytes; /* up to its own first byte of tensor data */
};

void lam_part_close(struct lam_part *part);

struct lam_file {
    const char *path; /* of the first part: the model's name in texts */
    uint32_t n_parts;
    struct lam_part *parts; /* [n_parts] */
    struct lam_span *spans; /* [n_parts] where each lies among the model's bytes */
    uint64_t bytes;
    uint64_t align;        /* of offsets, lengths and memory of direct reads, in all parts */
    unsigned char *header; /* [header_bytes], up to the first byte of tensor data */
    uint64_t header_bytes;
    uint64_t digest; /* XXH3 of the header */
    struct lam_gguf *gguf;
    struct lam_spec spec;         /* not by lam_file_open_header */
    struct lam_manifest manifest; /* the same */
};

/* Where shards are looked for that do not lie beside the first. */
struct lam_file_dirs {
    const char *const *items; /* [n] directories, in this order */
    size_t n;
};

/*
 * path: of the file, or of the first shard. Errors: LAM_NOT_FOUND, LAM_PERMISSION_DENIED,
 * LAM_INVALID_ARGUMENT (a directory or device, an empty file, no GGUF, malformed, another shard
 * than the first, shards that do not belong together) and those of the model parsers, each with the
 * path. Close with lam_file_close.
 */
LAM_MUST_USE enum lam_status lam_file_open(const char *path, const struct lam_file_dirs *dirs,
    struct lam_file *ret_file, struct lam_err *err);

/* The same without a look at what the model is: any GGUF file will do. */
LAM_MUST_USE enum lam_status lam_file_open_header(const char *path,
    const struct lam_file_dirs *dirs, struct lam_file *ret_file, struct lam_err *err);

/* The same for any file that is not empty: nothing of it is read, and what a header would say stays
 * empty. */
LAM_MUST_USE enum lam_status lam_file_open_bytes(
    const char *path, struct lam_file *ret_file, struct lam_err *err);

/* Only what lam_file_open or lam_file_open_bytes has filled. */
void lam_file_close(struct lam_file *file);

/* Errors: LAM_DATA_LOSS, with what happened, when the file is no longer what was opened: it was
 * written to, cut, removed, renamed, or replaced under its name, in any of its parts.
 * [any thread] */
LAM_MUST_USE enum lam_status lam_file_check(const struct lam_file *file, struct lam_err *err);

/*
 * Reads [offset, offset + n_bytes) through the page cache. Errors: LAM_DATA_LOSS when the file ends
 * before, LAM_UNAVAILABLE for a device error. [any thread]
 */
LAM_MUST_USE enum lam_status lam_file_read(
    const struct lam_file *file, uint64_t offset, void *out, uint64_t n_bytes, struct lam_err *err);

/* The same from the page cache only. False: not all of it is there. [any thread] */
LAM_MUST_USE bool lam_file_read_cached(
    const struct lam_file *file, uint64_t offset, void *out, uint64_t n_bytes);

/*
 * The same past the page cache, directly where that works. offset and out: multiples of align;
 * out: [n_bytes rounded up to align]. [any thread]
 */
LAM_MUST_USE enum lam_status lam_file_read_uncached(
    const struct lam_file *file, uint64_t offset, void *out, uint64_t n_bytes, struct lam_err *err);

/* posix_fadvise for that range, in whichever parts it is. [any thread] */
void lam_file_advise(const struct lam_file *file, uint64_t offset, uint64_t n_bytes, int advice);

/*
 * Opens the file behind fd once more for direct reads: the descriptor, or -1 when the file system
 * has none. *ret_align: of file offsets, lengths and memory, at least LAM_FILE_ALIGN_DEFAULT.
 */
int lam_file_open_direct(int fd, uint64_t *ret_align);

#endif
