/* spec: what is read from a good file, which defaults hold, what is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/fault.h"
#include "common/mem.h"
#include "model/spec.h"
#include "tests/unit/model/gguf_builder.h"

struct fixture {
    struct gguf_builder builder;
    struct lam_spec spec;
    struct lam_err err;
};

static int make(void **state)
{
    struct fixture *f = lam_calloc(1, sizeof *f);
    struct lam_spec small = gguf_builder_small_spec();

    assert_non_null(f);
    gguf_builder_init(&f->builder);
    gguf_builder_llama(&f->builder, &small, LAM_Q8_0);
    *state = f;
    return 0;
}

static int unmake(void **state)
{
    struct fixture *f = *state;

    gguf_builder_done(&f->builder);
    lam_free(f);
    return 0;
}

/* Fills f->spec and f->err. */
static enum lam_status read_spec(struct fixture *f)
{
    struct lam_buf header;
    struct lam_gguf *gguf = NULL;
    enum lam_status status;

    gguf_builder_header(&f->builder, &header);
    assert_int_equal(
        lam_gguf_parse(header.data, header.size, f->builder.file_bytes, &gguf, &f->err), LAM_OK);
    status = lam_spec_read(gguf, &f->spec, &f->err);
    lam_gguf_destroy(gguf);
    lam_buf_done(&header);
    return status;
}

static void expect_refusal(struct fixture *f, enum lam_status status, const char *text)
{
    enum lam_status got = read_spec(f);

    if (got != status || !strstr(f->err.text, text))
        fail_msg("wanted '%s', got %s '%s'", text, lam_status_name(got), f->err.text);
    assert_int_equal(f->spec.n_layers, 0); /* untouched */
}

static void test_fields(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(read_spec(f), LAM_OK);
    assert_string_equal(f->spec.architecture, "llama");
    assert_string_equal(f->spec.name, "test model");
    assert_int_equal(f->spec.n_layers, 2);
    assert_int_equal(f->spec.n_embd, 64);
    assert_int_equal(f->spec.n_heads, 4);
    assert_int_equal(f->spec.n_kv_heads, 2);
    assert_int_equal(f->spec.head_dim, 16);
    assert_int_equal(f->spec.n_ff, 96);
    assert_int_equal(f->spec.n_vocab, 300);
    assert_int_equal(f->spec.n_ctx_train, 128);
    assert_int_equal(f->spec.rope_dim, 16);
    assert_true(f->spec.rope_base == 10000);
    assert_true(f->spec.rope_scale == 1);
    assert_true(f->spec.norm_eps == 1e-5f);
    assert_true(f->spec.tied_head);
}

static void test_defaults(void **state)
{
    struct fixture *f = *state;
    struct lam_spec multi_head = gguf_builder_small_spec();

    multi_head.n_kv_heads = multi_head.n_heads;
    gguf_builder_done(&f->builder);
    gguf_builder_init(&f->builder);
    gguf_builder_llama(&f->builder, &multi_head, LAM_F16);
    gguf_builder_remove_key(&f->builder, "llama.attention.head_count_kv");
    gguf_builder_remove_key(&f->builder, "llama.rope.dimension_count");
    gguf_builder_remove_key(&f->builder, "llama.rope.freq_base");
    gguf_builder_remove_key(&f->builder, "general.name");
    assert_int_equal(read_spec(f), LAM_OK);
    assert_int_equal(f->spec.n_kv_heads, 4);
    assert_int_equal(f->spec.rope_dim, 16);
    assert_true(f->spec.rope_base == 10000);
    assert_string_equal(f->spec.name, "");
}

/* Heads that are not width / count, as in Mistral Nemo: the key decides, the tensors have to
 * follow. */
static void test_key_length(void **state)
{
    struct fixture *f = *state;
    struct lam_spec wide = gguf_builder_small_spec();

    wide.head_dim = 24;
    gguf_builder_done(&f->builder);
    gguf_builder_init(&f->builder);
    gguf_builder_llama(&f->builder, &wide, LAM_Q8_0);
    gguf_builder_u32(&f->builder, "llama.attention.value_length", 24);
    assert_int_equal(read_spec(f), LAM_OK);
    assert_int_equal(f->spec.head_dim, 24);
    f->spec = (struct lam_spec){0};
    gguf_builder_u32(&f->builder, "llama.attention.value_length", 16);
    expect_refusal(f, LAM_INVALID_ARGUMENT, "llama.attention.value_length");
    gguf_builder_u32(&f->builder, "llama.attention.key_length", 258);
    expect_refusal(f, LAM_INVALID_ARGUMENT, "llama.attention.key_length");
}

/* One row more than the vocabulary may have; the file is as large as that asks for. */
static void test_vocab_limit(void **state)
{
    struct fixture *f = *state;
    struct lam_spec large = gguf_builder_small_spec();

    large.n_vocab = (1u << 22) + 1;
    gguf_builder_done(&f->builder);
    gguf_builder_init(&f->builder);
    gguf_builder_llama(&f->builder, &large, LAM_Q8_0);
    expect_refusal(f, LAM_INVALID_ARGUMENT, "4194305 rows; at most 4194304");
}

static void test_untied_head(void **state)
{
    struct fixture *f = *state;
    struct gguf_builder_tensor *output;

    output = gguf_builder_tensor(&f->builder, "output.weight", LAM_F16, 64, 300);
    assert_int_equal(read_spec(f), LAM_OK);
    assert_false(f->spec.tied_head);
    f->spec = (struct lam_spec){0};
    output->dims[1] = 299;
    expect_refusal(f, LAM_INVALID_ARGUMENT, "'output.weight' has the shape [64, 299, 1, 1]");
}

static void test_rope_scaling(void **state)
{
    struct fixture *f = *state;
    static const char *const refused[] = {"yarn", "longrope", "linearx", ""};

    gguf_builder_str(&f->builder, "llama.rope.scaling.type", "none");
    gguf_builder_f32(&f->builder, "llama.rope.scaling.factor", 4);
    assert_int_equal(read_spec(f), LAM_OK);
    assert_true(f->spec.rope_scale == 1);
    gguf_builder_str(&f->builder, "llama.rope.scaling.type", "linear");
    assert_int_equal(read_spec(f), LAM_OK);
    assert_true(f->spec.rope_scale == 4);
    gguf_builder_remove_key(&f->builder, "llama.rope.scaling.type");
    assert_int_equal(read_spec(f), LAM_OK);
    assert_true(f->spec.rope_scale == 4);
    gguf_builder_remove_key(&f->builder, "llama.rope.scaling.factor");
    gguf_builder_f32(&f->builder, "llama.rope.scale_linear", 2);
    assert_int_equal(read_spec(f), LAM_OK);
    assert_true(f->spec.rope_scale == 2);
    gguf_builder_remove_key(&f->builder, "llama.rope.scale_linear");
    gguf_builder_str(&f->builder, "llama.rope.scaling.type", "linear");
    f->spec = (struct lam_spec){0};
    expect_refusal(f, LAM_INVALID_ARGUMENT, "llama.rope.scaling.factor");
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        gguf_builder_str(&f->builder, "llama.rope.scaling.type", refused[i]);
        expect_refusal(f, LAM_UNIMPLEMENTED, refused[i]);
    }
}

static void test_rope_factors(void **state)
{
    struct fixture *f = *state;
    struct gguf_builder_tensor *factors;

    factors = gguf_builder_tensor(&f->builder, "rope_freqs.weight", LAM_F32, 8, 0);
    assert_int_equal(read_spec(f), LAM_OK);
    f->spec = (struct lam_spec){0};
    factors->dims[0] = 7;
    expect_refusal(f, LAM_INVALID_ARGUMENT, "rope_freqs.weight");
}

static void test_architecture(void **state)
{
    struct fixture *f = *state;
    static const char *const refused[] = {"qwen2", "llama4", "lama", "LLAMA", "gemma"};

    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        gguf_builder_str(&f->builder, "general.architecture", refused[i]);
        expect_refusal(f, LAM_UNIMPLEMENTED, refused[i]);
        assert_non_null(strstr(f->err.text, "this build runs: llama"));
    }
    gguf_builder_u32(&f->builder, "general.architecture", 1);
    expect_refusal(f, LAM_INVALID_ARGUMENT, "general.architecture");
}

static void test_other_files(void **state)
{
    struct fixture *f = *state;

    gguf_builder_str(&f->builder, "general.type", "adapter");
    expect_refusal(f, LAM_UNIMPLEMENTED, "adapter");
    gguf_builder_str(&f->builder, "general.type", "model");
    assert_int_equal(read_spec(f), LAM_OK);
}

/* Each key is refused by name with a value that means something, and accepted with one that does
 * not. */
static void test_features(void **state)
{
    static const struct {
        const char *key;
        bool integer;
        float neutral;
    } cases[] = {
        {"llama.expert_count", true, 0},
        {"llama.attention.sliding_window", true, 0},
        {"llama.attention.max_alibi_bias", false, 0},
        {"llama.attention.clamp_kqv", false, 0},
        {"llama.attention.scale", false, 0},
        {"llama.attn_logit_softcapping", false, 0},
        {"llama.final_logit_softcapping", false, 0},
        {"llama.logit_scale", false, 1},
        {"llama.embedding_scale", false, 1},
        {"llama.residual_scale", false, 1},
        {"llama.rope.scaling.attn_factor", false, 1},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        f->spec = (struct lam_spec){0};
        if (cases[i].integer)
            gguf_builder_u32(&f->builder, cases[i].key, 8);
        else
            gguf_builder_f32(&f->builder, cases[i].key, 0.5f);
        expect_refusal(f, LAM_UNIMPLEMENTED, cases[i].key);
        gguf_builder_str(&f->builder, cases[i].key, "text");
        expect_refusal(f, LAM_INVALID_ARGUMENT, cases[i].key);
        if (cases[i].integer)
            gguf_builder_u32(&f->builder, cases[i].key, (uint32_t)cases[i].neutral);
        else
            gguf_builder_f32(&f->builder, cases[i].key, cases[i].neutral);
        assert_int_equal(read_spec(f), LAM_OK);
    }
    f->spec = (struct lam_spec){0};
    gguf_builder_bool(&f->builder, "llama.attention.causal", false);
    expect_refusal(f, LAM_UNIMPLEMENTED, "llama.attention.causal");
    gguf_builder_bool(&f->builder, "llama.attention.causal", true);
    assert_int_equal(read_spec(f), LAM_OK);
}

/* A tensor without a place in the forward pass would be silently left out of the arithmetic. */
static void test_unknown_tensors(void **state)
{
    static const char *const names[] = {"blk.0.attn_q.bias", "blk.1.ffn_gate_exps.weight",
        "blk.0.attn_q_norm.weight", "output.bias", "blk.2.attn_norm.weight", "x"};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        gguf_builder_tensor(&f->builder, names[i], LAM_F32, 64, 0);
        expect_refusal(f, LAM_UNIMPLEMENTED, names[i]);
        gguf_builder_remove_tensor(&f->builder, names[i]);
    }
    /* Removing leaves a hole at the end of the data, which is no defect. */
    assert_int_equal(read_spec(f), LAM_OK);
}

/* Every tensor in turn: missing, one row or column off, three-dimensional, a vector of the wrong
 * type. */
static void test_every_tensor(void **state)
{
    struct fixture *f = *state;

    for (uint64_t i = 0; i < f->builder.n_tensors; i++) {
        struct gguf_builder_tensor saved = f->builder.tensors[i];
        struct gguf_builder_tensor *tensor = &f->builder.tensors[i];
        char name[64];

        memcpy(name, saved.name, sizeof name);
        tensor->name[0] = 'X';
        expect_refusal(f, LAM_INVALID_ARGUMENT, name);
        *tensor = saved;
        tensor->dims[0] -= 32;
        expect_refusal(f, LAM_INVALID_ARGUMENT, name);
        *tensor = saved;
        tensor->n_dims = 3;
        tensor->dims[1] = saved.n_dims == 2 ? saved.dims[1] / 2 : 1;
        tensor->dims[2] = saved.n_dims == 2 ? 2 : 1;
        if (saved.n_dims == 2)
            expect_refusal(f, LAM_INVALID_ARGUMENT, name);
        *tensor = saved;
        if (saved.n_dims == 1) {
            tensor->type = (uint32_t)LAM_F16;
            expect_refusal(f, LAM_UNIMPLEMENTED, name);
        } else if (strcmp(name, "token_embd.weight") != 0) {
            tensor->dims[1]--;
            expect_refusal(f, LAM_INVALID_ARGUMENT, name);
        }
        *tensor = saved;
    }
    assert_int_equal(read_spec(f), LAM_OK);
}

/* The name is for people: cut between characters, one line, or nothing when it is no text. */
static void test_name(void **state)
{
    struct fixture *f = *state;
    char long_name[200];

    gguf_builder_str(&f->builder, "general.name", "a\nb\x7f");
    assert_int_equal(read_spec(f), LAM_OK);
    assert_string_equal(f->spec.name, "a b ");
    gguf_builder_str(&f->builder, "general.name", "a\xff");
    assert_int_equal(read_spec(f), LAM_OK);
    assert_string_equal(f->spec.name, "");
    memset(long_name, 'n', sizeof long_name);
    memcpy(long_name + 126, "\xc3\xa9", 2);
    long_name[199] = '\0';
    gguf_builder_str(&f->builder, "general.name", long_name);
    assert_int_equal(read_spec(f), LAM_OK);
    assert_int_equal(strlen(f->spec.name), 126);
}

static void test_no_memory(void **state)
{
    struct fixture *f = *state;
    struct lam_buf header;
    struct lam_gguf *gguf = NULL;

    gguf_builder_header(&f->builder, &header);
    assert_int_equal(
        lam_gguf_parse(header.data, header.size, f->builder.file_bytes, &gguf, &f->err), LAM_OK);
    lam_fault_arm("alloc", 1);
    assert_int_equal(lam_spec_read(gguf, &f->spec, &f->err), LAM_RESOURCE_EXHAUSTED);
    assert_true(lam_fault_fired());
    lam_fault_arm("alloc", 2);
    assert_int_equal(lam_spec_read(gguf, &f->spec, &f->err), LAM_OK);
    lam_fault_arm("alloc", 0);
    lam_gguf_destroy(gguf);
    lam_buf_done(&header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fields, make, unmake),
        cmocka_unit_test_setup_teardown(test_defaults, make, unmake),
        cmocka_unit_test_setup_teardown(test_key_length, make, unmake),
        cmocka_unit_test_setup_teardown(test_vocab_limit, make, unmake),
        cmocka_unit_test_setup_teardown(test_untied_head, make, unmake),
        cmocka_unit_test_setup_teardown(test_rope_scaling, make, unmake),
        cmocka_unit_test_setup_teardown(test_rope_factors, make, unmake),
        cmocka_unit_test_setup_teardown(test_architecture, make, unmake),
        cmocka_unit_test_setup_teardown(test_other_files, make, unmake),
        cmocka_unit_test_setup_teardown(test_features, make, unmake),
        cmocka_unit_test_setup_teardown(test_unknown_tensors, make, unmake),
        cmocka_unit_test_setup_teardown(test_every_tensor, make, unmake),
        cmocka_unit_test_setup_teardown(test_name, make, unmake),
        cmocka_unit_test_setup_teardown(test_no_memory, make, unmake),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
