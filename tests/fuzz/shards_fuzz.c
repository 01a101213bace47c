/*
 * Fuzz target: the headers of a model's shards, and the one header that the loader makes of them.
 *
 * Input: for each shard 4 bytes with the size of its header and 8 by how much its file is larger
 * (little-endian), then the header. Beyond "no crash": what was merged is a header by the same
 * parser's word or is refused by it, each tensor lies in the span of its shard with its bytes at
 * the place they have there, and spans neither overlap nor begin in the header. First inputs:
 * shards_seeds.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/size.h"
#include "model/shards.h"

#define SHARDS_MAX 6u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_spans(const struct lam_span *spans, const struct lam_shard *shards, uint32_t n,
    uint64_t header_bytes, uint64_t bytes)
{
    uint64_t end = header_bytes;

    for (uint32_t i = 0; i < n; i++) {
        assert(spans[i].begin >= end && spans[i].begin % LAM_SHARDS_ALIGN == 0);
        assert(spans[i].file_offset % LAM_SHARDS_ALIGN == 0);
        assert(spans[i].file_offset + spans[i].bytes == shards[i].file_bytes);
        end = spans[i].begin + spans[i].bytes;
        assert(lam_shards_find(spans, n, spans[i].begin) >= i);
    }
    assert(end == bytes);
}

/* The merged header once more, against the shards. */
static void check_tensors(const struct lam_gguf *whole, const struct lam_span *spans,
    const struct lam_shard *shards, uint32_t n)
{
    uint64_t at = 0;

    for (uint32_t i = 0; i < n; i++) {
        for (uint64_t t = 0; t < lam_gguf_n_tensors(shards[i].gguf); t++, at++) {
            const struct lam_gguf_tensor *part = lam_gguf_tensor(shards[i].gguf, t);
            const struct lam_gguf_tensor *tensor = lam_gguf_tensor(whole, at);

            assert(tensor->bytes == part->bytes && tensor->dtype == part->dtype);
            assert(tensor->name.size == part->name.size);
            assert(memcmp(tensor->name.data, part->name.data, part->name.size) == 0);
            assert(tensor->offset >= spans[i].begin);
            assert(tensor->offset - spans[i].begin + spans[i].file_offset == part->offset);
        }
    }
    assert(at == lam_gguf_n_tensors(whole));
}

static void merge(const struct lam_shard *shards, uint32_t n)
{
    struct lam_buf header = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX);
    struct lam_span spans[SHARDS_MAX];
    struct lam_gguf *whole = NULL;
    struct lam_err err = {0};
    uint64_t bytes = 0;
    enum lam_status status = lam_shards_merge(shards, n, &header, spans, &bytes, &err);

    assert(status == LAM_OK || err.text[0]);
    if (status == LAM_OK && n > 1) {
        check_spans(spans, shards, n, header.size, bytes);
        if (lam_gguf_parse(header.data, header.size, bytes, &whole, &err) == LAM_OK)
            check_tensors(whole, spans, shards, n);
        else
            assert(err.text[0]);
    }
    lam_gguf_destroy(whole);
    lam_buf_done(&header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lam_gguf *ggufs[SHARDS_MAX] = {0};
    struct lam_shard shards[SHARDS_MAX];
    uint32_t n = 0;

    while (n < SHARDS_MAX) {
        struct lam_shard_numbers numbers;
        uint32_t header_bytes;
        uint64_t extra, file_bytes;

        if (size < sizeof header_bytes + sizeof extra)
            break;
        memcpy(&header_bytes, data, sizeof header_bytes);
        memcpy(&extra, data + sizeof header_bytes, sizeof extra);
        data += sizeof header_bytes + sizeof extra;
        size -= sizeof header_bytes + sizeof extra;
        header_bytes = header_bytes < size ? header_bytes : (uint32_t)size;
        if (!lam_size_add(header_bytes, extra, &file_bytes) || file_bytes > INT64_MAX ||
            lam_gguf_parse(data, header_bytes, file_bytes, &ggufs[n], NULL) != LAM_OK)
            break;
        if (lam_shards_number(ggufs[n], &numbers, NULL) == LAM_OK)
            assert(numbers.count > 0 && numbers.index < numbers.count);
        shards[n] = (struct lam_shard){ggufs[n], data, file_bytes};
        data += header_bytes;
        size -= header_bytes;
        n++;
    }
    if (n > 0)
        merge(shards, n);
    for (uint32_t i = 0; i < n; i++)
        lam_gguf_destroy(ggufs[i]);
    return 0;
}
