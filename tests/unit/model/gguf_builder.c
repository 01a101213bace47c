/* gguf_builder: see gguf_builder.h. */
#include "tests/unit/model/gguf_builder.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/size.h"

#define HEADER_BYTES_MAX ((size_t)256 << 20)

enum { TYPE_U32 = 4, TYPE_F32 = 6, TYPE_BOOL = 7, TYPE_STRING = 8, TYPE_ARRAY = 9 };

static void put(struct lam_buf *buf, const void *bytes, size_t n)
{
    bool fits = lam_buf_append(buf, bytes, n);

    assert(fits);
}

static void put_u32(struct lam_buf *buf, uint32_t value)
{
    put(buf, &value, sizeof value);
}

static void put_u64(struct lam_buf *buf, uint64_t value)
{
    put(buf, &value, sizeof value);
}

static void put_str(struct lam_buf *buf, const char *text)
{
    put_u64(buf, strlen(text));
    put(buf, text, strlen(text));
}

void gguf_builder_init(struct gguf_builder *builder)
{
    memset(builder, 0, sizeof *builder);
    memcpy(builder->magic, "GGUF", 4);
    builder->version = 3;
    builder->alignment = 32;
    builder->after_keys = LAM_BUF(HEADER_BYTES_MAX);
    builder->after_tensors = LAM_BUF(HEADER_BYTES_MAX);
}

void gguf_builder_done(struct gguf_builder *builder)
{
    for (uint64_t i = 0; i < builder->n_keys; i++)
        lam_buf_done(&builder->keys[i].value);
    lam_buf_done(&builder->after_keys);
    lam_buf_done(&builder->after_tensors);
}

static struct gguf_builder_key *find_key(struct gguf_builder *builder, const char *key)
{
    for (uint64_t i = 0; i < builder->n_keys; i++)
        if (strcmp(builder->keys[i].name, key) == 0)
            return &builder->keys[i];
    return NULL;
}

void gguf_builder_raw(struct gguf_builder *builder, const char *key, uint32_t type,
    const void *value, size_t value_bytes)
{
    struct gguf_builder_key *entry = find_key(builder, key);

    if (!entry) {
        assert(builder->n_keys < GGUF_BUILDER_KEYS_MAX);
        entry = &builder->keys[builder->n_keys++];
        snprintf(entry->name, sizeof entry->name, "%s", key);
        entry->value = LAM_BUF(HEADER_BYTES_MAX);
    }
    entry->type = type;
    lam_buf_clear(&entry->value);
    put(&entry->value, value, value_bytes);
}

void gguf_builder_u32(struct gguf_builder *builder, const char *key, uint32_t value)
{
    gguf_builder_raw(builder, key, TYPE_U32, &value, sizeof value);
}

void gguf_builder_f32(struct gguf_builder *builder, const char *key, float value)
{
    gguf_builder_raw(builder, key, TYPE_F32, &value, sizeof value);
}

void gguf_builder_bool(struct gguf_builder *builder, const char *key, bool value)
{
    unsigned char byte = value;

    gguf_builder_raw(builder, key, TYPE_BOOL, &byte, sizeof byte);
}

void gguf_builder_str(struct gguf_builder *builder, const char *key, const char *value)
{
    struct lam_buf bytes = LAM_BUF(HEADER_BYTES_MAX);

    put_str(&bytes, value);
    gguf_builder_raw(builder, key, TYPE_STRING, bytes.data, bytes.size);
    lam_buf_done(&bytes);
}

void gguf_builder_strings(
    struct gguf_builder *builder, const char *key, const char *const *items, uint64_t n)
{
    struct lam_buf bytes = LAM_BUF(HEADER_BYTES_MAX);

    for (uint64_t i = 0; i < n; i++)
        put_str(&bytes, items[i]);
    gguf_builder_array(builder, key, TYPE_STRING, n, bytes.data, bytes.size);
    lam_buf_done(&bytes);
}

void gguf_builder_array(struct gguf_builder *builder, const char *key, uint32_t item_type,
    uint64_t n, const void *items, size_t bytes)
{
    struct lam_buf value = LAM_BUF(HEADER_BYTES_MAX);

    put_u32(&value, item_type);
    put_u64(&value, n);
    put(&value, items, bytes);
    gguf_builder_raw(builder, key, TYPE_ARRAY, value.data, value.size);
    lam_buf_done(&value);
}

void gguf_builder_remove_key(struct gguf_builder *builder, const char *key)
{
    struct gguf_builder_key *entry = find_key(builder, key);

    assert(entry);
    lam_buf_done(&entry->value);
    *entry = builder->keys[--builder->n_keys];
}

struct gguf_builder_tensor *gguf_builder_tensor(struct gguf_builder *builder, const char *name,
    enum lam_dtype dtype, uint64_t cols, uint64_t rows)
{
    struct gguf_builder_tensor *tensor = &builder->tensors[builder->n_tensors];
    uint64_t row_bytes = 0;
    bool whole = lam_dtype_row_bytes(dtype, cols, &row_bytes);

    assert(whole && builder->n_tensors < GGUF_BUILDER_TENSORS_MAX);
    builder->n_tensors++;
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->n_dims = rows ? 2 : 1;
    tensor->dims[0] = cols;
    tensor->dims[1] = rows;
    tensor->type = (uint32_t)dtype;
    tensor->offset = lam_align_up(builder->data_bytes, builder->alignment);
    tensor->bytes = row_bytes * (rows ? rows : 1);
    builder->data_bytes = tensor->offset + tensor->bytes;
    return tensor;
}

struct gguf_builder_tensor *gguf_builder_find(struct gguf_builder *builder, const char *name)
{
    struct gguf_builder_tensor *found = NULL;

    for (uint64_t i = 0; i < builder->n_tensors && !found; i++)
        if (strcmp(builder->tensors[i].name, name) == 0)
            found = &builder->tensors[i];
    assert(found);
    return found;
}

void gguf_builder_remove_tensor(struct gguf_builder *builder, const char *name)
{
    struct gguf_builder_tensor *tensor = gguf_builder_find(builder, name);

    *tensor = builder->tensors[--builder->n_tensors];
}

void gguf_builder_gap(struct gguf_builder *builder, uint64_t bytes)
{
    builder->data_bytes += bytes;
}

void gguf_builder_llama_keys(struct gguf_builder *builder, const struct lam_spec *spec)
{
    gguf_builder_str(builder, "general.architecture", "llama");
    gguf_builder_str(builder, "general.name", "test model");
    if (builder->alignment != 32)
        gguf_builder_u32(builder, "general.alignment", (uint32_t)builder->alignment);
    gguf_builder_u32(builder, "llama.block_count", spec->n_layers);
    gguf_builder_u32(builder, "llama.embedding_length", spec->n_embd);
    gguf_builder_u32(builder, "llama.feed_forward_length", spec->n_ff);
    gguf_builder_u32(builder, "llama.context_length", spec->n_ctx_train);
    gguf_builder_u32(builder, "llama.attention.head_count", spec->n_heads);
    gguf_builder_u32(builder, "llama.attention.head_count_kv", spec->n_kv_heads);
    gguf_builder_f32(builder, "llama.attention.layer_norm_rms_epsilon", spec->norm_eps);
    gguf_builder_u32(builder, "llama.rope.dimension_count", spec->rope_dim);
    gguf_builder_f32(builder, "llama.rope.freq_base", spec->rope_base);
    if (spec->head_dim * spec->n_heads != spec->n_embd)
        gguf_builder_u32(builder, "llama.attention.key_length", spec->head_dim);
}

void gguf_builder_llama_layer(
    struct gguf_builder *builder, const struct lam_spec *spec, uint32_t layer, enum lam_dtype dtype)
{
    uint64_t q_width = (uint64_t)spec->n_heads * spec->head_dim;
    uint64_t kv_width = (uint64_t)spec->n_kv_heads * spec->head_dim;
    const struct {
        const char *name;
        uint64_t cols;
        uint64_t rows; /* 0: a vector */
    } tensors[] = {
        {"attn_norm", spec->n_embd, 0},
        {"ffn_down", spec->n_ff, spec->n_embd},
        {"ffn_gate", spec->n_embd, spec->n_ff},
        {"ffn_up", spec->n_embd, spec->n_ff},
        {"ffn_norm", spec->n_embd, 0},
        {"attn_k", spec->n_embd, kv_width},
        {"attn_output", q_width, spec->n_embd},
        {"attn_q", spec->n_embd, q_width},
        {"attn_v", spec->n_embd, kv_width},
    };

    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, tensors[i].name);
        gguf_builder_tensor(
            builder, name, tensors[i].rows ? dtype : LAM_F32, tensors[i].cols, tensors[i].rows);
    }
}

void gguf_builder_llama(
    struct gguf_builder *builder, const struct lam_spec *spec, enum lam_dtype dtype)
{
    gguf_builder_llama_keys(builder, spec);
    gguf_builder_tensor(builder, "token_embd.weight", dtype, spec->n_embd, spec->n_vocab);
    for (uint32_t i = 0; i < spec->n_layers; i++)
        gguf_builder_llama_layer(builder, spec, i, dtype);
    gguf_builder_tensor(builder, "output_norm.weight", LAM_F32, spec->n_embd, 0);
    if (!spec->tied_head)
        gguf_builder_tensor(builder, "output.weight", dtype, spec->n_embd, spec->n_vocab);
}

struct lam_spec gguf_builder_small_spec(void)
{
    return (struct lam_spec){.n_layers = 2,
        .n_embd = 64,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 16,
        .n_ff = 96,
        .n_vocab = 300,
        .n_ctx_train = 128,
        .rope_dim = 16,
        .rope_base = 10000,
        .rope_scale = 1,
        .norm_eps = 1e-5f,
        .tied_head = true};
}

void gguf_builder_header(struct gguf_builder *builder, struct lam_buf *ret_header)
{
    struct lam_buf header = LAM_BUF(HEADER_BYTES_MAX);

    put(&header, builder->magic, sizeof builder->magic);
    put_u32(&header, builder->version);
    put_u64(&header, builder->n_tensors + builder->n_tensors_extra);
    put_u64(&header, builder->n_keys + builder->n_keys_extra);
    for (uint64_t i = 0; i < builder->n_keys; i++) {
        const struct gguf_builder_key *key = &builder->keys[i];
        put_str(&header, key->name);
        put_u32(&header, key->type);
        put(&header, key->value.data, key->value.size);
    }
    put(&header, builder->after_keys.data, builder->after_keys.size);
    for (uint64_t i = 0; i < builder->n_tensors; i++) {
        const struct gguf_builder_tensor *tensor = &builder->tensors[i];
        put_str(&header, tensor->name);
        put_u32(&header, tensor->n_dims);
        for (uint32_t d = 0; d < tensor->n_dims && d < 4; d++)
            put_u64(&header, tensor->dims[d]);
        put_u32(&header, tensor->type);
        put_u64(&header, tensor->offset);
    }
    put(&header, builder->after_tensors.data, builder->after_tensors.size);
    builder->file_bytes =
        lam_align_up(header.size, builder->alignment) + builder->data_bytes - builder->cut_bytes;
    *ret_header = header;
}
