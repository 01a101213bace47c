/*
 * manifest: on random models, the units cover every byte of every tensor exactly once, in pass
 * order, and no head tile is larger than it may be. Then the layers that are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/fault.h"
#include "common/mem.h"
#include "common/size.h"
#include "model/manifest.h"
#include "tests/unit/model/gguf_builder.h"

#define N_MODELS 300

static uint64_t random_state = 88172645463325252u;

/* xorshift: the same models on every run. Uniform enough in [min, max]. */
static uint32_t random_in(uint32_t min, uint32_t max)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return min + (uint32_t)((random_state >> 32) % (max - min + 1));
}

static enum lam_dtype random_dtype(void)
{
    static const enum lam_dtype dtypes[] = {
        LAM_F32, LAM_F16, LAM_BF16, LAM_Q4_0, LAM_Q4_1, LAM_Q5_0, LAM_Q5_1, LAM_Q8_0};

    return dtypes[random_in(0, sizeof dtypes / sizeof dtypes[0] - 1)];
}

/* Widths are multiples of 32, so that every type above fits. */
static struct lam_spec random_spec(void)
{
    struct lam_spec spec = gguf_builder_small_spec();

    spec.n_layers = random_in(1, 12);
    spec.n_kv_heads = random_in(1, 3);
    spec.n_heads = spec.n_kv_heads * random_in(1, 3);
    spec.head_dim = 32 * random_in(1, 3);
    spec.n_embd = spec.n_heads * spec.head_dim;
    if (random_in(0, 3) == 0)
        spec.n_embd = 32 * random_in(1, 10);
    spec.rope_dim = spec.head_dim;
    spec.n_ff = 32 * random_in(1, 20);
    spec.n_vocab = random_in(0, 3) ? random_in(1, 5000) : random_in(5000, 200000);
    spec.tied_head = random_in(0, 1) == 1;
    return spec;
}

/* Layers, embedding, norm and head in any order, with a dtype for each and small gaps. */
static void build_random(struct gguf_builder *b, const struct lam_spec *spec)
{
    uint32_t order[12];
    uint32_t embedding_at = random_in(0, spec->n_layers);

    b->alignment = (uint64_t)8 << random_in(0, 4);
    gguf_builder_llama_keys(b, spec);
    for (uint32_t i = 0; i < spec->n_layers; i++) {
        uint32_t other = random_in(0, i);
        order[i] = order[other];
        order[other] = i;
    }
    for (uint32_t i = 0; i <= spec->n_layers; i++) {
        if (i == embedding_at)
            gguf_builder_tensor(
                b, "token_embd.weight", random_dtype(), spec->n_embd, spec->n_vocab);
        gguf_builder_gap(b, random_in(0, 3) ? 0 : random_in(1, 5000));
        if (i < spec->n_layers)
            gguf_builder_llama_layer(b, spec, order[i], random_dtype());
    }
    gguf_builder_tensor(b, "output_norm.weight", LAM_F32, spec->n_embd, 0);
    if (!spec->tied_head)
        gguf_builder_tensor(b, "output.weight", random_dtype(), spec->n_embd, spec->n_vocab);
    if (random_in(0, 1))
        gguf_builder_tensor(b, "rope_freqs.weight", LAM_F32, spec->rope_dim / 2, 0);
}

/* Position of the unit's tensor in the file, after checking that it lies inside the unit. */
static uint64_t place_of(const struct lam_unit *unit, const struct lam_unit_tensor *tensor)
{
    assert_true(lam_size_range_ok(tensor->offset, tensor->bytes, unit->bytes));
    return unit->file_offset + tensor->offset;
}

/* Tensor by tensor, the layer is what the file says, and the unit has no byte before or behind
 * them. */
static void check_layer(const struct lam_gguf *gguf, const struct lam_unit *unit, uint32_t layer)
{
    static const char *const names[] = {"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output",
        "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"};
    uint64_t begin = UINT64_MAX;
    uint64_t end = 0;
    uint64_t payload = 0;

    assert_int_equal(unit->kind, LAM_UNIT_LAYER);
    assert_int_equal(unit->layer, layer);
    assert_int_equal(unit->n_tensors, sizeof names / sizeof names[0]);
    for (uint32_t role = 0; role < unit->n_tensors; role++) {
        const struct lam_unit_tensor *tensor = lam_unit_find(unit, (enum lam_tensor_role)role);
        const struct lam_gguf_tensor *wanted;
        char name[64];
        uint64_t at;

        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, names[role]);
        wanted = lam_gguf_tensor(gguf, (uint64_t)lam_gguf_find_tensor(gguf, name));
        assert_non_null(tensor);
        at = place_of(unit, tensor);
        assert_int_equal(at, wanted->offset);
        assert_int_equal(tensor->bytes, wanted->bytes);
        assert_int_equal(tensor->dtype, wanted->dtype);
        assert_int_equal(tensor->n_cols, wanted->dims[0]);
        assert_int_equal(tensor->n_rows, wanted->dims[1]);
        assert_int_equal(tensor->row_begin, 0);
        begin = at < begin ? at : begin;
        end = at + tensor->bytes > end ? at + tensor->bytes : end;
        payload += tensor->bytes;
    }
    assert_int_equal(begin, unit->file_offset);
    assert_int_equal(end - begin, unit->bytes);
    assert_true(unit->bytes - payload <= payload / 16 + 64 * LAM_KIB);
}

/* The tiles follow each other without a gap, cover all rows and keep the limit. */
static void check_head(const struct lam_gguf *gguf, const struct lam_spec *spec,
    const struct lam_manifest *manifest, uint64_t layer_bytes_max)
{
    const char *name = spec->tied_head ? "token_embd.weight" : "output.weight";
    const struct lam_gguf_tensor *head =
        lam_gguf_tensor(gguf, (uint64_t)lam_gguf_find_tensor(gguf, name));
    uint64_t limit = layer_bytes_max > LAM_MIB ? layer_bytes_max : LAM_MIB;
    uint64_t row = 0;
    uint64_t at = head->offset;

    for (uint32_t i = spec->n_layers; i < manifest->n_units; i++) {
        const struct lam_unit *unit = &manifest->units[i];
        const struct lam_unit_tensor *tile = lam_unit_find(unit, LAM_T_OUTPUT);
        assert_int_equal(unit->kind, LAM_UNIT_HEAD);
        assert_int_equal(unit->layer, i - spec->n_layers);
        assert_int_equal(unit->n_tensors, 1);
        assert_non_null(tile);
        assert_null(lam_unit_find(unit, LAM_T_ATTN_Q));
        assert_int_equal(place_of(unit, tile), at);
        assert_int_equal(tile->bytes, unit->bytes);
        assert_int_equal(tile->bytes, tile->n_rows * (head->bytes / head->dims[1]));
        assert_int_equal(tile->row_begin, row);
        assert_int_equal(tile->dtype, head->dtype);
        assert_int_equal(tile->n_cols, head->dims[0]);
        assert_true(tile->n_rows > 0);
        assert_true(unit->bytes <= limit);
        row += tile->n_rows;
        at += tile->bytes;
    }
    assert_int_equal(row, head->dims[1]);
    assert_int_equal(at, head->offset + head->bytes);
}

static void check_extent(
    const struct lam_gguf *gguf, const char *name, const struct lam_extent *extent)
{
    int64_t index = lam_gguf_find_tensor(gguf, name);
    const struct lam_gguf_tensor *tensor;

    if (index < 0) {
        assert_int_equal(extent->bytes, 0);
        return;
    }
    tensor = lam_gguf_tensor(gguf, (uint64_t)index);
    assert_int_equal(extent->file_offset, tensor->offset);
    assert_int_equal(extent->bytes, tensor->bytes);
    assert_int_equal(extent->row_bytes * extent->n_rows, tensor->bytes);
    assert_int_equal(extent->n_rows, tensor->dims[1]);
    assert_int_equal(extent->n_cols, tensor->dims[0]);
    assert_int_equal(extent->dtype, tensor->dtype);
}

static void check_manifest(
    const struct lam_gguf *gguf, const struct lam_spec *spec, const struct lam_manifest *manifest)
{
    uint64_t layer_bytes_max = 0;
    uint64_t bytes_max = 0;
    uint64_t total = 0;

    assert_true(manifest->n_units > spec->n_layers);
    for (uint32_t i = 0; i < manifest->n_units; i++) {
        uint64_t bytes = manifest->units[i].bytes;
        if (i < spec->n_layers) {
            check_layer(gguf, &manifest->units[i], i);
            layer_bytes_max = bytes > layer_bytes_max ? bytes : layer_bytes_max;
        }
        bytes_max = bytes > bytes_max ? bytes : bytes_max;
        total += bytes;
    }
    check_head(gguf, spec, manifest, layer_bytes_max);
    assert_int_equal(manifest->unit_bytes_max, bytes_max);
    assert_int_equal(manifest->unit_bytes_total, total);
    check_extent(gguf, "token_embd.weight", &manifest->embedding);
    check_extent(gguf, "output_norm.weight", &manifest->output_norm);
    check_extent(gguf, "rope_freqs.weight", &manifest->rope_freqs);
}

/* Parses, reads the spec and builds the manifest of what the builder holds; checks it when it is
 * good. */
static enum lam_status read_model(
    struct gguf_builder *b, const struct lam_spec *spec, struct lam_err *err)
{
    struct lam_buf header;
    struct lam_gguf *gguf = NULL;
    struct lam_manifest manifest = {0};
    struct lam_spec read;
    enum lam_status status;

    gguf_builder_header(b, &header);
    status = lam_gguf_parse(header.data, header.size, b->file_bytes, &gguf, err);
    if (!status)
        status = lam_spec_read(gguf, &read, err);
    if (!status)
        status = lam_manifest_build(gguf, &read, &manifest, err);
    if (!status)
        check_manifest(gguf, spec, &manifest);
    lam_manifest_done(&manifest);
    lam_manifest_done(&manifest); /* a zeroed one is allowed */
    lam_gguf_destroy(gguf);
    lam_buf_done(&header);
    return status;
}

static void test_random_models(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        struct lam_spec spec = random_spec();
        struct lam_err err = {0};
        struct gguf_builder b;
        enum lam_status status;

        gguf_builder_init(&b);
        build_random(&b, &spec);
        status = read_model(&b, &spec, &err);
        if (status)
            fail_msg("model %d: %s %s", i, lam_status_name(status), err.text);
        gguf_builder_done(&b);
    }
}

/* Splits layer 1 by a gap of `gap_bytes` before its last tensor. */
static enum lam_status read_split_layer(uint64_t gap_bytes, struct lam_err *err)
{
    struct lam_spec spec = gguf_builder_small_spec();
    struct gguf_builder_tensor *last;
    struct gguf_builder b;
    enum lam_status status;

    gguf_builder_init(&b);
    gguf_builder_llama(&b, &spec, LAM_F32);
    gguf_builder_gap(&b, gap_bytes);
    last = gguf_builder_find(&b, "blk.1.attn_v.weight");
    last->offset = lam_align_up(b.data_bytes, 32);
    b.data_bytes = last->offset + last->bytes;
    status = read_model(&b, &spec, err);
    gguf_builder_done(&b);
    return status;
}

static void test_scattered_layer(void **state)
{
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(read_split_layer(1024, &err), LAM_OK);
    assert_int_equal(read_split_layer(100000, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "'blk.1'"));
}

/* A spec that does not belong to the file is refused by the tensor that shows it. */
static void test_foreign_spec(void **state)
{
    struct lam_spec spec = gguf_builder_small_spec();
    struct lam_manifest manifest = {.n_units = 77};
    struct lam_gguf *gguf = NULL;
    struct lam_err err = {0};
    struct gguf_builder b;
    struct lam_buf header;

    (void)state;
    gguf_builder_init(&b);
    gguf_builder_llama(&b, &spec, LAM_F32);
    gguf_builder_header(&b, &header);
    assert_int_equal(lam_gguf_parse(header.data, header.size, b.file_bytes, &gguf, &err), LAM_OK);
    spec.n_layers = 3;
    assert_int_equal(lam_manifest_build(gguf, &spec, &manifest, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "'blk.2.attn_norm.weight'"));
    spec.n_layers = 2;
    spec.n_ff = 128;
    assert_int_equal(lam_manifest_build(gguf, &spec, &manifest, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "'blk.0.ffn_gate.weight'"));
    assert_int_equal(manifest.n_units, 77);
    lam_gguf_destroy(gguf);
    lam_buf_done(&header);
    gguf_builder_done(&b);
}

/* A head of terabytes over tiny layers would make a unit table of gigabytes. */
static void test_too_many_tiles(void **state)
{
    struct lam_spec spec = gguf_builder_small_spec();
    struct lam_err err = {0};
    struct gguf_builder b;

    (void)state;
    spec.n_layers = 1;
    spec.n_embd = 4096;
    spec.n_heads = 1;
    spec.n_kv_heads = 1;
    spec.head_dim = 32;
    spec.n_vocab = 4 << 20;
    gguf_builder_init(&b);
    gguf_builder_llama_keys(&b, &spec);
    gguf_builder_tensor(&b, "token_embd.weight", LAM_F32, spec.n_embd, spec.n_vocab);
    gguf_builder_llama_layer(&b, &spec, 0, LAM_Q4_0);
    gguf_builder_tensor(&b, "output_norm.weight", LAM_F32, spec.n_embd, 0);
    assert_int_equal(read_model(&b, &spec, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "token_embd.weight"));
    gguf_builder_done(&b);
}

static void test_no_memory(void **state)
{
    struct lam_spec spec = gguf_builder_small_spec();
    struct lam_manifest manifest = {0};
    struct lam_gguf *gguf = NULL;
    struct lam_err err = {0};
    struct gguf_builder b;
    struct lam_buf header;
    uint64_t n = 0;

    (void)state;
    gguf_builder_init(&b);
    gguf_builder_llama(&b, &spec, LAM_F32);
    gguf_builder_header(&b, &header);
    assert_int_equal(lam_gguf_parse(header.data, header.size, b.file_bytes, &gguf, &err), LAM_OK);
    for (;;) {
        enum lam_status status;
        lam_fault_arm("alloc", ++n);
        status = lam_manifest_build(gguf, &spec, &manifest, &err);
        if (!lam_fault_fired()) {
            lam_fault_arm("alloc", 0);
            assert_int_equal(status, LAM_OK);
            break;
        }
        assert_int_equal(status, LAM_RESOURCE_EXHAUSTED);
        assert_null(manifest.units);
    }
    assert_int_equal(n, 3);
    lam_manifest_done(&manifest);
    lam_gguf_destroy(gguf);
    lam_buf_done(&header);
    gguf_builder_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_models),
        cmocka_unit_test(test_scattered_layer),
        cmocka_unit_test(test_foreign_spec),
        cmocka_unit_test(test_too_many_tiles),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
