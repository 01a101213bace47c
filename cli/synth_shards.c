/* synth_shards: see synth_shards.h. A shard's data section is a stretch of that of the whole, so
 * only headers are made anew. */
#include "cli/synth_shards.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "model/gguf.h"
#include "model/gguf_write.h"
#include "model/shards.h"

#define NAME_BYTES_MAX 256

/* The tensors [*first, ...) that fit into a shard of that many bytes, one at least; returns the end
 * of them. The header is not counted, as llama.cpp does not. */
static uint64_t end_of_shard(const struct lam_gguf *gguf, uint64_t first, uint64_t bytes_max)
{
    uint64_t begin = lam_gguf_tensor(gguf, first)->offset;
    uint64_t end = first + 1;

    while (end < lam_gguf_n_tensors(gguf)) {
        const struct lam_gguf_tensor *tensor = lam_gguf_tensor(gguf, end);

        if (tensor->offset + tensor->bytes - begin > bytes_max)
            break;
        end++;
    }
    return end;
}

static void put_tensor(struct lam_gguf_writer *writer, const struct lam_gguf_tensor *tensor)
{
    char name[NAME_BYTES_MAX];

    assert(tensor->name.size < sizeof name && tensor->n_dims <= 2);
    memcpy(name, tensor->name.data, tensor->name.size);
    name[tensor->name.size] = '\0';
    lam_gguf_put_tensor(
        writer, name, tensor->dtype, tensor->dims[0], tensor->n_dims > 1 ? tensor->dims[1] : 0);
}

static enum lam_status make_shard(struct lam_synth_shards *shards, const struct lam_gguf *gguf,
    uint32_t index, uint64_t first, uint64_t end, struct lam_err *err)
{
    const struct lam_synth_model *model = shards->model;
    struct lam_synth_shard *shard = &shards->items[index];
    struct lam_gguf_writer writer;
    enum lam_status status;

    lam_gguf_writer_init(&writer);
    if (index == 0)
        lam_gguf_put_keys(&writer, model->keys.data, model->keys.size, model->n_keys);
    lam_gguf_put_u16(&writer, "split.no", (uint16_t)index);
    lam_gguf_put_u16(&writer, "split.count", (uint16_t)shards->n);
    lam_gguf_put_i32(&writer, "split.tensors.count", (int32_t)lam_gguf_n_tensors(gguf));
    for (uint64_t t = first; t < end; t++)
        put_tensor(&writer, lam_gguf_tensor(gguf, t));
    shard->header = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX);
    shard->data_begin = lam_gguf_tensor(gguf, first)->offset;
    status = lam_gguf_writer_finish(&writer, &shard->header, &shard->file_bytes, err);
    lam_gguf_writer_done(&writer);
    return status;
}

static enum lam_status cut(struct lam_synth_shards *shards, const struct lam_gguf *gguf,
    uint64_t bytes_max, struct lam_err *err)
{
    uint64_t n_tensors = lam_gguf_n_tensors(gguf);
    enum lam_status status = LAM_OK;
    uint64_t first = 0;

    for (uint64_t t = 0; t < n_tensors; t = end_of_shard(gguf, t, bytes_max))
        shards->n++;
    if (shards->n > LAM_SHARDS_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--split-max-size makes %" PRIu32 " files of this model, and %u are the most: give a "
            "larger size",
            shards->n, LAM_SHARDS_MAX);
    shards->items = lam_calloc(shards->n, sizeof *shards->items);
    if (shards->items == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the table of shards");
    for (uint32_t i = 0; i < shards->n && status == LAM_OK; i++) {
        uint64_t end = end_of_shard(gguf, first, bytes_max);

        status = make_shard(shards, gguf, i, first, end, err);
        first = end;
    }
    return status;
}

enum lam_status lam_synth_shards_init(struct lam_synth_shards *shards,
    const struct lam_synth_model *model, uint64_t shard_bytes_max, struct lam_err *err)
{
    struct lam_gguf *gguf = NULL;
    enum lam_status status;

    *shards = (struct lam_synth_shards){.model = model};
    if (shard_bytes_max == 0) {
        shards->items = lam_calloc(1, sizeof *shards->items);
        if (shards->items == NULL)
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the table of shards");
        shards->n = 1;
        shards->items[0] = (struct lam_synth_shard){.header = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX),
            .data_begin = model->header.size,
            .file_bytes = model->file_bytes};
        return lam_buf_append(&shards->items[0].header, model->header.data, model->header.size)
                   ? LAM_OK
                   : lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the header of a model");
    }
    status = lam_gguf_parse(model->header.data, model->header.size, model->file_bytes, &gguf, err);
    if (status == LAM_OK)
        status = cut(shards, gguf, shard_bytes_max, err);
    lam_gguf_destroy(gguf);
    return status;
}

void lam_synth_shards_done(struct lam_synth_shards *shards)
{
    for (uint32_t i = 0; shards->items != NULL && i < shards->n; i++)
        lam_buf_done(&shards->items[i].header);
    lam_free(shards->items);
    *shards = (struct lam_synth_shards){0};
}

bool lam_synth_shards_path(const struct lam_synth_shards *shards, const char *path, uint32_t index,
    char *text, size_t text_bytes)
{
    size_t length = strlen(path);
    int n;

    if (shards->n == 1)
        n = snprintf(text, text_bytes, "%s", path);
    else {
        if (length > 5 && strcmp(path + length - 5, ".gguf") == 0)
            length -= 5;
        n = snprintf(text, text_bytes, "%.*s-%05" PRIu32 "-of-%05" PRIu32 ".gguf", (int)length,
            path, index + 1, shards->n);
    }
    return n >= 0 && (size_t)n < text_bytes;
}

void lam_synth_shards_read(
    const struct lam_synth_shards *shards, uint32_t index, uint64_t at, uint8_t *out, uint64_t n)
{
    const struct lam_synth_shard *shard = &shards->items[index];
    uint64_t header_bytes = shard->header.size;
    uint64_t n_head = at < header_bytes ? header_bytes - at : 0;
    uint64_t n_here = at < shard->file_bytes ? shard->file_bytes - at : 0;

    n_head = n_head < n ? n_head : n;
    n_here = n_here < n ? n_here : n;
    if (n_head > 0)
        memcpy(out, shard->header.data + at, n_head);
    if (n_here > n_head)
        lam_synth_model_read(shards->model, shard->data_begin + (at + n_head - header_bytes),
            out + n_head, n_here - n_head);
    memset(out + n_here, 0, n - n_here);
}
