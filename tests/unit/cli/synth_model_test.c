/* synth_model: the file has the shape that was asked for, its bytes do not depend on how they are
 * read, and what cannot be is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "cli/synth_model.h"
#include "common/fault.h"
#include "common/mem.h"
#include "model/gguf.h"
#include "model/manifest.h"

static struct lam_synth_request request_of(const char *preset, const char *type)
{
    return (struct lam_synth_request){.preset = lam_preset_find(preset), .type = type, .seed = 3};
}

static const struct lam_gguf_tensor *find(const struct lam_gguf *gguf, const char *name)
{
    int64_t index = lam_gguf_find_tensor(gguf, name);

    assert_true(index >= 0);
    return lam_gguf_tensor(gguf, (uint64_t)index);
}

/* A file that spec and manifest take, with the preset's numbers. */
static void expect_model(const char *preset, const char *type)
{
    struct lam_synth_request request = request_of(preset, type);
    struct lam_synth_model model;
    struct lam_gguf *gguf = NULL;
    struct lam_manifest manifest = {0};
    struct lam_spec spec;
    struct lam_err err = {0};

    assert_int_equal(lam_synth_model_init(&model, &request, &err), LAM_OK);
    assert_int_equal(
        lam_gguf_parse(model.header.data, model.header.size, model.file_bytes, &gguf, &err),
        LAM_OK);
    assert_int_equal(lam_spec_read(gguf, &spec, &err), LAM_OK);
    assert_string_equal(spec.name, preset);
    assert_int_equal(spec.n_layers, request.preset->spec.n_layers);
    assert_int_equal(spec.n_ff, request.preset->spec.n_ff);
    assert_int_equal(spec.n_vocab, request.preset->spec.n_vocab);
    assert_int_equal(spec.head_dim, request.preset->spec.head_dim);
    assert_int_equal(spec.tied_head, request.preset->spec.tied_head);
    assert_int_equal(lam_manifest_build(gguf, &spec, &manifest, &err), LAM_OK);
    assert_int_equal(manifest.rope_freqs.bytes > 0, request.preset->rope_factor > 0);
    lam_manifest_done(&manifest);
    lam_gguf_destroy(gguf);
    lam_synth_model_done(&model);
}

static void test_all_presets_and_types(void **state)
{
    static const char *const presets[] = {"tiny", "small", "smollm2-135m", "llama3.2-1b",
        "mistral-7b", "llama3-8b", "llama3.1-8b", "llama3-70b", "llama3.1-405b"};
    static const char *const types[] = {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0",
        "q5_1", "q4_k", "q5_k", "q6_k", "q4_k_m"};

    (void)state;
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        expect_model(presets[i], "q8_0");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        expect_model("tiny", types[i]);
}

static void test_types_of_a_mixed_file(void **state)
{
    struct lam_synth_request request = request_of("llama3-8b", "q4_k_m");
    struct lam_synth_model model;
    struct lam_gguf *gguf = NULL;
    struct lam_err err = {0};
    uint32_t n_better = 0;

    (void)state;
    assert_int_equal(lam_synth_model_init(&model, &request, &err), LAM_OK);
    assert_int_equal(
        lam_gguf_parse(model.header.data, model.header.size, model.file_bytes, &gguf, &err),
        LAM_OK);
    assert_int_equal(find(gguf, "token_embd.weight")->dtype, LAM_Q4_K);
    assert_int_equal(find(gguf, "output.weight")->dtype, LAM_Q6_K);
    assert_int_equal(find(gguf, "blk.0.ffn_down.weight")->dtype, LAM_Q6_K);
    assert_int_equal(find(gguf, "blk.4.ffn_down.weight")->dtype, LAM_Q4_K);
    assert_int_equal(find(gguf, "blk.0.ffn_up.weight")->dtype, LAM_Q4_K);
    for (uint64_t i = 0; i < lam_gguf_n_tensors(gguf); i++)
        n_better += lam_gguf_tensor(gguf, i)->dtype == LAM_Q6_K;
    assert_int_equal(n_better, 16 * 2 + 1); /* half of the 32 layers, and the head */
    lam_gguf_destroy(gguf);
    lam_synth_model_done(&model);
}

/* One read of the whole file, and reads of odd lengths: the same bytes. */
static void test_bytes_do_not_depend_on_the_reads(void **state)
{
    struct lam_synth_request request = request_of("tiny", "q6_k");
    struct lam_synth_model model;
    struct lam_err err = {0};
    uint8_t *whole, *pieces;
    uint64_t n;

    (void)state;
    request.n_layers = 2;
    assert_int_equal(lam_synth_model_init(&model, &request, &err), LAM_OK);
    n = model.file_bytes;
    whole = lam_calloc(n, 1);
    pieces = lam_calloc(n, 1);
    assert_non_null(whole);
    assert_non_null(pieces);
    lam_synth_model_read(&model, 0, whole, n);
    assert_memory_equal(whole, model.header.data, model.header.size);
    for (uint64_t at = 0, step = 1; at < n; at += step, step = (step * 5 + 3) % 9973 + 1) {
        if (step > n - at)
            step = n - at;
        lam_synth_model_read(&model, at, pieces + at, step);
    }
    assert_memory_equal(whole, pieces, n);
    lam_free(whole);
    lam_free(pieces);
    lam_synth_model_done(&model);
}

/* The rows of the head: no two alike, so no two tokens tie. Vectors are 1. */
static void test_rows_differ_and_norms_are_one(void **state)
{
    struct lam_synth_request request = request_of("tiny", "q4_0");
    struct lam_synth_model model;
    struct lam_gguf *gguf = NULL;
    struct lam_err err = {0};
    const struct lam_gguf_tensor *head;
    uint8_t *rows;
    uint64_t row_bytes;
    float one = 0;

    (void)state;
    assert_int_equal(lam_synth_model_init(&model, &request, &err), LAM_OK);
    assert_int_equal(
        lam_gguf_parse(model.header.data, model.header.size, model.file_bytes, &gguf, &err),
        LAM_OK);
    head = find(gguf, "output.weight");
    rows = lam_calloc(head->bytes, 1);
    assert_non_null(rows);
    lam_synth_model_read(&model, head->offset, rows, head->bytes);
    row_bytes = head->bytes / head->dims[1];
    for (uint64_t a = 0; a < head->dims[1]; a++)
        for (uint64_t b = 0; b < a; b++)
            assert_true(memcmp(rows + a * row_bytes, rows + b * row_bytes, row_bytes) != 0);
    lam_synth_model_read(
        &model, find(gguf, "blk.1.ffn_norm.weight")->offset + 40, (uint8_t *)&one, sizeof one);
    assert_true(one == 1);
    lam_free(rows);
    lam_gguf_destroy(gguf);
    lam_synth_model_done(&model);
}

static void test_rows_that_are_no_multiple_of_the_block(void **state)
{
    struct lam_synth_request request = request_of("smollm2-135m", "q5_k");
    struct lam_synth_model model;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_synth_model_init(&model, &request, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "576"));
    lam_synth_model_done(&model);
}

static void test_every_failing_allocation(void **state)
{
    struct lam_synth_request request = request_of("tiny", "q4_k");
    bool failed = true;

    (void)state;
    for (uint64_t nth = 1; failed; nth++) {
        struct lam_synth_model model;
        struct lam_err err = {0};
        enum lam_status status;
        lam_fault_arm("alloc", nth);
        status = lam_synth_model_init(&model, &request, &err);
        failed = lam_fault_fired();
        lam_fault_arm("alloc", 0);
        assert_int_equal(status, failed ? LAM_RESOURCE_EXHAUSTED : LAM_OK);
        lam_synth_model_done(&model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_presets_and_types),
        cmocka_unit_test(test_types_of_a_mixed_file),
        cmocka_unit_test(test_bytes_do_not_depend_on_the_reads),
        cmocka_unit_test(test_rows_differ_and_norms_are_one),
        cmocka_unit_test(test_rows_that_are_no_multiple_of_the_block),
        cmocka_unit_test(test_every_failing_allocation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
