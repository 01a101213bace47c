/*
 * integrity: see the header. The lock guards the record; sums are taken and files written outside
 * of it.
 */
#include "loader/integrity.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/fault.h"
#include "common/folder.h"
#include "common/mem.h"

#define NAME_BYTES_MAX 64

struct lam_integrity {
    const struct lam_file *file;
    char *path; /* of the record, "" for none; its directory exists */
    char *tmp_path;
    char note[400];

    pthread_mutex_t lock; /* guards all below */
    struct lam_record record;
    bool dirty;
    bool no_cache; /* a save failed */
    struct lam_integrity_counts counts;
};

/* ---- the record's file ---- */

/* The whole file into bytes[n_bytes_max]; larger ones, links and devices are refused. */
static enum lam_status read_record_file(const char *path, unsigned char *bytes,
    uint64_t n_bytes_max, uint64_t *ret_n, struct lam_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    struct stat info;
    uint64_t n = 0;
    ssize_t got = 1;

    if (fd < 0)
        return lam_fail_errno(err, errno, "cannot open it");
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size < 0 ||
        (uint64_t)info.st_size > n_bytes_max) {
        close(fd);
        return lam_fail(err, LAM_INVALID_ARGUMENT, "it is no record of this model");
    }
    while (n < n_bytes_max && got > 0) {
        got = read(fd, bytes + n, n_bytes_max - n);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got > 0)
            n += (uint64_t)got;
    }
    close(fd);
    if (got < 0)
        return lam_fail_errno(err, errno, "cannot read it");
    *ret_n = n;
    return LAM_OK;
}

static enum lam_status load_record(struct lam_integrity *integrity, struct lam_err *err)
{
    uint64_t n_bytes_max = lam_record_file_bytes(&integrity->record);
    unsigned char *bytes = lam_calloc(n_bytes_max, 1);
    uint64_t n_bytes = 0;
    enum lam_status status;

    if (bytes == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the checksums of %s",
            integrity->file->path);
    status = read_record_file(integrity->path, bytes, n_bytes_max, &n_bytes, err);
    if (status == LAM_OK)
        status = lam_record_parse(&integrity->record, bytes, n_bytes, err);
    lam_free(bytes);
    return status;
}

/* A record that cannot be used is begun anew, with a word about it; one that proves a change of
 * the header is an error. */
static enum lam_status take_over(struct lam_integrity *integrity, struct lam_err *err)
{
    struct lam_err why = {0};
    enum lam_status status = load_record(integrity, &why);

    if (status == LAM_OK || status == LAM_NOT_FOUND)
        return LAM_OK;
    if (status == LAM_DATA_LOSS)
        return lam_fail(err, LAM_DATA_LOSS,
            "the header of %.200s is not what it was at first sight, and nobody wrote to the file: "
            "the drive or the memory is failing; restore the file, or remove %.200s if it is right",
            integrity->file->path, integrity->path);
    snprintf(integrity->note, sizeof(integrity->note),
        "the record of checksums %.200s is of no use (%.120s): begun anew", integrity->path,
        why.text);
    return LAM_OK;
}

static enum lam_status write_all(int fd, const char *bytes, size_t n_bytes)
{
    while (n_bytes > 0) {
        bool full = lam_fault_hit("record write");
        ssize_t n = full ? -1 : write(fd, bytes, n_bytes);

        if (full)
            errno = ENOSPC;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return LAM_UNAVAILABLE;
        bytes += n;
        n_bytes -= (size_t)n;
    }
    return LAM_OK;
}

static void sync_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = lam_strndup(path, slash > path ? (size_t)(slash - path) : 1);
    int fd = dir == NULL ? -1 : open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    lam_free(dir);
}

/* All or nothing: a new file beside it, on the disk, then renamed over the old one. */
static enum lam_status write_record_file(
    const struct lam_integrity *integrity, const struct lam_buf *bytes, struct lam_err *err)
{
    int fd;
    int error = 0;

    unlink(integrity->tmp_path); /* of a process that was killed, with our number */
    fd = open(integrity->tmp_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        error = errno;
    } else if (write_all(fd, bytes->data, bytes->size) != LAM_OK || fsync(fd) != 0) {
        error = errno;
        close(fd);
    } else if (close(fd) != 0 || rename(integrity->tmp_path, integrity->path) != 0) {
        error = errno;
    } else {
        sync_directory(integrity->path);
        return LAM_OK;
    }
    unlink(integrity->tmp_path);
    return lam_fail_errno(err, error,
        "cannot keep checksums in %.200s, so the next run will not know them: make room, or give "
        "another --integrity-cache",
        integrity->path);
}

/* ---- life ---- */

/* What stat says of all parts, in one number. */
static uint64_t sum_of_parts(const struct lam_file *file)
{
    XXH64_hash_t sum = file->bytes;

    for (uint32_t p = 0; p < file->n_parts; p++) {
        const struct stat *info = &file->parts[p].identity;
        uint64_t words[] = {info->st_dev, info->st_ino, (uint64_t)info->st_size,
            (uint64_t)info->st_mtim.tv_sec, (uint64_t)info->st_mtim.tv_nsec,
            (uint64_t)info->st_ctim.tv_sec, (uint64_t)info->st_ctim.tv_nsec};

        sum = XXH3_64bits_withSeed(words, sizeof(words), sum);
    }
    return sum;
}

static struct lam_record_identity identity_of(const struct lam_file *file)
{
    const struct stat *info = &file->parts[0].identity;

    return (struct lam_record_identity){.device = info->st_dev,
        .inode = info->st_ino,
        .bytes = file->n_parts == 1 ? file->bytes : sum_of_parts(file),
        .mtime_s = info->st_mtim.tv_sec,
        .mtime_ns = info->st_mtim.tv_nsec,
        .ctime_s = info->st_ctim.tv_sec,
        .ctime_ns = info->st_ctim.tv_nsec,
        .digest = file->digest};
}

/* DIR/<device>-<inode>.sums: one record for each file, replaced when the file is written to. */
static enum lam_status name_files(
    struct lam_integrity *integrity, const char *dir, struct lam_err *err)
{
    struct lam_buf path = LAM_BUF(PATH_MAX - NAME_BYTES_MAX);
    struct lam_buf tmp_path = LAM_BUF(PATH_MAX);
    bool fits = lam_buf_text(&path, dir);
    struct lam_err why = {0};

    if (fits && lam_folder_make(path.data, &why) != LAM_OK) {
        snprintf(integrity->note, sizeof(integrity->note),
            "checksums are kept in memory only, so the next run will not know them: %.200s; give "
            "another --integrity-cache",
            why.text);
        lam_buf_clear(&path);
    } else if (fits) {
        fits = lam_buf_printf(&path, "/%" PRIx64 "-%" PRIx64 ".sums",
                   (uint64_t)integrity->file->parts[0].identity.st_dev,
                   (uint64_t)integrity->file->parts[0].identity.st_ino) &&
               lam_buf_printf(&tmp_path, "%s.%d.tmp", path.data, (int)getpid());
    }
    if (fits) {
        integrity->path = lam_strdup(path.size > 0 ? path.data : "");
        integrity->tmp_path = lam_strdup(tmp_path.size > 0 ? tmp_path.data : "");
    }
    lam_buf_done(&path);
    lam_buf_done(&tmp_path);
    if (integrity->path != NULL && integrity->tmp_path != NULL)
        return LAM_OK;
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
        "no memory for the name of a record in %.200s, or it is too long", dir);
}

enum lam_status lam_integrity_open(const struct lam_file *file, const char *dir,
    struct lam_integrity **ret_integrity, struct lam_err *err)
{
    struct lam_integrity *integrity = lam_calloc(1, sizeof(*integrity));
    struct lam_record_identity identity = identity_of(file);
    enum lam_status status;

    if (integrity == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the checksums");
    integrity->file = file;
    pthread_mutex_init(&integrity->lock, NULL);
    status = lam_record_init(&identity, &file->manifest, &integrity->record, err);
    if (status != LAM_OK)
        goto fail;
    if (dir == NULL || dir[0] == '\0')
        snprintf(integrity->note, sizeof(integrity->note),
            "checksums are kept in memory only, so the next run will not know them: set HOME, or "
            "give --integrity-cache");
    else
        status = name_files(integrity, dir, err);
    if (status == LAM_OK && lam_integrity_path(integrity)[0] != '\0')
        status = take_over(integrity, err);
    if (status != LAM_OK)
        goto fail;
    *ret_integrity = integrity;
    return LAM_OK;

fail:
    lam_integrity_close(integrity);
    return status;
}

void lam_integrity_close(struct lam_integrity *integrity)
{
    if (integrity == NULL)
        return;
    lam_record_done(&integrity->record);
    pthread_mutex_destroy(&integrity->lock);
    lam_free(integrity->path);
    lam_free(integrity->tmp_path);
    lam_free(integrity);
}

const char *lam_integrity_note(const struct lam_integrity *integrity)
{
    return integrity->note;
}

const char *lam_integrity_path(const struct lam_integrity *integrity)
{
    return integrity->path != NULL ? integrity->path : "";
}

void lam_integrity_forget(struct lam_integrity *integrity)
{
    pthread_mutex_lock(&integrity->lock);
    lam_record_forget(&integrity->record);
    integrity->dirty = true;
    pthread_mutex_unlock(&integrity->lock);
}

/* ---- chunks ---- */

/* Where the chunks lie never changes, so these two need no lock. */
struct lam_record_chunk lam_integrity_chunk(const struct lam_integrity *integrity, uint64_t chunk)
{
    return lam_record_chunk(&integrity->record, chunk);
}

void lam_integrity_chunks_of(
    const struct lam_integrity *integrity, uint32_t unit, uint64_t *ret_first, uint64_t *ret_n)
{
    lam_record_chunks_of(&integrity->record, unit, ret_first, ret_n);
}

/* Compares the chunk's sum with the record, or records it. */
static enum lam_status compare(
    struct lam_integrity *integrity, uint64_t chunk, uint64_t sum, struct lam_err *err)
{
    struct lam_record_chunk where = lam_record_chunk(&integrity->record, chunk);
    bool differs = false;

    pthread_mutex_lock(&integrity->lock);
    if (!lam_record_knows(&integrity->record, chunk)) {
        lam_record_set(&integrity->record, chunk, sum);
        integrity->counts.recorded++;
        integrity->dirty = true;
    } else {
        differs = integrity->record.sums[chunk] != sum;
        integrity->counts.compared++;
        integrity->counts.crc_failures += differs;
    }
    pthread_mutex_unlock(&integrity->lock);
    if (!differs)
        return LAM_OK;
    return lam_fail(err, LAM_DATA_LOSS,
        "%.200s: the %" PRIu64 " bytes at %" PRIu64 " are not what they were at first sight, and "
        "nobody wrote to the file: check the drive and the memory, restore the file; `laminar "
        "verify` lists all such places",
        integrity->file->path, where.bytes, where.file_offset);
}

enum lam_status lam_integrity_check_run(struct lam_integrity *integrity, uint64_t chunk,
    uint64_t n_chunks, const void *bytes, struct lam_err *err)
{
    struct lam_record_chunk first = lam_record_chunk(&integrity->record, chunk);
    struct lam_record_chunk last = lam_record_chunk(&integrity->record, chunk + n_chunks - 1);
    uint64_t sums[LAM_SUMS_MAX];
    enum lam_status status = LAM_OK;

    assert(n_chunks > 0 && n_chunks <= LAM_SUMS_MAX);
    lam_sums(bytes, last.file_offset + last.bytes - first.file_offset, first.bytes, sums);
    for (uint64_t c = 0; c < n_chunks; c++) {
        enum lam_status one = compare(integrity, chunk + c, sums[c], status == LAM_OK ? err : NULL);

        status = status == LAM_OK ? one : status;
    }
    return status;
}

enum lam_status lam_integrity_check(
    struct lam_integrity *integrity, uint64_t chunk, const void *bytes, struct lam_err *err)
{
    return lam_integrity_check_run(integrity, chunk, 1, bytes, err);
}

/* One small chunk, checked, into scratch. */
static enum lam_status read_chunk(
    struct lam_integrity *integrity, uint64_t chunk, unsigned char *scratch, struct lam_err *err)
{
    struct lam_record_chunk where = lam_record_chunk(&integrity->record, chunk);
    enum lam_status status = LAM_OK;

    for (int tries = 0; tries < 2; tries++) {
        status = lam_file_read(integrity->file, where.file_offset, scratch, where.bytes, err);
        if (status == LAM_OK)
            status = lam_file_check(integrity->file, err);
        if (status != LAM_OK)
            return status;
        status = lam_integrity_check(integrity, chunk, scratch, err);
        if (status == LAM_OK)
            return LAM_OK;
        /* Not from the page cache again. */
        lam_file_advise(integrity->file, where.file_offset, where.bytes, POSIX_FADV_DONTNEED);
    }
    return status;
}

enum lam_status lam_integrity_read(struct lam_integrity *integrity, uint64_t offset, void *out,
    uint64_t n_bytes, unsigned char *scratch, struct lam_err *err)
{
    unsigned char *to = out;
    enum lam_status status = LAM_OK;

    while (n_bytes > 0 && status == LAM_OK) {
        struct lam_record_chunk where;
        uint64_t chunk, at, n;

        if (!lam_record_find_small(&integrity->record, offset, &chunk))
            return lam_file_read(integrity->file, offset, to, n_bytes, err);
        status = read_chunk(integrity, chunk, scratch, err);
        if (status != LAM_OK)
            return status;
        where = lam_record_chunk(&integrity->record, chunk);
        at = offset - where.file_offset;
        n = where.bytes - at < n_bytes ? where.bytes - at : n_bytes;
        memcpy(to, scratch + at, n);
        to += n;
        offset += n;
        n_bytes -= n;
    }
    return status;
}

void lam_integrity_expect(struct lam_integrity *integrity, uint64_t offset, uint64_t n_bytes)
{
    uint64_t chunk, n;

    for (; n_bytes > 0; offset += n, n_bytes -= n) {
        struct lam_record_chunk where = {.file_offset = offset, .bytes = n_bytes};

        n = n_bytes;
        if (lam_record_find_small(&integrity->record, offset, &chunk)) {
            where = lam_record_chunk(&integrity->record, chunk);
            if (where.file_offset + where.bytes - offset < n)
                n = where.file_offset + where.bytes - offset;
        }
        lam_file_advise(integrity->file, where.file_offset, where.bytes, POSIX_FADV_WILLNEED);
    }
}

/* ---- news ---- */

bool lam_integrity_is_dirty(struct lam_integrity *integrity)
{
    bool dirty;

    pthread_mutex_lock(&integrity->lock);
    dirty = integrity->dirty && !integrity->no_cache && lam_integrity_path(integrity)[0] != '\0';
    pthread_mutex_unlock(&integrity->lock);
    return dirty;
}

enum lam_status lam_integrity_save(struct lam_integrity *integrity, struct lam_err *err)
{
    struct lam_buf bytes = LAM_BUF(SIZE_MAX / 2);
    enum lam_status status;
    bool fits;

    if (!lam_integrity_is_dirty(integrity))
        return LAM_OK;
    pthread_mutex_lock(&integrity->lock);
    fits = lam_record_format(&integrity->record, &bytes);
    integrity->dirty = false;
    pthread_mutex_unlock(&integrity->lock);
    status = fits ? write_record_file(integrity, &bytes, err)
                  : lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to save the checksums");
    lam_buf_done(&bytes);
    if (status != LAM_OK) {
        pthread_mutex_lock(&integrity->lock);
        integrity->no_cache = true;
        pthread_mutex_unlock(&integrity->lock);
    }
    return status;
}

void lam_integrity_count(struct lam_integrity *integrity, struct lam_integrity_counts *ret_counts)
{
    pthread_mutex_lock(&integrity->lock);
    *ret_counts = integrity->counts;
    ret_counts->chunks = integrity->record.n_chunks;
    ret_counts->known = integrity->record.n_known;
    pthread_mutex_unlock(&integrity->lock);
}
