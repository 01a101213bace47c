/*
 * file_open: opens a model: its file, or its shards, their headers, and one header of all. The
 * header of a GGUF file has no length field: it is read in growing pieces until the parser is
 * content.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/fault.h"
#include "common/mem.h"
#include "common/size.h"
#include "loader/file.h"

#define HEADER_FIRST_BYTES LAM_MIB
#define ALIGN_MAX 65536u

/* A part's own header, until all are made one. */
struct part_header {
    unsigned char *bytes;
    uint64_t n_bytes;
    struct lam_gguf *gguf;
};

/* ---- one part ---- */

static enum lam_status open_file(const char *path, struct lam_part *part, struct lam_err *err)
{
    part->path = lam_strdup(path);
    if (part->path == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the path %s", path);
    part->fd = open(part->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (part->fd < 0)
        return lam_fail_errno(err, errno, "cannot open the model file %s", part->path);
    if (fstat(part->fd, &part->identity) != 0)
        return lam_fail_errno(err, errno, "cannot look at the model file %s", part->path);
    if (S_ISDIR(part->identity.st_mode))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s is a directory: give the path of a .gguf file in it", part->path);
    if (!S_ISREG(part->identity.st_mode))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s is not a regular file: give the path of a .gguf file", part->path);
    if (part->identity.st_size == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s is empty: the download or copy may have failed, fetch it again", part->path);
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

static enum lam_status read_bytes(
    const struct lam_part *part, struct part_header *header, uint64_t n_bytes, struct lam_err *err)
{
    unsigned char *grown = lam_realloc(header->bytes, n_bytes, 1);

    if (grown == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "no memory for %" PRIu64 " bytes of the header of %s", n_bytes, part->path);
    header->bytes = grown;
    while (header->n_bytes < n_bytes) {
        ssize_t n = lam_fault_hit("pread") ? -1
                                           : pread(part->fd, header->bytes + header->n_bytes,
                                                 n_bytes - header->n_bytes, (off_t)header->n_bytes);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lam_fail(err, LAM_UNAVAILABLE, "cannot read %s at byte %" PRIu64 ": %s",
                part->path, header->n_bytes, strerror(errno));
        if (n == 0)
            return lam_fail(err, LAM_DATA_LOSS,
                "%s ends at byte %" PRIu64 ", it was longer when it was opened: restore the file",
                part->path, header->n_bytes);
        header->n_bytes += (uint64_t)n;
    }
    return LAM_OK;
}

/* Up to the first byte of tensor data, or to the file's end. */
static uint64_t own_bytes(const struct lam_part *part, const struct lam_gguf *gguf)
{
    uint64_t bytes = lam_gguf_header_bytes(gguf);

    if (lam_gguf_n_tensors(gguf) > 0)
        bytes = (uint64_t)part->identity.st_size;
    for (uint64_t i = 0; i < lam_gguf_n_tensors(gguf); i++) {
        uint64_t offset = lam_gguf_tensor(gguf, i)->offset;

        bytes = offset < bytes ? offset : bytes;
    }
    return bytes;
}

/* The padding before the first tensor may lie behind what the parser needed: parse again over the
 * final bytes, since the result points into them. */
static enum lam_status settle_header(
    struct lam_part *part, struct part_header *header, struct lam_err *err)
{
    uint64_t n_bytes = own_bytes(part, header->gguf);
    enum lam_status status;

    lam_gguf_destroy(header->gguf);
    header->gguf = NULL;
    if (n_bytes > LAM_GGUF_HEADER_BYTES_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s: its first tensor begins at byte %" PRIu64 ", and a header has at most 64 MiB: the "
            "file is damaged, fetch it again",
            part->path, n_bytes);
    header->n_bytes = header->n_bytes < n_bytes ? header->n_bytes : n_bytes;
    part->header_bytes = n_bytes;
    status = read_bytes(part, header, n_bytes, err);
    if (status == LAM_OK)
        status = lam_gguf_parse(
            header->bytes, n_bytes, (uint64_t)part->identity.st_size, &header->gguf, err);
    return status;
}

/* Reads more and more of the file until the parser has seen the whole header. */
static enum lam_status read_header(
    struct lam_part *part, struct part_header *header, struct lam_err *err)
{
    uint64_t file_bytes = (uint64_t)part->identity.st_size;
    uint64_t want = HEADER_FIRST_BYTES;
    enum lam_status status;

    for (;; want *= 2) {
        want = want < file_bytes ? want : file_bytes;
        status = read_bytes(part, header, want, err);
        if (status != LAM_OK)
            return status;
        status = lam_gguf_parse(header->bytes, want, file_bytes, &header->gguf, err);
        if (status == LAM_OK)
            break;
        if (status != LAM_OUT_OF_RANGE || want == file_bytes || want >= LAM_GGUF_HEADER_BYTES_MAX)
            return lam_err_wrap(err, status, "%s", part->path);
    }
    return settle_header(part, header, err);
}

static enum lam_status open_part(
    const char *path, struct lam_part *part, struct part_header *header, struct lam_err *err)
{
    enum lam_status status = open_file(path, part, err);

    return status == LAM_OK ? read_header(part, header, err) : status;
}

void lam_part_close(struct lam_part *part)
{
    lam_free(part->path);
    if (part->direct_fd >= 0)
        close(part->direct_fd);
    if (part->fd >= 0)
        close(part->fd);
}

/* ---- all parts ---- */

/* Room for n parts, the first of which may be there. False: no memory. */
static bool make_room(struct lam_file *file, uint32_t n)
{
    struct lam_part *parts = lam_realloc(file->parts, n, sizeof(*parts));
    struct lam_span *spans = lam_realloc(file->spans, n, sizeof(*spans));

    file->parts = parts != NULL ? parts : file->parts;
    file->spans = spans != NULL ? spans : file->spans;
    if (parts == NULL || spans == NULL)
        return false;
    for (; file->n_parts < n; file->n_parts++)
        parts[file->n_parts] = (struct lam_part){.fd = -1, .direct_fd = -1};
    return true;
}

/* DIR/NAME in path. False: too long. */
static bool join(const char *dir, size_t dir_length, const char *name, char path[PATH_MAX])
{
    int length = snprintf(path, PATH_MAX, "%.*s/%s", (int)dir_length, dir, name);

    return length > 0 && length < PATH_MAX;
}

/* The shard's path: beside the first one, else in one of the directories. */
static enum lam_status find_shard(const char *first, uint32_t index, uint32_t count,
    const struct lam_file_dirs *dirs, char path[PATH_MAX], struct lam_err *err)
{
    const char *slash = strrchr(first, '/');
    const char *dir = slash == NULL ? "." : first;
    size_t dir_length = slash == NULL ? 1 : (size_t)(slash - first);
    char name[NAME_MAX + 1];

    if (!lam_shards_name(slash == NULL ? first : slash + 1, index, count, name, sizeof(name)))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s is the first of %" PRIu32
            " shards, and its name does not end with -00001-of-%05" PRIu32
            ".gguf, so the others cannot be found: give it that name back",
            first, count, count);
    if (join(dir, dir_length, name, path) && access(path, F_OK) == 0)
        return LAM_OK;
    for (size_t d = 0; dirs != NULL && d < dirs->n; d++) {
        if (join(dirs->items[d], strlen(dirs->items[d]), name, path) && access(path, F_OK) == 0)
            return LAM_OK;
    }
    return lam_fail(err, LAM_NOT_FOUND,
        "shard %" PRIu32 " of %" PRIu32 ", %.200s, is neither beside %.300s nor in a directory of "
        "--shards: fetch it, link it there, or name the directory that it is in",
        index + 1, count, name, first);
}

static enum lam_status open_shards(struct lam_file *file, struct part_header *headers,
    const struct lam_file_dirs *dirs, struct lam_err *err)
{
    char path[PATH_MAX];
    enum lam_status status = LAM_OK;

    for (uint32_t i = 1; i < file->n_parts && status == LAM_OK; i++) {
        status = find_shard(file->parts[0].path, i, file->n_parts, dirs, path, err);
        if (status == LAM_OK)
            status = open_part(path, &file->parts[i], &headers[i], err);
    }
    return status;
}

/* How many there are, by the first; *ret_n is set on success. */
static enum lam_status count_parts(
    const struct lam_part *first, const struct lam_gguf *gguf, uint32_t *ret_n, struct lam_err *err)
{
    struct lam_shard_numbers numbers;
    enum lam_status status = lam_shards_number(gguf, &numbers, err);

    if (status != LAM_OK)
        return lam_err_wrap(err, status, "%s", first->path);
    if (numbers.index > 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s is shard %" PRIu32 " of %" PRIu32 " of its model: give the path of the first, "
            "which ends with -00001-of-%05" PRIu32 ".gguf",
            first->path, numbers.index + 1, numbers.count, numbers.count);
    *ret_n = numbers.count;
    return LAM_OK;
}

/* One header of all: file takes over that of a single part. */
static enum lam_status merge(
    struct lam_file *file, struct part_header *headers, struct lam_err *err)
{
    struct lam_shard *shards = lam_calloc(file->n_parts, sizeof(*shards));
    struct lam_buf merged = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX);
    enum lam_status status;

    if (shards == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the parts of %s", file->path);
    for (uint32_t i = 0; i < file->n_parts; i++)
        shards[i] = (struct lam_shard){.gguf = headers[i].gguf,
            .header = headers[i].bytes,
            .file_bytes = (uint64_t)file->parts[i].identity.st_size};
    status = lam_shards_merge(shards, file->n_parts, &merged, file->spans, &file->bytes, err);
    lam_free(shards);
    if (status == LAM_OK && file->n_parts > 1) {
        file->header = (unsigned char *)merged.data;
        file->header_bytes = merged.size;
        status = lam_gguf_parse(file->header, file->header_bytes, file->bytes, &file->gguf, err);
    } else if (status == LAM_OK) {
        file->header = headers[0].bytes;
        file->header_bytes = headers[0].n_bytes;
        file->gguf = headers[0].gguf;
        headers[0] = (struct part_header){0};
    }
    if (status != LAM_OK) {
        if (file->header == NULL)
            lam_buf_done(&merged);
        return lam_err_wrap(err, status, "%s", file->path);
    }
    file->digest = XXH3_64bits(file->header, file->header_bytes);
    return LAM_OK;
}

static void open_direct(struct lam_file *file)
{
    file->align = LAM_FILE_ALIGN_DEFAULT;
    for (uint32_t i = 0; i < file->n_parts; i++) {
        struct lam_part *part = &file->parts[i];
        uint64_t align;

        part->direct_fd = lam_file_open_direct(part->fd, &align);
        if (file->n_parts > 1 && part->direct_fd >= 0 && align > LAM_SHARDS_ALIGN) {
            close(part->direct_fd); /* its span is aligned to less */
            part->direct_fd = -1;
        }
        if (part->direct_fd >= 0 && align > file->align)
            file->align = align;
        /* From here on only scattered rows are read through the page cache. */
        posix_fadvise(part->fd, 0, 0, POSIX_FADV_RANDOM);
    }
}

static enum lam_status open_all(struct lam_file *file, struct part_header *first,
    const struct lam_file_dirs *dirs, struct lam_err *err)
{
    struct part_header *headers = NULL;
    uint32_t n = 1;
    enum lam_status status = count_parts(&file->parts[0], first->gguf, &n, err);

    if (status != LAM_OK)
        return status;
    headers = lam_calloc(n, sizeof(*headers));
    if (headers == NULL || !make_room(file, n)) {
        lam_free(headers);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the parts of %s", file->path);
    }
    file->path = file->parts[0].path;
    headers[0] = *first;
    *first = (struct part_header){0};
    status = open_shards(file, headers, dirs, err);
    if (status == LAM_OK)
        status = merge(file, headers, err);
    for (uint32_t i = 0; i < n; i++) {
        lam_gguf_destroy(headers[i].gguf);
        lam_free(headers[i].bytes);
    }
    lam_free(headers);
    return status;
}

enum lam_status lam_file_open_header(const char *path, const struct lam_file_dirs *dirs,
    struct lam_file *ret_file, struct lam_err *err)
{
    struct lam_file file = {0};
    struct part_header first = {0};
    enum lam_status status = LAM_OK;

    if (!make_room(&file, 1))
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the path %s", path);
    if (status == LAM_OK)
        status = open_part(path, &file.parts[0], &first, err);
    if (status == LAM_OK)
        status = open_all(&file, &first, dirs, err);
    lam_gguf_destroy(first.gguf);
    lam_free(first.bytes);
    if (status != LAM_OK) {
        lam_file_close(&file);
        return status;
    }
    open_direct(&file);
    *ret_file = file;
    return LAM_OK;
}

enum lam_status lam_file_open_bytes(
    const char *path, struct lam_file *ret_file, struct lam_err *err)
{
    struct lam_file file = {0};
    enum lam_status status;

    if (!make_room(&file, 1)) {
        lam_file_close(&file);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the path %s", path);
    }
    status = open_file(path, &file.parts[0], err);
    if (status != LAM_OK) {
        lam_file_close(&file);
        return status;
    }
    file.path = file.parts[0].path;
    file.bytes = (uint64_t)file.parts[0].identity.st_size;
    file.spans[0] = (struct lam_span){.bytes = file.bytes};
    open_direct(&file);
    *ret_file = file;
    return LAM_OK;
}

enum lam_status lam_file_open(const char *path, const struct lam_file_dirs *dirs,
    struct lam_file *ret_file, struct lam_err *err)
{
    struct lam_file file;
    enum lam_status status = lam_file_open_header(path, dirs, &file, err);

    if (status != LAM_OK)
        return status;
    status = lam_spec_read(file.gguf, &file.spec, err);
    if (status == LAM_OK)
        status = lam_manifest_build(file.gguf, &file.spec, &file.manifest, err);
    if (status != LAM_OK) {
        status = lam_err_wrap(err, status, "%s", file.path);
        lam_file_close(&file);
        return status;
    }
    *ret_file = file;
    return LAM_OK;
}

void lam_file_close(struct lam_file *file)
{
    lam_manifest_done(&file->manifest);
    lam_gguf_destroy(file->gguf);
    lam_free(file->header);
    for (uint32_t i = 0; i < file->n_parts; i++)
        lam_part_close(&file->parts[i]);
    lam_free(file->parts);
    lam_free(file->spans);
    *file = (struct lam_file){0};
}
