/* synth_vocab: the tokenizer takes vocabularies of all sizes, and text survives them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "cli/synth_vocab.h"
#include "common/buf.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "model/tokens.h"

static void expect_text_survives(const struct lam_tokenizer *tokenizer, const char *text)
{
    struct lam_tokens tokens = {.max = 1024};
    struct lam_err err = {0};
    struct lam_buf out = LAM_BUF(4096);
    struct lam_decoder decoder;

    assert_int_equal(
        lam_tokenizer_encode(tokenizer, text, strlen(text), LAM_ENCODE_PLAIN, &tokens, &err),
        LAM_OK);
    assert_true(tokens.n > 0 && tokens.n <= strlen(text));
    lam_decoder_init(&decoder, tokenizer, false);
    for (size_t i = 0; i < tokens.n; i++)
        assert_int_equal(lam_decoder_push(&decoder, tokens.ids[i], &out, &err), LAM_OK);
    assert_int_equal(lam_decoder_finish(&decoder, &out, &err), LAM_OK);
    assert_int_equal(out.size, strlen(text));
    assert_memory_equal(out.data, text, out.size);
    lam_decoder_done(&decoder);
    lam_buf_done(&out);
    lam_tokens_done(&tokens);
}

static void expect_vocabulary(uint32_t n_vocab)
{
    struct lam_gguf_writer writer;
    struct lam_buf header = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX);
    struct lam_gguf *gguf = NULL;
    struct lam_tokenizer *tokenizer = NULL;
    struct lam_err err = {0};
    uint64_t file_bytes = 0;

    lam_gguf_writer_init(&writer);
    lam_synth_vocab_put(&writer, n_vocab);
    assert_int_equal(lam_gguf_writer_finish(&writer, &header, &file_bytes, &err), LAM_OK);
    lam_gguf_writer_done(&writer);
    assert_int_equal(lam_gguf_parse(header.data, header.size, file_bytes, &gguf, &err), LAM_OK);
    assert_int_equal(lam_tokenizer_create(gguf, &tokenizer, &err), LAM_OK);
    assert_int_equal(lam_tokenizer_n_vocab(tokenizer), n_vocab);
    assert_int_equal(lam_tokenizer_bos(tokenizer), n_vocab - 2);
    assert_int_equal(lam_tokenizer_eos(tokenizer), n_vocab - 1);
    expect_text_survives(tokenizer, "Hello, world: 1234 \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\n");
    lam_tokenizer_destroy(tokenizer);
    lam_gguf_destroy(gguf);
    lam_buf_done(&header);
}

static void test_vocabularies_of_all_sizes(void **state)
{
    (void)state;
    expect_vocabulary(LAM_SYNTH_VOCAB_MIN);
    expect_vocabulary(1024);
    expect_vocabulary(256 + 64 * 64 + 2);
    expect_vocabulary(128256);
    expect_vocabulary(LAM_SYNTH_VOCAB_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vocabularies_of_all_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
