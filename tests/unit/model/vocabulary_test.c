/* Hostile and odd vocabularies: each is a named error, or works. T01..: the test plan's codes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "tests/unit/model/text_fixture.h"

static struct text_vocabulary vocabulary;

/* Opens what `vocabulary` and `change` make; checks the status and that the error says `text`. */
static void assert_opens(const char *family, void (*change)(struct gguf_builder *builder),
    enum lam_status wanted, const char *text)
{
    static struct gguf_builder builder;
    struct text_fixture model;
    struct lam_err err = {0};
    enum lam_status status;

    text_fixture_keys(&builder, &vocabulary, family);
    gguf_builder_str(&builder, "tokenizer.ggml.pre", "gpt-2");
    if (change)
        change(&builder);
    status = text_fixture_open(&builder, &model, &err);
    if (status != wanted)
        fail_msg(
            "%s instead of %s: %s", lam_status_name(status), lam_status_name(wanted), err.text);
    if (wanted && !strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    text_fixture_close(&builder, &model);
}

static void assert_bad(const char *family, const char *text)
{
    assert_opens(family, NULL, LAM_INVALID_ARGUMENT, text);
}

static int fresh(void **state)
{
    (void)state;
    text_vocabulary_bytelevel(&vocabulary);
    return 0;
}

static int fresh_spm(void **state)
{
    (void)state;
    text_vocabulary_spm(&vocabulary);
    return 0;
}

static void unknown_pretokenizer(struct gguf_builder *builder)
{
    gguf_builder_str(builder, "tokenizer.ggml.pre", "gpt-9000");
}

static void empty_pretokenizer(struct gguf_builder *builder)
{
    gguf_builder_str(builder, "tokenizer.ggml.pre", "");
}

/* The table of names is one string per family: a piece that spans two names must not match. */
static void spanning_pretokenizer(struct gguf_builder *builder)
{
    gguf_builder_str(builder, "tokenizer.ggml.pre", "gpt-2 phi-2");
}

static void no_pretokenizer(struct gguf_builder *builder)
{
    gguf_builder_remove_key(builder, "tokenizer.ggml.pre");
}

static void unknown_model(struct gguf_builder *builder)
{
    gguf_builder_str(builder, "tokenizer.ggml.model", "bert");
}

static void names_that_we_do_not_know_are_named(void **state)
{
    (void)state;
    assert_opens("gpt2", unknown_pretokenizer, LAM_UNIMPLEMENTED, "gpt-9000");
    assert_opens("gpt2", empty_pretokenizer, LAM_UNIMPLEMENTED, "\"\"");
    assert_opens("gpt2", spanning_pretokenizer, LAM_UNIMPLEMENTED, "gpt-2 phi-2");
    assert_opens("gpt2", no_pretokenizer, LAM_UNIMPLEMENTED, "tokenizer.ggml.pre");
    assert_opens("gpt2", unknown_model, LAM_UNIMPLEMENTED, "bert");
}

static void no_tokens(struct gguf_builder *builder)
{
    gguf_builder_remove_key(builder, "tokenizer.ggml.tokens");
}

static void zero_tokens(struct gguf_builder *builder)
{
    gguf_builder_strings(builder, "tokenizer.ggml.tokens", NULL, 0);
}

static void no_merges(struct gguf_builder *builder)
{
    gguf_builder_remove_key(builder, "tokenizer.ggml.merges");
}

static void no_types(struct gguf_builder *builder)
{
    gguf_builder_remove_key(builder, "tokenizer.ggml.token_type");
}

static void missing_lists(void **state)
{
    (void)state;
    assert_opens("gpt2", no_tokens, LAM_NOT_FOUND, "tokenizer.ggml.tokens");
    assert_opens("gpt2", zero_tokens, LAM_INVALID_ARGUMENT, "0 tokens");
    assert_opens("gpt2", no_merges, LAM_NOT_FOUND, "tokenizer.ggml.merges");
    assert_opens("gpt2", no_types, LAM_OK, "");
}

/* T09 */
static void short_types(struct gguf_builder *builder)
{
    gguf_builder_array(
        builder, "tokenizer.ggml.token_type", GGUF_TYPE_I32, 3, vocabulary.types, 12);
}

static void bad_types(void **state)
{
    (void)state;
    assert_opens("gpt2", short_types, LAM_INVALID_ARGUMENT, "has 3 entries");
    vocabulary.types[5] = 255;
    assert_bad("gpt2", "token 5 is 255");
    vocabulary.types[5] = 0;
    assert_bad("gpt2", "token 5 is 0");
}

/* T05, T06 */
static void empty_and_double_tokens(void **state)
{
    (void)state;
    vocabulary.pieces[text_vocabulary_add(&vocabulary, "1", 1)] = "";
    vocabulary.pieces[text_vocabulary_add(&vocabulary, "2", 3)] = "";
    assert_opens("gpt2", NULL, LAM_OK, "");
    text_vocabulary_add(&vocabulary, "hello", 1);
    assert_bad("gpt2", "repeats token");
}

/* T03, T11 */
static void bad_merges(void **state)
{
    uint64_t last = vocabulary.n_merges++;

    (void)state;
    vocabulary.merges[last] = "zq a";
    assert_bad("gpt2", "merge 13 of the vocabulary: its left side");
    vocabulary.merges[last] = "a zq";
    assert_bad("gpt2", "merge 13 of the vocabulary: its right side");
    vocabulary.merges[last] = "z q";
    assert_bad("gpt2", "merge 13 of the vocabulary: its result");
    vocabulary.merges[last] = "aa";
    assert_bad("gpt2", "no pair");
    vocabulary.merges[last] = "aa ";
    assert_bad("gpt2", "no pair");
    vocabulary.merges[last] = " aa";
    assert_bad("gpt2", "no pair");
    vocabulary.merges[last] = "";
    assert_bad("gpt2", "no pair");
    vocabulary.merges[last] = "h e";
    assert_bad("gpt2", "merge 13 of the vocabulary repeats merge 0");
}

/* A merge into a control token would let a user's text become one: it never happens. */
static void merges_into_control_tokens_are_dead(void **state)
{
    static struct gguf_builder builder;
    struct text_fixture model;
    struct lam_tokens tokens = {.max = 100};
    struct lam_err err = {0};
    int32_t id = text_vocabulary_add(&vocabulary, "xy", 3);

    (void)state;
    vocabulary.merges[vocabulary.n_merges++] = "x y";
    text_fixture_keys(&builder, &vocabulary, "gpt2");
    gguf_builder_str(&builder, "tokenizer.ggml.pre", "llama-bpe");
    assert_int_equal(text_fixture_open(&builder, &model, &err), LAM_OK);
    assert_int_equal(
        lam_tokenizer_encode(model.tokenizer, "xy", 2, LAM_ENCODE_PLAIN, &tokens, &err), LAM_OK);
    assert_int_equal(tokens.n, 2);
    assert_int_equal(
        lam_tokenizer_encode(model.tokenizer, "xy", 2, LAM_ENCODE_SPECIAL, &tokens, &err), LAM_OK);
    assert_int_equal(tokens.ids[2], id);
    lam_tokens_done(&tokens);
    text_fixture_close(&builder, &model);
}

/* T07 */
static void eos_past_the_end(struct gguf_builder *builder)
{
    gguf_builder_u32(builder, "tokenizer.ggml.eos_token_id", (uint32_t)vocabulary.n);
}

static void negative_bos(struct gguf_builder *builder)
{
    int32_t minus_one = -1;

    gguf_builder_raw(builder, "tokenizer.ggml.bos_token_id", GGUF_TYPE_I32, &minus_one, 4);
}

static void huge_eot(struct gguf_builder *builder)
{
    gguf_builder_u32(builder, "tokenizer.ggml.eot_token_id", UINT32_MAX);
}

static void special_ids_outside_the_vocabulary(void **state)
{
    (void)state;
    assert_opens("gpt2", eos_past_the_end, LAM_INVALID_ARGUMENT, "eos_token_id");
    assert_opens("gpt2", negative_bos, LAM_INVALID_ARGUMENT, "bos_token_id");
    assert_opens("gpt2", huge_eot, LAM_INVALID_ARGUMENT, "eot_token_id");
}

/* T04 */
static void long_tokens(void **state)
{
    const size_t n = (size_t)1 << 20;
    char *text = lam_calloc(n + 1, 1);
    int32_t id = text_vocabulary_add(&vocabulary, "long", 1);

    (void)state;
    assert_non_null(text);
    memset(text, 'z', n);
    vocabulary.pieces[id] = text;
    assert_opens("gpt2", NULL, LAM_OK, "");
    vocabulary.types[id] = 3;
    assert_bad("gpt2", "1048576 bytes long");
    text_vocabulary_spm(&vocabulary);
    id = text_vocabulary_add(&vocabulary, "long", 1);
    vocabulary.pieces[id] = text;
    assert_bad("llama", "1048576 bytes long");
    lam_free(text);
}

/* Each is short enough, all together are not: the trie would take a multiple of the file. */
static void many_special_tokens(struct gguf_builder *builder)
{
    enum { N = 2100, BYTES = 510 };
    static char texts[N][BYTES + 1];
    static const char *pieces[N];
    static int32_t types[N];

    for (int i = 0; i < N; i++) {
        memset(texts[i], 'z', BYTES);
        snprintf(texts[i], 8, "%07d", i);
        texts[i][7] = 'z';
        pieces[i] = texts[i];
        types[i] = 3;
    }
    gguf_builder_strings(builder, "tokenizer.ggml.tokens", pieces, N);
    gguf_builder_array(builder, "tokenizer.ggml.token_type", GGUF_TYPE_I32, N, types, sizeof types);
}

static void special_tokens_are_bounded_together(void **state)
{
    (void)state;
    assert_opens("gpt2", many_special_tokens, LAM_INVALID_ARGUMENT, "special tokens up to 2056");
}

static void special_tokens_are_utf8(void **state)
{
    int32_t id = text_vocabulary_add(&vocabulary, "\xe2\x96", 1);

    (void)state;
    assert_opens("gpt2", NULL, LAM_OK, "");
    vocabulary.types[id] = 4;
    assert_bad("gpt2", "no UTF-8");
    vocabulary.types[id] = 2;
    assert_bad("gpt2", "no UTF-8");
}

/* T02: llama.cpp read "<0x-1>" with strtol and wrote before its table. */
static void bytes_are_spelled_exactly(void **state)
{
    static const char *const bad[] = {"<0x-1>", "<0xZZ>", "<0x100>", "<0x1>", "<0xab>", "<0x>",
        "0x0A", "<0x0A", "<0x 1>", "<0x+1>"};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        text_vocabulary_spm(&vocabulary);
        text_vocabulary_add(&vocabulary, bad[i], 6);
        assert_bad("llama", "not spelled");
    }
}

static void some_bytes(struct gguf_builder *builder)
{
    vocabulary.types[7] = 5;
    gguf_builder_array(builder, "tokenizer.ggml.token_type", GGUF_TYPE_I32, vocabulary.n,
        vocabulary.types, vocabulary.n * sizeof *vocabulary.types);
}

static void neither_bytes_nor_unknown(struct gguf_builder *builder)
{
    vocabulary.types[0] = 1;
    some_bytes(builder);
}

static void every_character_needs_a_token(void **state)
{
    (void)state;
    assert_opens("llama", some_bytes, LAM_OK, "");
    assert_opens("llama", neither_bytes_nor_unknown, LAM_INVALID_ARGUMENT, "unknown token");
}

/* T08 */
static void short_scores(struct gguf_builder *builder)
{
    gguf_builder_array(builder, "tokenizer.ggml.scores", GGUF_TYPE_F32, 3, vocabulary.scores, 12);
}

static void no_scores(struct gguf_builder *builder)
{
    gguf_builder_remove_key(builder, "tokenizer.ggml.scores");
}

static void normaliser(struct gguf_builder *builder)
{
    gguf_builder_array(builder, "tokenizer.ggml.precompiled_charsmap", GGUF_TYPE_I32, 1,
        vocabulary.types, sizeof *vocabulary.types);
}

static void bad_scores(void **state)
{
    (void)state;
    assert_opens("llama", short_scores, LAM_INVALID_ARGUMENT, "has 3 entries");
    assert_opens("llama", no_scores, LAM_NOT_FOUND, "tokenizer.ggml.scores");
    assert_opens("llama", normaliser, LAM_UNIMPLEMENTED, "precompiled_charsmap");
    vocabulary.scores[9] = NAN;
    assert_bad("llama", "score of token 9");
    vocabulary.scores[9] = -INFINITY;
    assert_opens("llama", NULL, LAM_OK, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(names_that_we_do_not_know_are_named, fresh),
        cmocka_unit_test_setup(missing_lists, fresh),
        cmocka_unit_test_setup(bad_types, fresh),
        cmocka_unit_test_setup(empty_and_double_tokens, fresh),
        cmocka_unit_test_setup(bad_merges, fresh),
        cmocka_unit_test_setup(merges_into_control_tokens_are_dead, fresh),
        cmocka_unit_test_setup(special_ids_outside_the_vocabulary, fresh),
        cmocka_unit_test_setup(long_tokens, fresh),
        cmocka_unit_test_setup(special_tokens_are_bounded_together, fresh),
        cmocka_unit_test_setup(special_tokens_are_utf8, fresh),
        cmocka_unit_test_setup(bytes_are_spelled_exactly, fresh_spm),
        cmocka_unit_test_setup(every_character_needs_a_token, fresh_spm),
        cmocka_unit_test_setup(bad_scores, fresh_spm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
