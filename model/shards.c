/* shards: see the header. */
#include "model/shards.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/size.h"
#include "model/gguf_impl.h"

#define HEADER_VERSION 3u

/* ---- one shard ---- */

/* A number that may be absent: *ret keeps what it has. */
static enum lam_status read_number(
    const struct lam_gguf *gguf, const char *key, uint64_t *ret, struct lam_err *err)
{
    struct lam_err why = {0};
    enum lam_status status = lam_gguf_u64(gguf, key, ret, &why);

    if (status == LAM_OK || status == LAM_NOT_FOUND)
        return LAM_OK;
    return lam_fail(err, status, "%s", why.text);
}

enum lam_status lam_shards_number(
    const struct lam_gguf *gguf, struct lam_shard_numbers *ret_numbers, struct lam_err *err)
{
    uint64_t index = 0, count = 1;
    uint64_t n_tensors = lam_gguf_n_tensors(gguf);
    enum lam_status status = read_number(gguf, "split.no", &index, err);

    if (status == LAM_OK)
        status = read_number(gguf, "split.count", &count, err);
    if (status != LAM_OK)
        return status;
    if (count <= 1) { /* written by tools that split into one */
        *ret_numbers = (struct lam_shard_numbers){.count = 1, .n_tensors = n_tensors};
        return LAM_OK;
    }
    status = read_number(gguf, "split.tensors.count", &n_tensors, err);
    if (status != LAM_OK)
        return status;
    if (count > LAM_SHARDS_MAX || index >= count)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "it says that it is shard %" PRIu64 " of %" PRIu64 " (split.no, split.count); at most "
            "%u shards are allowed",
            index + 1, count, LAM_SHARDS_MAX);
    *ret_numbers = (struct lam_shard_numbers){
        .index = (uint32_t)index, .count = (uint32_t)count, .n_tensors = n_tensors};
    return LAM_OK;
}

bool lam_shards_name(
    const char *first_name, uint32_t index, uint32_t count, char *text, size_t text_bytes)
{
    char ending[32];
    size_t length = strlen(first_name);
    size_t ending_length;
    int written;

    snprintf(ending, sizeof ending, "-00001-of-%05" PRIu32 ".gguf", count);
    ending_length = strlen(ending);
    if (length < ending_length || strcmp(first_name + length - ending_length, ending) != 0)
        return false;
    written = snprintf(text, text_bytes, "%.*s-%05" PRIu32 "-of-%05" PRIu32 ".gguf",
        (int)(length - ending_length), first_name, index + 1, count);
    return written >= 0 && (size_t)written < text_bytes;
}

/* ---- all of them ---- */

static enum lam_status check_numbers(
    const struct lam_shard *shards, uint32_t n, struct lam_err *err)
{
    uint64_t n_tensors = 0, n_wanted = 0;

    for (uint32_t i = 0; i < n; i++) {
        struct lam_shard_numbers numbers;
        enum lam_status status = lam_shards_number(shards[i].gguf, &numbers, err);

        if (status != LAM_OK)
            return lam_err_wrap(err, status, "shard %" PRIu32, i + 1);
        if (numbers.count != n || numbers.index != i)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the file that is named as shard %" PRIu32 " of %" PRIu32
                " says inside that it is shard %" PRIu32 " of %" PRIu32
                ": it belongs to another model or was renamed; fetch it again",
                i + 1, n, numbers.index + 1, numbers.count);
        if (i > 0 && numbers.n_tensors != n_wanted)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "shard %" PRIu32 " is of a model with %" PRIu64 " tensors, the first shard of one "
                "with %" PRIu64 ": the files do not belong together; fetch all of them again",
                i + 1, numbers.n_tensors, n_wanted);
        n_wanted = numbers.n_tensors;
        n_tensors += lam_gguf_n_tensors(shards[i].gguf);
    }
    if (n_tensors == n_wanted)
        return LAM_OK;
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "the %" PRIu32 " shards hold %" PRIu64 " tensors together, the model has %" PRIu64
        ": the files do not belong together; fetch all of them again",
        n, n_tensors, n_wanted);
}

static uint64_t table_bytes(const struct lam_gguf *gguf)
{
    uint64_t bytes = 0;

    for (uint64_t t = 0; t < gguf->n_tensors; t++)
        bytes += sizeof(uint64_t) + gguf->tensors[t].name.size + sizeof(uint32_t) +
                 gguf->tensors[t].n_dims * sizeof(uint64_t) + sizeof(uint32_t) + sizeof(uint64_t);
    return bytes;
}

static uint64_t first_tensor(const struct lam_shard *shard)
{
    uint64_t offset = shard->file_bytes;

    for (uint64_t t = 0; t < shard->gguf->n_tensors; t++)
        offset = shard->gguf->tensors[t].offset < offset ? shard->gguf->tensors[t].offset : offset;
    return offset;
}

/* Spans from header_bytes on. False: beyond 64 bits. */
static bool place_spans(const struct lam_shard *shards, uint32_t n, uint64_t header_bytes,
    uint64_t align, struct lam_span *ret_spans, uint64_t *ret_bytes)
{
    uint64_t at = header_bytes;
    bool fits = true;

    for (uint32_t i = 0; i < n && fits; i++) {
        uint64_t file_offset = lam_align_down(first_tensor(&shards[i]), align);

        fits = lam_size_align_up(at, align, &at);
        ret_spans[i] = (struct lam_span){
            .begin = at, .file_offset = file_offset, .bytes = shards[i].file_bytes - file_offset};
        fits = fits && lam_size_add(at, ret_spans[i].bytes, &at);
    }
    *ret_bytes = at;
    return fits;
}

static bool put_tensor(
    struct lam_buf *header, const struct lam_gguf_tensor *tensor, uint64_t offset)
{
    uint32_t dtype = (uint32_t)tensor->dtype;

    return lam_buf_append(header, &tensor->name.size, sizeof tensor->name.size) &&
           lam_buf_append(header, tensor->name.data, tensor->name.size) &&
           lam_buf_append(header, &tensor->n_dims, sizeof tensor->n_dims) &&
           lam_buf_append(header, tensor->dims, tensor->n_dims * sizeof tensor->dims[0]) &&
           lam_buf_append(header, &dtype, sizeof dtype) &&
           lam_buf_append(header, &offset, sizeof offset);
}

/* data_begin: where the data section of the whole begins, by the format. */
static bool put_header(const struct lam_shard *shards, uint32_t n, const struct lam_span *spans,
    uint64_t data_begin, struct lam_buf *header)
{
    const struct lam_gguf *first = shards[0].gguf;
    const uint32_t version = HEADER_VERSION;
    uint64_t n_tensors = 0;
    bool fits;

    for (uint32_t i = 0; i < n; i++)
        n_tensors += shards[i].gguf->n_tensors;
    fits = lam_buf_append(header, "GGUF", 4) && lam_buf_append(header, &version, sizeof version) &&
           lam_buf_append(header, &n_tensors, sizeof n_tensors) &&
           lam_buf_append(header, &first->n_keys, sizeof first->n_keys) &&
           lam_buf_append(header, (const char *)shards[0].header + first->keys_begin,
               first->keys_end - first->keys_begin);
    for (uint32_t i = 0; i < n && fits; i++) {
        for (uint64_t t = 0; t < shards[i].gguf->n_tensors && fits; t++) {
            const struct lam_gguf_tensor *tensor = &shards[i].gguf->tensors[t];

            fits = put_tensor(header, tensor,
                spans[i].begin + (tensor->offset - spans[i].file_offset) - data_begin);
        }
    }
    while (fits && header->size < data_begin)
        fits = lam_buf_append(header, "", 1);
    return fits;
}

enum lam_status lam_shards_merge(const struct lam_shard *shards, uint32_t n,
    struct lam_buf *ret_header, struct lam_span *ret_spans, uint64_t *ret_bytes,
    struct lam_err *err)
{
    const struct lam_gguf *first = shards[0].gguf;
    uint64_t align =
        first->alignment > LAM_SHARDS_ALIGN ? first->alignment : (uint64_t)LAM_SHARDS_ALIGN;
    uint64_t header_bytes = first->keys_end;
    enum lam_status status;

    assert(n > 0 && n <= LAM_SHARDS_MAX && ret_header->size == 0);
    if (n == 1) {
        ret_spans[0] = (struct lam_span){.bytes = shards[0].file_bytes};
        *ret_bytes = shards[0].file_bytes;
        return LAM_OK;
    }
    status = check_numbers(shards, n, err);
    if (status != LAM_OK)
        return status;
    for (uint32_t i = 0; i < n; i++) /* each below 64 MiB */
        header_bytes += table_bytes(shards[i].gguf);
    header_bytes = lam_align_up(header_bytes, first->alignment);
    if (header_bytes > LAM_GGUF_HEADER_BYTES_MAX ||
        !place_spans(shards, n, header_bytes, align, ret_spans, ret_bytes))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the headers of its %" PRIu32 " shards are larger than 64 MiB together", n);
    if (!put_header(shards, n, ret_spans, header_bytes, ret_header))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "no memory for the header of a model in %" PRIu32 " shards", n);
    return LAM_OK;
}

uint32_t lam_shards_find(const struct lam_span *spans, uint32_t n, uint64_t offset)
{
    uint32_t low = 0;
    uint32_t high = n;

    assert(n > 0 && spans[0].begin <= offset);
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;

        if (spans[middle].begin <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}
