/* file: see the header. The header of a GGUF file has no length field: it is read in growing pieces
 * until the parser is content. */
#include "loader/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/fault.h"
#include "common/mem.h"
#include "common/size.h"

#define HEADER_FIRST_BYTES (4 * LAM_MIB)
#define ALIGN_MAX 65536u

enum lam_status lam_file_read(
    const struct lam_file *file, uint64_t offset, void *out, uint64_t n_bytes, struct lam_err *err)
{
    unsigned char *to = out;

    while (n_bytes > 0) {
        ssize_t n = lam_fault_hit("pread") ? -1 : pread(file->fd, to, n_bytes, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lam_fail(err, LAM_UNAVAILABLE, "cannot read %s at byte %" PRIu64 ": %s",
                file->path, offset, strerror(errno));
        if (n == 0)
            return lam_fail(err, LAM_DATA_LOSS,
                "%s ends at byte %" PRIu64 ", it was longer when it was opened: restore the file",
                file->path, offset);
        to += n;
        offset += (uint64_t)n;
        n_bytes -= (uint64_t)n;
    }
    return LAM_OK;
}

static enum lam_status open_regular(struct lam_file *file, struct lam_err *err)
{
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0)
        return lam_fail_errno(err, errno, "cannot open the model file %s", file->path);
    if (fstat(file->fd, &file->identity) != 0)
        return lam_fail_errno(err, errno, "cannot look at the model file %s", file->path);
    if (S_ISDIR(file->identity.st_mode))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s is a directory: give the path of a .gguf file in it", file->path);
    if (!S_ISREG(file->identity.st_mode))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s is not a regular file: give the path of a .gguf file", file->path);
    if (file->identity.st_size == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s is empty: the download or copy may have failed, fetch it again", file->path);
    file->bytes = (uint64_t)file->identity.st_size;
    return LAM_OK;
}

int lam_file_open_direct(int fd, uint64_t *ret_align)
{
    char self[64];
    struct statx info;
    int direct_fd;

    /* By this name it is the same inode, whatever happens to the path. */
    snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
    direct_fd = open(self, O_RDONLY | O_CLOEXEC | O_DIRECT);
    *ret_align = LAM_FILE_ALIGN_DEFAULT;
    if (direct_fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0 ||
        (info.stx_mask & STATX_DIOALIGN) == 0)
        return direct_fd;
    if (info.stx_dio_offset_align == 0 || info.stx_dio_offset_align > ALIGN_MAX ||
        info.stx_dio_mem_align > ALIGN_MAX) {
        close(direct_fd);
        return -1;
    }
    while (*ret_align < info.stx_dio_offset_align || *ret_align < info.stx_dio_mem_align)
        *ret_align *= 2;
    return direct_fd;
}

/* Reads more and more of the file until the parser has seen the whole header. */
static enum lam_status read_header(struct lam_file *file, struct lam_err *err)
{
    uint64_t have = 0;
    uint64_t want = HEADER_FIRST_BYTES;
    enum lam_status status;

    for (;;) {
        unsigned char *grown;

        want = want < file->bytes ? want : file->bytes;
        grown = lam_realloc(file->header, want, 1);
        if (grown == NULL)
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
                "no memory for %" PRIu64 " bytes of the header of %s", want, file->path);
        file->header = grown;
        status = lam_file_read(file, have, file->header + have, want - have, err);
        if (status != LAM_OK)
            return status;
        have = want;
        status = lam_gguf_parse(file->header, have, file->bytes, &file->gguf, err);
        if (status == LAM_OK)
            break;
        if (status != LAM_OUT_OF_RANGE || have == file->bytes || have >= LAM_GGUF_HEADER_BYTES_MAX)
            return lam_err_wrap(err, status, "%s", file->path);
        want = 2 * have;
    }
    file->header_bytes = lam_gguf_header_bytes(file->gguf);
    if (lam_gguf_n_tensors(file->gguf) > 0)
        file->header_bytes = file->bytes;
    for (uint64_t i = 0; i < lam_gguf_n_tensors(file->gguf); i++) {
        uint64_t offset = lam_gguf_tensor(file->gguf, i)->offset;

        file->header_bytes = offset < file->header_bytes ? offset : file->header_bytes;
    }
    return LAM_OK;
}

/* The padding before the first tensor may lie behind what the parser needed: parse again over the
 * final bytes, since the result points into them. */
static enum lam_status settle_header(struct lam_file *file, struct lam_err *err)
{
    unsigned char *exact = lam_realloc(file->header, file->header_bytes, 1);
    enum lam_status status;

    lam_gguf_destroy(file->gguf);
    file->gguf = NULL;
    if (exact == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the header of %s", file->path);
    file->header = exact;
    status = lam_file_read(file, 0, file->header, file->header_bytes, err);
    if (status != LAM_OK)
        return status;
    status = lam_gguf_parse(file->header, file->header_bytes, file->bytes, &file->gguf, err);
    if (status != LAM_OK)
        return lam_err_wrap(err, status, "%s", file->path);
    file->digest = XXH3_64bits(file->header, file->header_bytes);
    return LAM_OK;
}

static enum lam_status describe(struct lam_file *file, struct lam_err *err)
{
    enum lam_status status = lam_spec_read(file->gguf, &file->spec, err);

    if (status == LAM_OK)
        status = lam_manifest_build(file->gguf, &file->spec, &file->manifest, err);
    if (status != LAM_OK)
        return lam_err_wrap(err, status, "%s", file->path);
    return LAM_OK;
}

enum lam_status lam_file_open_bytes(
    const char *path, struct lam_file *ret_file, struct lam_err *err)
{
    struct lam_file file = {.fd = -1, .direct_fd = -1};
    enum lam_status status;

    file.path = lam_strdup(path);
    if (file.path == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the path %s", path);
    status = open_regular(&file, err);
    if (status != LAM_OK) {
        lam_file_close(&file);
        return status;
    }
    file.direct_fd = lam_file_open_direct(file.fd, &file.align);
    *ret_file = file;
    return LAM_OK;
}

enum lam_status lam_file_open(const char *path, struct lam_file *ret_file, struct lam_err *err)
{
    struct lam_file file;
    enum lam_status status = lam_file_open_bytes(path, &file, err);

    if (status != LAM_OK)
        return status;
    status = read_header(&file, err);
    if (status == LAM_OK)
        status = settle_header(&file, err);
    if (status == LAM_OK)
        status = describe(&file, err);
    if (status != LAM_OK) {
        lam_file_close(&file);
        return status;
    }
    /* From here on only scattered rows are read through the page cache. */
    posix_fadvise(file.fd, 0, 0, POSIX_FADV_RANDOM);
    *ret_file = file;
    return LAM_OK;
}

void lam_file_close(struct lam_file *file)
{
    lam_manifest_done(&file->manifest);
    lam_gguf_destroy(file->gguf);
    lam_free(file->header);
    lam_free(file->path);
    if (file->direct_fd >= 0)
        close(file->direct_fd);
    if (file->fd >= 0)
        close(file->fd);
    *file = (struct lam_file){.fd = -1, .direct_fd = -1};
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* What happened to the file since it was opened, or NULL. */
static const char *find_change(const struct stat *was, const struct stat *now)
{
    if (now->st_size < was->st_size)
        return "it was cut";
    if (now->st_size != was->st_size || !same_time(now->st_mtim, was->st_mtim))
        return "it was written to";
    /* The one time that nobody can set: whoever put the others back is seen here. */
    if (!same_time(now->st_ctim, was->st_ctim))
        return "its inode was changed, by a write or by chmod, chown or ln";
    return NULL;
}

enum lam_status lam_file_check(const struct lam_file *file, struct lam_err *err)
{
    const char *change = NULL;
    struct stat now;
    int error = 0;

    /* By name first: a rename changes the inode too, and this says more. Other errors than these
     * are those of a directory that cannot be reached now; the file is open all the same. */
    if (stat(file->path, &now) != 0)
        error = errno;
    if (error == ENOENT || error == ENOTDIR)
        change = "it was removed or renamed";
    else if (error == 0 &&
             (now.st_ino != file->identity.st_ino || now.st_dev != file->identity.st_dev))
        change = "another file has its name now";
    if (fstat(file->fd, &now) != 0)
        return lam_fail_errno(err, errno, "cannot look at the model file %s", file->path);
    if (change == NULL)
        change = find_change(&file->identity, &now);
    if (change == NULL)
        return LAM_OK;
    return lam_fail(err, LAM_DATA_LOSS,
        "%s was changed while it was in use: %s; restart the loader to use what is there now",
        file->path, change);
}
