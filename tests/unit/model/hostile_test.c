/*
 * The bad-input corpus for model files: a good small model, one lie each, and the status that has
 * to come out. G numbers group the entries by the defect that other readers of the format have
 * shipped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "model/gguf.h"
#include "model/manifest.h"
#include "model/spec.h"
#include "tests/unit/model/gguf_builder.h"

enum { U32 = 4, I32 = 5, F32 = 6, STRING = 8, ARRAY = 9, U64 = 10 };

/* Reads a file as the services do: a first piece, then all of it. The bytes lie in a block of their
 * own. */
static enum lam_status read_bytes(
    const struct lam_buf *header, uint64_t file_bytes, struct lam_err *err)
{
    uint64_t first_bytes = header->size < file_bytes ? header->size : file_bytes;
    char *file = lam_calloc(file_bytes, 1);
    struct lam_gguf *gguf = NULL;
    struct lam_manifest manifest = {0};
    struct lam_spec spec;
    enum lam_status status;

    assert_non_null(file);
    memcpy(file, header->data, first_bytes);
    status = lam_gguf_parse(file, first_bytes, file_bytes, &gguf, err);
    if (status == LAM_OUT_OF_RANGE) {
        status = lam_gguf_parse(file, file_bytes, file_bytes, &gguf, err);
        assert_int_not_equal(status, LAM_OUT_OF_RANGE);
    }
    if (!status)
        status = lam_spec_read(gguf, &spec, err);
    if (!status)
        status = lam_manifest_build(gguf, &spec, &manifest, err);
    lam_manifest_done(&manifest);
    lam_gguf_destroy(gguf);
    lam_free(file);
    return status;
}

static enum lam_status read_model(struct gguf_builder *b, struct lam_err *err)
{
    struct lam_buf header;
    enum lam_status status;

    gguf_builder_header(b, &header);
    status = read_bytes(&header, b->file_bytes, err);
    lam_buf_done(&header);
    return status;
}

/* A record of raw bytes behind the last key. */
static void add_key_bytes(struct gguf_builder *b, const void *bytes, size_t n)
{
    assert_true(lam_buf_append(&b->after_keys, bytes, n));
}

static void add_key_head(struct gguf_builder *b, uint64_t name_bytes, uint32_t type)
{
    b->n_keys_extra = 1;
    add_key_bytes(b, &name_bytes, sizeof name_bytes);
    for (uint64_t i = 0; i < name_bytes && name_bytes <= 1 << 20; i++)
        add_key_bytes(b, "k", 1);
    add_key_bytes(b, &type, sizeof type);
}

static void magic(struct gguf_builder *b, uint64_t value)
{
    (void)value;
    memcpy(b->magic, "FUGG", 4);
}

static void version(struct gguf_builder *b, uint64_t value)
{
    b->version = (uint32_t)value;
}

static void n_tensors(struct gguf_builder *b, uint64_t value)
{
    b->n_tensors_extra = value - b->n_tensors;
}

static void n_keys(struct gguf_builder *b, uint64_t value)
{
    b->n_keys_extra = value - b->n_keys;
}

static void key_bytes(struct gguf_builder *b, uint64_t value)
{
    add_key_head(b, value, U32);
    add_key_bytes(b, &(uint32_t){1}, 4);
}

static void key_with_byte(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_u32(b, "key?", 1);
    b->keys[b->n_keys - 1].name[3] = (char)value;
}

static void key_twice(struct gguf_builder *b, uint64_t value)
{
    (void)value;
    gguf_builder_u32(b, "a", 1);
    gguf_builder_u32(b, "b", 2);
    memcpy(b->keys[b->n_keys - 1].name, "a", 2);
}

static void value_type(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_raw(b, "t", (uint32_t)value, "\0\0\0\0\0\0\0\0", 8);
}

static void nested_arrays(struct gguf_builder *b, uint64_t depth)
{
    add_key_head(b, 1, ARRAY);
    for (uint64_t i = 0; i < depth; i++) {
        add_key_bytes(b, &(uint32_t){ARRAY}, 4);
        add_key_bytes(b, &(uint64_t){1}, 8);
    }
}

static void array_type(struct gguf_builder *b, uint64_t type)
{
    gguf_builder_array(b, "t", (uint32_t)type, 1, "\0\0\0\0\0\0\0\0", 8);
}

static void u64_items(struct gguf_builder *b, uint64_t n)
{
    gguf_builder_array(b, "t", U64, n, NULL, 0);
}

static void string_items(struct gguf_builder *b, uint64_t n)
{
    gguf_builder_array(b, "t", STRING, n, NULL, 0);
}

static void string_bytes(struct gguf_builder *b, uint64_t n)
{
    gguf_builder_raw(b, "t", STRING, &n, sizeof n);
}

static void bool_value(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_bool(b, "t", true);
    b->keys[b->n_keys - 1].value.data[0] = (char)value;
}

static void alignment(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_u32(b, "general.alignment", (uint32_t)value);
}

static void alignment_type(struct gguf_builder *b, uint64_t type)
{
    gguf_builder_raw(b, "general.alignment", (uint32_t)type, &(uint32_t){32}, 4);
}

static void n_dims(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_find(b, "output_norm.weight")->n_dims = (uint32_t)value;
}

static void first_dim(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_find(b, "output_norm.weight")->dims[0] = value;
}

static void second_dim(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_find(b, "token_embd.weight")->dims[1] = value;
}

static void k_quant_row(struct gguf_builder *b, uint64_t cols)
{
    gguf_builder_tensor(b, "extra", LAM_F32, cols, 0)->type = (uint32_t)LAM_Q4_K;
}

static void tensor_type(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_find(b, "blk.1.attn_k.weight")->type = (uint32_t)value;
}

static void move_offset(struct gguf_builder *b, uint64_t by)
{
    gguf_builder_find(b, "output_norm.weight")->offset += by;
}

static void set_offset(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_find(b, "output_norm.weight")->offset = value;
}

static void cut(struct gguf_builder *b, uint64_t bytes)
{
    b->cut_bytes = bytes;
}

static void overlap(struct gguf_builder *b, uint64_t bytes)
{
    struct gguf_builder_tensor *embedding = gguf_builder_find(b, "token_embd.weight");

    gguf_builder_find(b, "blk.0.attn_norm.weight")->offset =
        embedding->offset + (embedding->bytes - bytes) / 32 * 32;
}

static void tensor_twice(struct gguf_builder *b, uint64_t value)
{
    (void)value;
    gguf_builder_tensor(b, "output_norm.weight", LAM_F32, 64, 0);
}

/* Behind the last tensor: a record whose name has that many bytes. */
static void tensor_name_bytes(struct gguf_builder *b, uint64_t n)
{
    b->n_tensors_extra = 1;
    assert_true(lam_buf_append(&b->after_tensors, &n, sizeof n));
    for (uint64_t i = 0; i < n; i++)
        assert_true(lam_buf_append(&b->after_tensors, "n", 1));
    assert_true(lam_buf_append(&b->after_tensors, &(uint32_t){1}, 4));
    assert_true(lam_buf_append(&b->after_tensors, &(uint64_t){1}, 8));
    assert_true(lam_buf_append(&b->after_tensors, &(uint32_t){LAM_F32}, 4));
    assert_true(lam_buf_append(&b->after_tensors, &(uint64_t){b->data_bytes}, 8));
    b->data_bytes += 64;
}

/* Two tensors whose sizes are below 2^63 each and wrap when added. */
static void huge_pair(struct gguf_builder *b, uint64_t type)
{
    for (int i = 0; i < 2; i++) {
        struct gguf_builder_tensor *tensor =
            gguf_builder_tensor(b, i ? "huge.1" : "huge.0", LAM_F32, 64, 0);
        tensor->type = (uint32_t)type;
        tensor->dims[0] = type == (uint32_t)LAM_F32 ? 0x1FFFFFFFFFFFFFF0u : 0x7FFFFFFFFFFFFFC0u;
    }
}

static void many_dims(struct gguf_builder *b, uint64_t value)
{
    struct gguf_builder_tensor *tensor = gguf_builder_tensor(b, "huge", LAM_F32, 64, 0);

    tensor->n_dims = 4;
    for (int i = 0; i < 4; i++)
        tensor->dims[i] = value;
}

static void no_key(struct gguf_builder *b, uint64_t index)
{
    static const char *const keys[] = {"general.architecture", "llama.block_count",
        "llama.embedding_length", "llama.feed_forward_length", "llama.context_length",
        "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon"};

    gguf_builder_remove_key(b, keys[index]);
}

static void layers(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_u32(b, "llama.block_count", (uint32_t)value);
}

static void width(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_u32(b, "llama.embedding_length", (uint32_t)value);
}

static void heads(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_u32(b, "llama.attention.head_count", (uint32_t)value);
}

static void kv_heads(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_u32(b, "llama.attention.head_count_kv", (uint32_t)value);
}

static void rope_dim(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_u32(b, "llama.rope.dimension_count", (uint32_t)value);
}

static void real_key(struct gguf_builder *b, const char *key, uint64_t index)
{
    static const float reals[] = {NAN, INFINITY, -1, 0};

    gguf_builder_f32(b, key, reals[index]);
}

static void rope_base(struct gguf_builder *b, uint64_t index)
{
    real_key(b, "llama.rope.freq_base", index);
}

static void epsilon(struct gguf_builder *b, uint64_t index)
{
    real_key(b, "llama.attention.layer_norm_rms_epsilon", index);
}

static void epsilon_1e309(struct gguf_builder *b, uint64_t value)
{
    double infinite = HUGE_VAL;

    (void)value;
    gguf_builder_raw(b, "llama.attention.layer_norm_rms_epsilon", 12, &infinite, 8);
}

static void linear_factor(struct gguf_builder *b, uint64_t index)
{
    gguf_builder_str(b, "llama.rope.scaling.type", "linear");
    real_key(b, "llama.rope.scaling.factor", index);
}

static void context(struct gguf_builder *b, uint64_t value)
{
    gguf_builder_u32(b, "llama.context_length", (uint32_t)value);
}

static void negative_layers(struct gguf_builder *b, uint64_t value)
{
    (void)value;
    gguf_builder_raw(b, "llama.block_count", I32, &(int32_t){-2}, 4);
}

static void text_layers(struct gguf_builder *b, uint64_t value)
{
    (void)value;
    gguf_builder_str(b, "llama.block_count", "2");
}

static void token_count(struct gguf_builder *b, uint64_t n)
{
    static const char *const items[301] = {[0 ... 300] = "t"};

    gguf_builder_strings(b, "tokenizer.ggml.tokens", items, n);
}

#define BAD LAM_INVALID_ARGUMENT
#define NOT_RUN LAM_UNIMPLEMENTED
#define ALL_ONES UINT64_MAX

static const struct {
    const char *name;
    void (*mutate)(struct gguf_builder *b, uint64_t value);
    uint64_t value;
    enum lam_status status;
    const char *text; /* has to be in the error's text */
} cases[] = {
    {"G01 magic", magic, 0, BAD, "not a GGUF file"},
    {"G02 version 0", version, 0, NOT_RUN, "version 0"},
    {"G02 version 1", version, 1, NOT_RUN, "version 1"},
    {"G02 version 99", version, 99, NOT_RUN, "version 99"},
    {"G03 big-endian", version, 0x03000000, NOT_RUN, "big-endian"},
    {"G04 tensors 2^64-1", n_tensors, ALL_ONES, BAD, "18446744073709551615 tensors"},
    {"G04 tensors 65,537", n_tensors, 65537, BAD, "at most 65536"},
    {"G04 tensors 65,536", n_tensors, 65536, BAD, "do not fit into a file"},
    {"G04 one tensor too many", n_tensors, 21, BAD, "tensor name"},
    {"G05 keys 2^64-1", n_keys, ALL_ONES, BAD, "18446744073709551615 keys"},
    {"G05 keys 65,536", n_keys, 65536, BAD, "do not fit into a file"},
    {"G05 one key too few", n_keys, 10, BAD, ""},
    {"G06 key of 2^64-1 bytes", key_bytes, ALL_ONES, BAD, "a key"},
    {"G06 key of 0 bytes", key_bytes, 0, BAD, "a key"},
    {"G06 key of 255 bytes", key_bytes, 255, LAM_OK, NULL},
    {"G06 key of 256 bytes", key_bytes, 256, BAD, "at most 255"},
    {"G06 key of 65,536 bytes", key_bytes, 65536, BAD, "at most 255"},
    {"G06 key with escape", key_with_byte, 27, BAD, "a key"},
    {"G06 key with 0xff", key_with_byte, 0xff, BAD, "a key"},
    {"G07 key twice", key_twice, 0, BAD, "'a' stands there twice"},
    {"G08 value type 13", value_type, 13, BAD, "value type 13"},
    {"G08 value type 2^32-1", value_type, UINT32_MAX, BAD, "value type 4294967295"},
    {"G08 bool 2", bool_value, 2, BAD, "bool of value 2"},
    {"G09 arrays 10,000 deep", nested_arrays, 10000, BAD, "array of type 9"},
    {"G09 array of type 13", array_type, 13, BAD, "array of type 13"},
    {"G10 2^61 u64", u64_items, (uint64_t)1 << 61, BAD, "2305843009213693952 items"},
    {"G10 4 Mi u64", u64_items, 4 << 20, BAD, "an array"},
    {"G10 4 Mi + 1 u64", u64_items, (4 << 20) + 1, BAD, "at most 4194304"},
    {"G11 10^9 strings", string_items, 1000000000, BAD, "1000000000 items"},
    {"G11 4 Mi strings", string_items, 4 << 20, BAD, "an array"},
    {"G12 string of 2^64-1 bytes", string_bytes, ALL_ONES, BAD, "a string"},
    {"G12 string longer than the file", string_bytes, 1 << 22, BAD, "beyond the end"},
    {"G12 string of 16 MiB + 1", string_bytes, (16 << 20) + 1, BAD, "at most 16777216"},
    {"G13 alignment 0", alignment, 0, BAD, "alignment is 0"},
    {"G13 alignment 3", alignment, 3, BAD, "alignment is 3"},
    {"G13 alignment 4", alignment, 4, BAD, "alignment is 4"},
    {"G13 alignment 48", alignment, 48, BAD, "alignment is 48"},
    {"G13 alignment 2^31", alignment, 1u << 31, BAD, "alignment is 2147483648"},
    {"G14 alignment as i32", alignment_type, I32, BAD, "type i32"},
    {"G14 alignment as f32", alignment_type, F32, BAD, "type f32"},
    {"G15 0 dimensions", n_dims, 0, BAD, "0 dimensions"},
    {"G15 5 dimensions", n_dims, 5, BAD, "5 dimensions"},
    {"G15 2^32-1 dimensions", n_dims, UINT32_MAX, BAD, "4294967295 dimensions"},
    {"G16 dimension 0", first_dim, 0, BAD, "dimension 0 is 0"},
    {"G16 dimension -1", first_dim, ALL_ONES, BAD, "larger than the file"},
    {"G16 dimension 2^42+1", first_dim, ((uint64_t)1 << 42) + 1, BAD, "larger than the file"},
    {"G16 second dimension 0", second_dim, 0, BAD, "dimension 1 is 0"},
    {"G16 second dimension 2^62", second_dim, (uint64_t)1 << 62, BAD, "larger than the file"},
    {"G17 Q4_K row of 255", k_quant_row, 255, BAD, "no multiple of the Q4_K block (256)"},
    {"G17 Q4_K row of 257", k_quant_row, 257, BAD, "no multiple"},
    {"G18 type 4", tensor_type, 4, NOT_RUN, "'blk.1.attn_k.weight' has the type id 4 (no known"},
    {"G18 type 5", tensor_type, 5, NOT_RUN, "type id 5 (no known"},
    {"G18 type 39", tensor_type, 39, NOT_RUN, "type id 39 (MXFP4),"},
    {"G18 type 255", tensor_type, 255, NOT_RUN, "type id 255 (no known"},
    {"G18 type 2^32-1", tensor_type, UINT32_MAX, NOT_RUN, "type id 4294967295 (no known"},
    {"G19 offset + 1", move_offset, 1, BAD, "no multiple of the alignment"},
    {"G19 offset + 16", move_offset, 16, BAD, "no multiple of the alignment"},
    {"G20 offset + 32", move_offset, 32, BAD, "beyond the end of the file"},
    {"G20 file short by 1", cut, 1, BAD, "'output_norm.weight' reaches beyond"},
    {"G21 same offset", overlap, 300 * 36, BAD, "overlap"},
    {"G21 overlap by a bit", overlap, 1, BAD, "overlap"},
    {"G22 tensor twice", tensor_twice, 0, BAD, "'output_norm.weight' stands there twice"},
    {"G23 name of 64 bytes", tensor_name_bytes, 64, NOT_RUN, "has no place"},
    {"G23 name of 255 bytes", tensor_name_bytes, 255, NOT_RUN, "has no place"},
    {"G23 name of 256 bytes", tensor_name_bytes, 256, BAD, "at most 255"},
    {"G23 name of 2^20 bytes", tensor_name_bytes, 1 << 20, BAD, "at most 255"},
    {"G24 sum of I8 sizes wraps", huge_pair, 24, NOT_RUN, "type id 24"},
    {"G24 sum of F32 sizes wraps", huge_pair, 0, BAD, "larger than the file"},
    {"G24 product wraps to 0", many_dims, (uint64_t)1 << 16, BAD, "larger than the file"},
    {"G24 product wraps to 2^62", many_dims, (uint64_t)1 << 15, BAD, "larger than the file"},
    {"G25 offset near 2^64", move_offset, -(uint64_t)65536, BAD, "beyond the end of the file"},
    {"G25 offset wraps to the header", set_offset, -(uint64_t)1024, BAD, "beyond the end"},
    {"G26 no architecture", no_key, 0, BAD, "general.architecture"},
    {"G26 no block_count", no_key, 1, BAD, "llama.block_count"},
    {"G26 no embedding_length", no_key, 2, BAD, "llama.embedding_length"},
    {"G26 no feed_forward_length", no_key, 3, BAD, "llama.feed_forward_length"},
    {"G26 no context_length", no_key, 4, BAD, "llama.context_length"},
    {"G26 no head_count", no_key, 5, BAD, "llama.attention.head_count"},
    {"G26 no epsilon", no_key, 6, BAD, "layer_norm_rms_epsilon"},
    {"G27 2^32-1 layers", layers, UINT32_MAX, BAD, "'llama.block_count' is 4294967295"},
    {"G27 1,025 layers", layers, 1025, BAD, "1 to 1024"},
    {"G27 3 of 2 layers", layers, 3, BAD, "'blk.2.attn_norm.weight'"},
    {"G27 1 of 2 layers", layers, 1, NOT_RUN, "'blk.1."},
    {"G27 0 layers", layers, 0, BAD, "1 to 1024"},
    {"G27 -2 layers", negative_layers, 0, BAD, "may not be negative"},
    {"G27 \"2\" layers", text_layers, 0, BAD, "of type string"},
    {"G28 0 heads", heads, 0, BAD, "head_count"},
    {"G28 heads that do not divide", heads, 3, BAD, "head_count"},
    {"G28 1 head of 64: other shapes", heads, 1, BAD, "head_count_kv"},
    {"G28 2^32-1 heads", heads, UINT32_MAX, BAD, "head_count"},
    {"G28 0 kv heads", kv_heads, 0, BAD, "head_count_kv"},
    {"G28 kv heads > heads", kv_heads, 5, BAD, "1 to 4"},
    {"G28 kv heads do not divide", kv_heads, 3, BAD, "no multiple"},
    {"G28 kv heads against shapes", kv_heads, 4, BAD, "'blk.0.attn_k.weight' has the shape"},
    {"G29 rope > head", rope_dim, 18, BAD, "rope.dimension_count"},
    {"G29 rope odd", rope_dim, 15, BAD, "even"},
    {"G29 rope 0", rope_dim, 0, BAD, "rope.dimension_count"},
    {"G29 base NaN", rope_base, 0, BAD, "rope.freq_base"},
    {"G29 base infinite", rope_base, 1, BAD, "rope.freq_base"},
    {"G29 base -1", rope_base, 2, BAD, "rope.freq_base"},
    {"G29 base 0", rope_base, 3, BAD, "rope.freq_base"},
    {"G29 factor NaN", linear_factor, 0, BAD, "rope.scaling.factor"},
    {"G29 factor infinite", linear_factor, 1, BAD, "rope.scaling.factor"},
    {"G29 factor 0", linear_factor, 3, BAD, "rope.scaling.factor"},
    {"G30 context 2^31", context, 1u << 31, BAD, "'llama.context_length' is 2147483648"},
    {"G30 context 0", context, 0, BAD, "llama.context_length"},
    {"G31 cut in the last layer", cut, 4096, BAD, "cut off"},
    {"G31 cut in the embedding", cut, 40000, BAD, "cut off"},
    {"K01 width 0", width, 0, BAD, "llama.embedding_length"},
    {"K03 width / heads odd", width, 66, BAD, "head size"},
    {"K04 epsilon NaN", epsilon, 0, BAD, "layer_norm_rms_epsilon"},
    {"K04 epsilon infinite", epsilon, 1, BAD, "layer_norm_rms_epsilon"},
    {"K04 epsilon -1", epsilon, 2, BAD, "layer_norm_rms_epsilon"},
    {"K04 epsilon 0", epsilon, 3, BAD, "layer_norm_rms_epsilon"},
    {"K04 epsilon 1e309", epsilon_1e309, 0, BAD, "layer_norm_rms_epsilon"},
    {"K10 wrong rows", second_dim, 299, LAM_OK, NULL}, /* a smaller vocabulary is a vocabulary */
    {"T01 299 tokens, 300 rows", token_count, 299, BAD, "299 tokens"},
    {"T01 301 tokens, 300 rows", token_count, 301, BAD, "301 tokens"},
    {"T01 300 tokens", token_count, 300, LAM_OK, NULL},
};

static void test_corpus(void **state)
{
    size_t n_wrong = 0;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lam_spec spec = gguf_builder_small_spec();
        struct lam_err err = {0};
        struct gguf_builder b;
        enum lam_status status;

        gguf_builder_init(&b);
        gguf_builder_llama(&b, &spec, LAM_Q4_0);
        cases[i].mutate(&b, cases[i].value);
        status = read_model(&b, &err);
        gguf_builder_done(&b);
        if (status == cases[i].status && (!status || strstr(err.text, cases[i].text)))
            continue;
        n_wrong++;
        print_error("%s: %s '%s'\n", cases[i].name, lam_status_name(status), err.text);
    }
    assert_int_equal(n_wrong, 0);
}

/* The model that the corpus starts from is good; else every entry above would prove nothing. */
static void test_base_is_good(void **state)
{
    struct lam_spec spec = gguf_builder_small_spec();
    struct lam_err err = {0};
    struct gguf_builder b;

    (void)state;
    gguf_builder_init(&b);
    gguf_builder_llama(&b, &spec, LAM_Q4_0);
    assert_int_equal(read_model(&b, &err), LAM_OK);
    gguf_builder_done(&b);
}

/* G32: every prefix of a good model, as a whole file. */
static void test_prefixes(void **state)
{
    struct lam_spec spec = gguf_builder_small_spec();
    struct lam_err err = {0};
    struct gguf_builder b;
    struct lam_buf header;

    (void)state;
    gguf_builder_init(&b);
    gguf_builder_llama(&b, &spec, LAM_Q4_0);
    gguf_builder_header(&b, &header);
    for (size_t n = 0; n <= header.size; n++)
        assert_int_equal(read_bytes(&header, n, &err), LAM_INVALID_ARGUMENT);
    lam_buf_done(&header);
    gguf_builder_done(&b);
}

/* Any byte of the header with any bit flipped: a status, never a crash; and a text with it. */
static void test_bit_flips(void **state)
{
    struct lam_spec spec = gguf_builder_small_spec();
    struct gguf_builder b;
    struct lam_buf header;

    (void)state;
    gguf_builder_init(&b);
    gguf_builder_llama(&b, &spec, LAM_Q4_0);
    gguf_builder_header(&b, &header);
    for (size_t bit = 0; bit < header.size * 8; bit++) {
        struct lam_err err = {0};
        enum lam_status status;
        header.data[bit / 8] = (char)(header.data[bit / 8] ^ 1 << bit % 8);
        status = read_bytes(&header, b.file_bytes, &err);
        header.data[bit / 8] = (char)(header.data[bit / 8] ^ 1 << bit % 8);
        if (status != LAM_OK && status != LAM_INVALID_ARGUMENT && status != LAM_UNIMPLEMENTED)
            fail_msg("bit %zu: %s %s", bit, lam_status_name(status), err.text);
        if (status != LAM_OK)
            assert_true(strlen(err.text) > 10);
    }
    lam_buf_done(&header);
    gguf_builder_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_is_good),
        cmocka_unit_test(test_corpus),
        cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_bit_flips),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
