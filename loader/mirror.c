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
    const struct lam_file *file, const char *path, const char *why, struct lam_err *err)
{
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "%s is no copy of %s (%s): copy it again, or leave this --mirror out", path, file->path,
        why);
}

/* Compares the header, piece by piece. */
static enum lam_status compare(
    const struct lam_file *file, const struct lam_mirror *mirror, struct lam_err *err)
{
    unsigned char *piece = lam_calloc(COMPARE_BYTES, 1);
    enum lam_status status = LAM_OK;

    if (piece == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to compare %s", mirror->path);
    for (uint64_t at = 0; at < file->header_bytes && status == LAM_OK;) {
        uint64_t left = file->header_bytes - at;
        ssize_t n =
            pread(mirror->fd, piece, left < COMPARE_BYTES ? left : COMPARE_BYTES, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            status = lam_fail_errno(err, errno, "cannot read the mirror %s", mirror->path);
        else if (n == 0 || memcmp(piece, file->header + at, (size_t)n) != 0)
            status = no_copy(file, mirror->path, "its header differs", err);
        else
            at += (uint64_t)n;
    }
    lam_free(piece);
    return status;
}

static enum lam_status check_kind(
    const struct lam_file *file, const struct lam_mirror *mirror, struct lam_err *err)
{
    char text[64];

    if (!S_ISREG(mirror->identity.st_mode))
        return no_copy(file, mirror->path, "it is not a regular file", err);
    if (mirror->identity.st_dev == file->identity.st_dev &&
        mirror->identity.st_ino == file->identity.st_ino)
        return no_copy(file, mirror->path, "it is the same file", err);
    if ((uint64_t)mirror->identity.st_size == file->bytes)
        return LAM_OK;
    snprintf(text, sizeof(text), "%" PRIu64 " bytes, not %" PRIu64,
        (uint64_t)mirror->identity.st_size, file->bytes);
    return no_copy(file, mirror->path, text, err);
}

enum lam_status lam_mirror_open(const struct lam_file *file, const char *dir,
    struct lam_mirror *ret_mirror, struct lam_err *err)
{
    struct lam_mirror mirror = {.fd = -1, .direct_fd = -1};
    const char *slash = strrchr(file->path, '/');
    uint64_t align = LAM_FILE_ALIGN_DEFAULT;
    char path[PATH_MAX];
    enum lam_status status;
    int length = snprintf(path, sizeof(path), "%s/%s", dir, slash == NULL ? file->path : slash + 1);

    if (length < 0 || (size_t)length >= sizeof(path))
        return lam_fail(err, LAM_INVALID_ARGUMENT, "the path of --mirror %.200s is too long", dir);
    mirror.path = lam_strdup(path);
    if (mirror.path == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the path %s", path);
    mirror.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (mirror.fd < 0 || fstat(mirror.fd, &mirror.identity) != 0) {
        status = lam_fail_errno(err, errno, "cannot open the mirror %s", path);
        goto fail;
    }
    status = check_kind(file, &mirror, err);
    if (status == LAM_OK)
        status = compare(file, &mirror, err);
    if (status != LAM_OK)
        goto fail;
    mirror.direct_fd = lam_file_open_direct(mirror.fd, &align);
    if (align > file->align) {
        status = lam_fail(err, LAM_INVALID_ARGUMENT,
            "the drive of %s reads in pieces of %" PRIu64 " bytes, that of %s in %" PRIu64
            ": give %s as --model and the other as --mirror",
            path, align, file->path, file->align, path);
        goto fail;
    }
    posix_fadvise(mirror.fd, 0, 0, POSIX_FADV_RANDOM);
    *ret_mirror = mirror;
    return LAM_OK;

fail:
    lam_mirror_close(&mirror);
    return status;
}

void lam_mirror_close(struct lam_mirror *mirror)
{
    if (mirror->path == NULL)
        return;
    lam_free(mirror->path);
    if (mirror->direct_fd >= 0)
        close(mirror->direct_fd);
    if (mirror->fd >= 0)
        close(mirror->fd);
    *mirror = (struct lam_mirror){.fd = -1, .direct_fd = -1};
}

enum lam_status lam_mirror_check(const struct lam_mirror *mirror, struct lam_err *err)
{
    const struct stat *was = &mirror->identity;
    struct stat now;

    if (fstat(mirror->fd, &now) != 0)
        return lam_fail_errno(err, errno, "cannot look at the mirror %s", mirror->path);
    if (now.st_size == was->st_size && now.st_mtim.tv_sec == was->st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == was->st_mtim.tv_nsec && now.st_ctim.tv_sec == was->st_ctim.tv_sec &&
        now.st_ctim.tv_nsec == was->st_ctim.tv_nsec)
        return LAM_OK;
    return lam_fail(err, LAM_DATA_LOSS,
        "the mirror %s was changed while it was in use: restore it, or restart the loader without "
        "it",
        mirror->path);
}
