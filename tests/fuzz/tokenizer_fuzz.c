/*
 * Fuzz target: vocabularies and texts.
 *
 * Input: a byte that chooses, then bytes. 'V': a model file's header, whose vocabulary is loaded
 * and used, with its chat template. 'B', 'Q', 'S': a text, for a fixed vocabulary: byte-level with
 * GPT-2's words, byte-level with those of Qwen 2 (which composes characters), SentencePiece.
 * Invariants: ids are inside the vocabulary; text that is no UTF-8 is refused; decoded text is
 * UTF-8 and, where the family promises it, the text that was encoded. First inputs:
 * tokenizer_seeds.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/utf8.h"
#include "model/chat.h"
#include "model/tokenizer.h"
#include "tests/unit/model/text_fixture.h"

#define TOKENS_MAX ((size_t)1 << 22)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode(const struct lam_tokenizer *tokenizer, const struct lam_tokens *tokens,
    bool show_special, struct lam_buf *text)
{
    struct lam_decoder decoder;
    enum lam_status status = LAM_OK;

    lam_decoder_init(&decoder, tokenizer, show_special);
    for (size_t i = 0; !status && i < tokens->n; i++) {
        assert(tokens->ids[i] >= 0);
        assert((uint32_t)tokens->ids[i] < lam_tokenizer_n_vocab(tokenizer));
        status = lam_decoder_push(&decoder, tokens->ids[i], text, NULL);
        assert(decoder.pending.size < 4);
    }
    if (!status)
        status = lam_decoder_finish(&decoder, text, NULL);
    assert(status == LAM_OK || status == LAM_RESOURCE_EXHAUSTED);
    assert(text->size == 0 || lam_utf8_valid(text->data, text->size));
    lam_decoder_done(&decoder);
}

/* Encodes and decodes; same: the text must come back. */
static void check_text(const struct lam_tokenizer *tokenizer, const char *text, size_t n,
    enum lam_encode_flags flags, bool same)
{
    struct lam_tokens tokens = {.max = TOKENS_MAX};
    struct lam_buf back = LAM_BUF((size_t)64 << 20);
    enum lam_status status = lam_tokenizer_encode(tokenizer, text, n, flags, &tokens, NULL);

    if (!lam_utf8_valid(text, n))
        assert(status == LAM_INVALID_ARGUMENT);
    if (!status) {
        decode(tokenizer, &tokens, flags == LAM_ENCODE_SPECIAL, &back);
        if (same) {
            assert(back.size == n);
            assert(n == 0 || memcmp(back.data, text, n) == 0);
        }
    }
    lam_buf_done(&back);
    lam_tokens_done(&tokens);
}

static void check_chat(const struct lam_gguf *gguf, const struct lam_tokenizer *tokenizer)
{
    const struct lam_chat_message messages[] = {
        {.role = "system", .content = " be\n", .content_bytes = 4},
        {.role = "user", .content = "<s> </s>", .content_bytes = 8},
    };
    enum lam_chat_template chat;

    if (lam_chat_detect(gguf, &chat, NULL))
        return;
    for (size_t skip = 0; skip < 2; skip++) {
        struct lam_tokens tokens = {.max = TOKENS_MAX};
        struct lam_buf text = LAM_BUF((size_t)64 << 20);
        if (!lam_chat_encode(chat, gguf, tokenizer, messages + skip, 2 - skip, &tokens, NULL))
            decode(tokenizer, &tokens, true, &text);
        lam_buf_done(&text);
        lam_tokens_done(&tokens);
    }
}

static void check_vocabulary(const uint8_t *data, size_t size)
{
    static const char text[] = "Hello w\xc3\xb6rld, 123 <s>aaaaaaa\n\n\t\xf0\x9f\x98\x80 it's";
    struct lam_gguf *gguf = NULL;
    struct lam_tokenizer *tokenizer = NULL;

    if (lam_gguf_parse(data, size, size + 64, &gguf, NULL))
        return;
    if (!lam_tokenizer_create(gguf, &tokenizer, NULL)) {
        check_text(tokenizer, text, sizeof text - 1, LAM_ENCODE_PLAIN, false);
        check_text(tokenizer, text, sizeof text - 1, LAM_ENCODE_SPECIAL, false);
        check_chat(gguf, tokenizer);
    }
    lam_tokenizer_destroy(tokenizer);
    lam_gguf_destroy(gguf);
}

/* The fixed vocabularies: made once, alive until the end. */
static const struct lam_tokenizer *fixed(char choice)
{
    static struct text_fixture models[3];
    static const char choices[] = "BQS";
    size_t index = (size_t)(strchr(choices, choice) - choices);
    static struct gguf_builder builder;
    enum lam_status status;

    if (models[index].tokenizer)
        return models[index].tokenizer;
    if (choice == 'S')
        text_fixture_spm(&builder);
    else
        text_fixture_bytelevel(&builder, choice == 'B' ? "gpt-2" : "qwen2");
    status = text_fixture_open(&builder, &models[index], NULL);
    assert(status == LAM_OK);
    gguf_builder_done(&builder);
    return models[index].tokenizer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data + 1;
    size_t n = size - 1;

    if (size == 0 || !data[0] || !strchr("VBQS", data[0]))
        return 0;
    if (data[0] == 'V') {
        check_vocabulary(data + 1, n);
        return 0;
    }
    if (data[0] == 'S') {
        /* U+2581 decodes to a space, and a space comes in front of what follows "<tool>". */
        bool same = !memmem(text, n, "\xe2\x96\x81", 3) && !memmem(text, n, "<tool>", 6);
        check_text(fixed('S'), text, n, LAM_ENCODE_PLAIN, same);
        check_text(fixed('S'), text, n, LAM_ENCODE_SPECIAL, false);
        return 0;
    }
    check_text(fixed((char)data[0]), text, n, LAM_ENCODE_PLAIN, data[0] == 'B');
    check_text(fixed((char)data[0]), text, n, LAM_ENCODE_SPECIAL, data[0] == 'B');
    return 0;
}
