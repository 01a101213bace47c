/*
 * mirror: another copy of a model, in a directory on another drive (--mirror DIR): of its file, or
 * of each of its shards. Reads are spread over all copies.
 *
 * A copy is believed when it has the size and the header of its file; its weights are compared, as
 * all are, by the checksums of integrity.h. Like the file it is pinned when it is opened, and a
 * change of it is noticed. Immutable after open, so any thread may read the fields.
 */
#ifndef LAMINAR_LOADER_MIRROR_H
#define LAMINAR_LOADER_MIRROR_H

#include <stdint.h>
#include <sys/stat.h>

#include "common/status.h"
#include "loader/file.h"

struct lam_mirror {
    const char *path; /* of the first part's copy: for texts */
    uint32_t n_parts; /* as the file has them */
    struct lam_part *parts;
};

/*
 * Opens the files of the same names in `dir`. Errors, each with the path: LAM_NOT_FOUND and those
 * of opening; LAM_INVALID_ARGUMENT when one is no copy, lies where its file lies, or is on a drive
 * that needs a larger alignment. Close with lam_mirror_close.
 */
LAM_MUST_USE enum lam_status lam_mirror_open(const struct lam_file *file, const char *dir,
    struct lam_mirror *ret_mirror, struct lam_err *err);

void lam_mirror_close(struct lam_mirror *mirror); /* a zeroed struct is allowed */

/* Errors: LAM_DATA_LOSS when it is no longer what was opened. [any thread] */
LAM_MUST_USE enum lam_status lam_mirror_check(const struct lam_mirror *mirror, struct lam_err *err);

#endif
