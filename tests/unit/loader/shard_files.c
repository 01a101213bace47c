/* shard_files: see the header. */
#include "tests/unit/loader/shard_files.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "common/size.h"

#define ALIGNMENT 32u
#define COUNTS_BYTES 24u /* magic, version, both counts */
#define TYPE_U16 2u
#define TYPE_I32 5u

static void put(struct lam_buf *buf, const void *bytes, size_t n_bytes)
{
    assert(lam_buf_append(buf, bytes, n_bytes));
}

static void put_u64(struct lam_buf *buf, uint64_t value)
{
    put(buf, &value, sizeof(value));
}

static void put_number(
    struct lam_buf *buf, const char *key, uint32_t type, const void *value, size_t value_bytes)
{
    put_u64(buf, strlen(key));
    put(buf, key, strlen(key));
    put(buf, &type, sizeof(type));
    put(buf, value, value_bytes);
}

static void put_tensor(struct lam_buf *buf, const struct lam_gguf_tensor *tensor, uint64_t offset)
{
    uint32_t type = (uint32_t)tensor->dtype;

    put_u64(buf, tensor->name.size);
    put(buf, tensor->name.data, tensor->name.size);
    put(buf, &tensor->n_dims, sizeof(tensor->n_dims));
    put(buf, tensor->dims, tensor->n_dims * sizeof(tensor->dims[0]));
    put(buf, &type, sizeof(type));
    put_u64(buf, offset);
}

static void pad(struct lam_buf *buf)
{
    while (buf->size % ALIGNMENT != 0)
        put(buf, "", 1);
}

static void put_header(struct lam_buf *buf, const struct model_file *whole,
    const struct lam_gguf *gguf, uint64_t first, uint64_t end, bool with_keys,
    const struct shard_lie *numbers)
{
    const uint32_t version = 3;
    uint64_t keys_end =
        (uint64_t)((const unsigned char *)lam_gguf_tensor(gguf, 0)->name.data - whole->bytes) -
        sizeof(uint64_t);
    uint64_t offset = 0;

    put(buf, "GGUF", 4);
    put(buf, &version, sizeof(version));
    put_u64(buf, end - first);
    put_u64(buf, (with_keys ? lam_gguf_n_keys(gguf) : 0) + 3);
    if (with_keys)
        put(buf, whole->bytes + COUNTS_BYTES, keys_end - COUNTS_BYTES);
    put_number(buf, "split.no", TYPE_U16, &numbers->index, sizeof(numbers->index));
    put_number(buf, "split.count", TYPE_U16, &numbers->count, sizeof(numbers->count));
    put_number(
        buf, "split.tensors.count", TYPE_I32, &numbers->n_tensors, sizeof(numbers->n_tensors));
    for (uint64_t t = first; t < end; t++) {
        put_tensor(buf, lam_gguf_tensor(gguf, t), offset);
        offset = lam_align_up(offset + lam_gguf_tensor(gguf, t)->bytes, ALIGNMENT);
    }
    pad(buf);
}

static void write_file(const char *path, const struct lam_buf *buf)
{
    FILE *file = fopen(path, "we");

    assert(file != NULL && fwrite(buf->data, 1, buf->size, file) == buf->size);
    assert(fclose(file) == 0);
}

void shard_files_write(struct shard_files *shards, const struct model_file *whole,
    const struct lam_gguf *gguf, const char *const *dirs, const struct shard_lie *lie)
{
    struct lam_buf buf = LAM_BUF(whole->n_bytes + LAM_MIB);

    for (uint32_t i = 0; i < shards->n; i++) {
        struct shard_lie numbers = {.index = (uint16_t)i,
            .count = (uint16_t)shards->n,
            .n_tensors = (int32_t)lam_gguf_n_tensors(gguf)};

        if (lie != NULL && lie->shard == i)
            numbers = *lie;
        lam_buf_clear(&buf);
        put_header(&buf, whole, gguf, shards->firsts[i], shards->firsts[i + 1], i == 0, &numbers);
        for (uint64_t t = shards->firsts[i]; t < shards->firsts[i + 1]; t++) {
            const struct lam_gguf_tensor *tensor = lam_gguf_tensor(gguf, t);

            pad(&buf);
            put(&buf, whole->bytes + tensor->offset, tensor->bytes);
        }
        snprintf(shards->paths[i], sizeof(shards->paths[i]),
            "%s/model-%05" PRIu32 "-of-%05" PRIu32 ".gguf", dirs[i], i + 1, shards->n);
        write_file(shards->paths[i], &buf);
    }
    lam_buf_done(&buf);
}
