/* mirror: see the header. */
#include "loader/mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/size.h"

#define COMPARE_BYTES LAM_MIB

static enum lam_status no_copy(
    const struct lam_part *part, const char *path, const char *why, struct lam_err *err)
{
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "%s is no copy of %s (%s): copy it again, or leave this --mirror out", path, part->path,
        why);
}

/* Up to n bytes; fewer at the end of the file. False: errno says why not. */
static bool read_some(int fd, unsigned char *out, uint64_t n_bytes, uint64_t offset)
{
    ssize_t n = -1;

    memset(out, 0, n_bytes);
    do {
        n = pread(fd, out, n_bytes, (off_t)offset);
    } while (n < 0 && errno == EINTR);
    return n >= 0;
}

/* Compares the header, piece by piece. */
static enum lam_status compare(
    const struct lam_part *part, const struct lam_part *copy, struct lam_err *err)
{
    unsigned char *pieces = lam_calloc(2, COMPARE_BYTES);
    enum lam_status status = LAM_OK;

    if (pieces == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to compare %s", copy->path);
    for (uint64_t at = 0; at < part->header_bytes && status == LAM_OK; at += COMPARE_BYTES) {
        uint64_t left = part->header_bytes - at;
        uint64_t n = left < COMPARE_BYTES ? left : COMPARE_BYTES;

        if (!read_some(copy->fd, pieces, n, at))
            status = lam_fail_errno(err, errno, "cannot read the mirror %s", copy->path);
        else if (!read_some(part->fd, pieces + COMPARE_BYTES, n, at))
            status = lam_fail_errno(err, errno, "cannot read %s", part->path);
        else if (memcmp(pieces, pieces + COMPARE_BYTES, n) != 0)
            status = no_copy(part, copy->path, "its header differs", err);
    }
    lam_free(pieces);
    return status;
}

static enum lam_status check_kind(
    const struct lam_part *part, const struct lam_part *copy, struct lam_err *err)
{
    char text[64];

    if (!S_ISREG(copy->identity.st_mode))
        return no_copy(part, copy->path, "it is not a regular file", err);
    if (copy->identity.st_dev == part->identity.st_dev &&
        copy->identity.st_ino == part->identity.st_ino)
        return no_copy(part, copy->path, "it is the same file", err);
    if (copy->identity.st_size == part->identity.st_size)
        return LAM_OK;
    snprintf(text, sizeof(text), "%" PRIu64 " bytes, not %" PRIu64,
        (uint64_t)copy->identity.st_size, (uint64_t)part->identity.st_size);
    return no_copy(part, copy->path, text, err);
}

static enum lam_status open_copy(const struct lam_file *file, const struct lam_part *part,
    const char *dir, struct lam_part *copy, struct lam_err *err)
{
    const char *slash = strrchr(part->path, '/');
    uint64_t align = LAM_FILE_ALIGN_DEFAULT;
    char path[PATH_MAX];
    enum lam_status status;
    int length = snprintf(path, sizeof(path), "%s/%s", dir, slash == NULL ? part->path : slash + 1);

    if (length < 0 || (size_t)length >= sizeof(path))
        return lam_fail(err, LAM_INVALID_ARGUMENT, "the path of --mirror %.200s is too long", dir);
    copy->path = lam_strdup(path);
    if (copy->path == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the path %s", path);
    copy->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (copy->fd < 0 || fstat(copy->fd, &copy->identity) != 0)
        return lam_fail_errno(err, errno, "cannot open the mirror %s", path);
    status = check_kind(part, copy, err);
    if (status == LAM_OK)
        status = compare(part, copy, err);
    if (status != LAM_OK)
        return status;
    copy->direct_fd = lam_file_open_direct(copy->fd, &align);
    if (align > file->align)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the drive of %s reads in pieces of %" PRIu64 " bytes, that of %s in %" PRIu64
            ": give %s as --model and the other as --mirror",
            path, align, part->path, file->align, path);
    posix_fadvise(copy->fd, 0, 0, POSIX_FADV_RANDOM);
    return LAM_OK;
}

enum lam_status lam_mirror_open(const struct lam_file *file, const char *dir,
    struct lam_mirror *ret_mirror, struct lam_err *err)
{
    struct lam_mirror mirror = {.parts = lam_calloc(file->n_parts, sizeof(*mirror.parts))};
    enum lam_status status = LAM_OK;

    if (mirror.parts == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the mirror %s", dir);
    while (mirror.n_parts < file->n_parts && status == LAM_OK) {
        struct lam_part *copy = &mirror.parts[mirror.n_parts];

        *copy = (struct lam_part){.fd = -1, .direct_fd = -1};
        status = open_copy(file, &file->parts[mirror.n_parts++], dir, copy, err);
    }
    if (status != LAM_OK) {
        lam_mirror_close(&mirror);
        return status;
    }
    mirror.path = mirror.parts[0].path;
    *ret_mirror = mirror;
    return LAM_OK;
}

void lam_mirror_close(struct lam_mirror *mirror)
{
    for (uint32_t p = 0; p < mirror->n_parts; p++)
        lam_part_close(&mirror->parts[p]);
    lam_free(mirror->parts);
    *mirror = (struct lam_mirror){0};
}

static bool is_same(const struct stat *was, const struct stat *now)
{
    return now->st_size == was->st_size && now->st_mtim.tv_sec == was->st_mtim.tv_sec &&
           now->st_mtim.tv_nsec == was->st_mtim.tv_nsec &&
           now->st_ctim.tv_sec == was->st_ctim.tv_sec &&
           now->st_ctim.tv_nsec == was->st_ctim.tv_nsec;
}

enum lam_status lam_mirror_check(const struct lam_mirror *mirror, struct lam_err *err)
{
    for (uint32_t p = 0; p < mirror->n_parts; p++) {
        const struct lam_part *copy = &mirror->parts[p];
        struct stat now;

        if (fstat(copy->fd, &now) != 0)
            return lam_fail_errno(err, errno, "cannot look at the mirror %s", copy->path);
        if (!is_same(&copy->identity, &now))
            return lam_fail(err, LAM_DATA_LOSS,
                "the mirror %s was changed while it was in use: restore it, or restart the loader "
                "without it",
                copy->path);
    }
    return LAM_OK;
}
