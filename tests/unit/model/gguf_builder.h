/*
 * gguf_builder: model files for tests, good ones and bad ones.
 *
 *     struct gguf_builder b;
 *     gguf_builder_init(&b);
 *     gguf_builder_llama(&b, &spec, LAM_F32);
 *     gguf_builder_u32(&b, "llama.block_count", 7);      a key that is there already is replaced
 *     gguf_builder_header(&b, &header);                  header.data, header.size, b.file_bytes
 *
 * Only headers are made: tensor data is never read by a parser, so a file's size is just a number.
 * The fields below the line lie about the file after everything else is right. No memory: asserts.
 */
#ifndef LAMINAR_TESTS_UNIT_MODEL_GGUF_BUILDER_H
#define LAMINAR_TESTS_UNIT_MODEL_GGUF_BUILDER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/dtype.h"
#include "model/spec.h"

#define GGUF_BUILDER_KEYS_MAX 64u
#define GGUF_BUILDER_TENSORS_MAX 1024u

struct gguf_builder_key {
    char name[64];
    uint32_t type; /* the file's value type id */
    struct lam_buf value;
};

struct gguf_builder_tensor {
    char name[64];
    uint32_t n_dims;
    uint64_t dims[4];
    uint32_t type;
    uint64_t offset; /* in the data section */
    uint64_t bytes;
};

struct gguf_builder {
    uint64_t n_keys;
    struct gguf_builder_key keys[GGUF_BUILDER_KEYS_MAX];
    uint64_t n_tensors;
    struct gguf_builder_tensor tensors[GGUF_BUILDER_TENSORS_MAX];
    uint64_t alignment;  /* of the data section and of each tensor; set before the first tensor */
    uint64_t data_bytes; /* where the next tensor goes */
    uint64_t file_bytes; /* set by gguf_builder_header */
    /* ---- */
    char magic[4];
    uint32_t version;
    uint64_t n_keys_extra; /* added to the counts that the header states */
    uint64_t n_tensors_extra;
    uint64_t cut_bytes;        /* taken off file_bytes */
    struct lam_buf after_keys; /* raw bytes of one more key record */
    struct lam_buf after_tensors;
};

void gguf_builder_init(struct gguf_builder *builder);
void gguf_builder_done(struct gguf_builder *builder);

/* Sets a key to raw bytes of a type. */
void gguf_builder_raw(struct gguf_builder *builder, const char *key, uint32_t type,
    const void *value, size_t value_bytes);
void gguf_builder_u32(struct gguf_builder *builder, const char *key, uint32_t value);
void gguf_builder_f32(struct gguf_builder *builder, const char *key, float value);
void gguf_builder_bool(struct gguf_builder *builder, const char *key, bool value);
void gguf_builder_str(struct gguf_builder *builder, const char *key, const char *value);
void gguf_builder_strings(
    struct gguf_builder *builder, const char *key, const char *const *items, uint64_t n);
/* An array of fixed-size items. */
void gguf_builder_array(struct gguf_builder *builder, const char *key, uint32_t item_type,
    uint64_t n, const void *items, size_t bytes);
void gguf_builder_remove_key(struct gguf_builder *builder, const char *key);

/* Appends a tensor, placed behind the last one. rows 0: a vector. */
struct gguf_builder_tensor *gguf_builder_tensor(struct gguf_builder *builder, const char *name,
    enum lam_dtype dtype, uint64_t cols, uint64_t rows);
struct gguf_builder_tensor *gguf_builder_find(struct gguf_builder *builder, const char *name);
void gguf_builder_remove_tensor(struct gguf_builder *builder, const char *name);

/* Leaves a hole in the data section. */
void gguf_builder_gap(struct gguf_builder *builder, uint64_t bytes);

/* The keys of a llama model, without its tensors; then one layer's tensors; then a whole small
 * model. */
void gguf_builder_llama_keys(struct gguf_builder *builder, const struct lam_spec *spec);
void gguf_builder_llama_layer(struct gguf_builder *builder, const struct lam_spec *spec,
    uint32_t layer, enum lam_dtype dtype);
void gguf_builder_llama(
    struct gguf_builder *builder, const struct lam_spec *spec, enum lam_dtype dtype);

/* 2 layers, D 64, 4 heads over 2, F 96, V 300, tied: fits every 32-block type. */
struct lam_spec gguf_builder_small_spec(void);

/* Writes the header; sets file_bytes. Free with lam_buf_done. */
void gguf_builder_header(struct gguf_builder *builder, struct lam_buf *ret_header);

#endif
