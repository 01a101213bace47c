/* file: see the header. Opening is in file_open.c; here is what is asked of an open one. */
#include "loader/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/size.h"

/* ---- ranges ---- */

/* What one part, or none, holds of a range from its first byte on. */
struct stretch {
    const struct lam_part *part; /* NULL: none; memory has it, or it is between parts */
    const unsigned char *memory; /* part NULL: the bytes; NULL: zeros */
    uint64_t file_offset;        /* of the part */
    uint64_t bytes;
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* n_bytes > 0. Behind the last part's end there is more of it, to be missed by a read. */
static struct stretch stretch_at(const struct lam_file *file, uint64_t offset, uint64_t n_bytes)
{
    struct stretch it = {.bytes = n_bytes};
    const struct lam_span *span;
    uint64_t end;
    uint32_t p;

    if (offset < file->spans[0].begin) { /* the header of a split model */
        bool inside = offset < file->header_bytes;

        end = inside ? file->header_bytes : file->spans[0].begin;
        it.memory = inside ? file->header + offset : NULL;
        it.bytes = least(n_bytes, end - offset);
        return it;
    }
    p = lam_shards_find(file->spans, file->n_parts, offset);
    span = &file->spans[p];
    end = span->begin + span->bytes;
    if (p + 1 < file->n_parts && offset >= end) {
        it.bytes = least(n_bytes, span[1].begin - offset);
        return it;
    }
    it.part = &file->parts[p];
    it.file_offset = span->file_offset + (offset - span->begin);
    if (p + 1 < file->n_parts)
        it.bytes = least(n_bytes, end - offset);
    return it;
}

static void copy_memory(const struct stretch *it, unsigned char *out)
{
    if (it->memory != NULL)
        memcpy(out, it->memory, it->bytes);
    else
        memset(out, 0, it->bytes);
}

/* ---- reading ---- */

static enum lam_status read_part(const struct lam_part *part, uint64_t offset, unsigned char *out,
    uint64_t n_bytes, struct lam_err *err)
{
    while (n_bytes > 0) {
        ssize_t n = lam_fault_hit("pread") ? -1 : pread(part->fd, out, n_bytes, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lam_fail(err, LAM_UNAVAILABLE, "cannot read %s at byte %" PRIu64 ": %s",
                part->path, offset, strerror(errno));
        if (n == 0)
            return lam_fail(err, LAM_DATA_LOSS,
                "%s ends at byte %" PRIu64 ", it was longer when it was opened: restore the file",
                part->path, offset);
        out += n;
        offset += (uint64_t)n;
        n_bytes -= (uint64_t)n;
    }
    return LAM_OK;
}

enum lam_status lam_file_read(
    const struct lam_file *file, uint64_t offset, void *out, uint64_t n_bytes, struct lam_err *err)
{
    enum lam_status status = LAM_OK;
    unsigned char *to = out;

    while (n_bytes > 0 && status == LAM_OK) {
        struct stretch it = stretch_at(file, offset, n_bytes);

        if (it.part != NULL)
            status = read_part(it.part, it.file_offset, to, it.bytes, err);
        else
            copy_memory(&it, to);
        to += it.bytes;
        offset += it.bytes;
        n_bytes -= it.bytes;
    }
    return status;
}

bool lam_file_read_cached(const struct lam_file *file, uint64_t offset, void *out, uint64_t n_bytes)
{
    unsigned char *to = out;
    bool whole = true;

    while (n_bytes > 0 && whole) {
        struct stretch it = stretch_at(file, offset, n_bytes);
        struct iovec part = {.iov_base = to, .iov_len = it.bytes};

        if (it.part != NULL)
            whole = preadv2(it.part->fd, &part, 1, (off_t)it.file_offset, RWF_NOWAIT) ==
                    (ssize_t)it.bytes;
        else
            copy_memory(&it, to);
        to += it.bytes;
        offset += it.bytes;
        n_bytes -= it.bytes;
    }
    return whole;
}

/* As much as direct reads bring of it; a last piece of less than align is beyond the part's end or
 * not there. */
static uint64_t read_direct(
    const struct lam_file *file, const struct stretch *it, unsigned char *out)
{
    uint64_t want = lam_align_up(it->bytes, file->align);
    uint64_t have = 0;

    while (it->part->direct_fd >= 0 && have < it->bytes) {
        ssize_t n =
            pread(it->part->direct_fd, out + have, want - have, (off_t)(it->file_offset + have));

        if (n <= 0 && !(n < 0 && errno == EINTR))
            break;
        have += n < 0 ? 0 : (uint64_t)n;
        if (have < it->bytes)
            have = lam_align_down(have, file->align);
    }
    return least(have, it->bytes);
}

enum lam_status lam_file_read_uncached(
    const struct lam_file *file, uint64_t offset, void *out, uint64_t n_bytes, struct lam_err *err)
{
    enum lam_status status = LAM_OK;
    unsigned char *to = out;

    while (n_bytes > 0 && status == LAM_OK) {
        struct stretch it = stretch_at(file, offset, n_bytes);
        uint64_t have = it.part != NULL ? read_direct(file, &it, to) : 0;

        if (it.part == NULL) {
            copy_memory(&it, to);
        } else if (have < it.bytes) { /* an error is met again and named */
            posix_fadvise(it.part->fd, (off_t)it.file_offset, (off_t)it.bytes, POSIX_FADV_DONTNEED);
            status = read_part(it.part, it.file_offset + have, to + have, it.bytes - have, err);
        }
        to += it.bytes;
        offset += it.bytes;
        n_bytes -= it.bytes;
    }
    return status;
}

void lam_file_advise(const struct lam_file *file, uint64_t offset, uint64_t n_bytes, int advice)
{
    while (n_bytes > 0) {
        struct stretch it = stretch_at(file, offset, n_bytes);

        if (it.part != NULL)
            posix_fadvise(it.part->fd, (off_t)it.file_offset, (off_t)it.bytes, advice);
        offset += it.bytes;
        n_bytes -= it.bytes;
    }
}

/* ---- change ---- */

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

static enum lam_status check_part(const struct lam_part *part, struct lam_err *err)
{
    const char *change = NULL;
    struct stat now;
    int error = 0;

    /* By name first: a rename changes the inode too, and this says more. Other errors than these
     * are those of a directory that cannot be reached now; the file is open all the same. */
    if (stat(part->path, &now) != 0)
        error = errno;
    if (error == ENOENT || error == ENOTDIR)
        change = "it was removed or renamed";
    else if (error == 0 &&
             (now.st_ino != part->identity.st_ino || now.st_dev != part->identity.st_dev))
        change = "another file has its name now";
    if (fstat(part->fd, &now) != 0)
        return lam_fail_errno(err, errno, "cannot look at the model file %s", part->path);
    if (change == NULL)
        change = find_change(&part->identity, &now);
    if (change == NULL)
        return LAM_OK;
    return lam_fail(err, LAM_DATA_LOSS,
        "%s was changed while it was in use: %s; restart the loader to use what is there now",
        part->path, change);
}

enum lam_status lam_file_check(const struct lam_file *file, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    for (uint32_t p = 0; p < file->n_parts && status == LAM_OK; p++)
        status = check_part(&file->parts[p], err);
    return status;
}
