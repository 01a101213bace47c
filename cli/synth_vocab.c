/* synth_vocab: see synth_vocab.h. */
#include "cli/synth_vocab.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/utf8.h"

#define N_BYTES 256u
#define N_LETTERS 64u
#define N_PAIRS (N_LETTERS * N_LETTERS)
#define N_CONTROL 2u /* the last ones */
#define TEXT_BYTES 16
#define TYPE_NORMAL 1 /* tokenizer.ggml.token_type */
#define TYPE_CONTROL 3

static const char letters[N_LETTERS + 1] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,";

/* The vocabulary's spelling of a byte: printable Latin-1 is itself, the rest U+0100 upwards. */
static void put_byte(struct lam_gguf_writer *writer, uint32_t byte, uint32_t *n_hidden)
{
    bool is_plain = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    char text[4];
    size_t n = lam_utf8_encode(is_plain ? byte : 0x100 + (*n_hidden)++, text);

    lam_gguf_item_str(writer, text, n);
}

/* Token 256 + i: the letters of its left and of its right half. */
static void spell(uint32_t i, char *left, char *right)
{
    uint32_t pair = i < N_PAIRS ? 0 : (i - N_PAIRS) / N_LETTERS;

    if (i < N_PAIRS)
        snprintf(left, TEXT_BYTES, "%c", letters[i / N_LETTERS]);
    else
        snprintf(left, TEXT_BYTES, "%c%c", letters[pair / N_LETTERS], letters[pair % N_LETTERS]);
    snprintf(right, TEXT_BYTES, "%c", letters[i % N_LETTERS]);
}

static void put_texts(struct lam_gguf_writer *writer, uint32_t n_vocab)
{
    uint32_t n_hidden = 0;

    lam_gguf_begin_strings(writer, "tokenizer.ggml.tokens", n_vocab);
    for (uint32_t byte = 0; byte < N_BYTES; byte++)
        put_byte(writer, byte, &n_hidden);
    for (uint32_t i = 0; i < n_vocab - N_BYTES - N_CONTROL; i++) {
        char left[TEXT_BYTES];
        char right[TEXT_BYTES];
        char text[2 * TEXT_BYTES];
        spell(i, left, right);
        snprintf(text, sizeof text, "%s%s", left, right);
        lam_gguf_item_str(writer, text, strlen(text));
    }
    lam_gguf_item_str(writer, "<|begin_of_text|>", strlen("<|begin_of_text|>"));
    lam_gguf_item_str(writer, "<|end_of_text|>", strlen("<|end_of_text|>"));
}

static void put_merges(struct lam_gguf_writer *writer, uint32_t n_merges)
{
    lam_gguf_begin_strings(writer, "tokenizer.ggml.merges", n_merges);
    for (uint32_t i = 0; i < n_merges; i++) {
        char left[TEXT_BYTES];
        char right[TEXT_BYTES];
        char text[2 * TEXT_BYTES + 1];
        spell(i, left, right);
        snprintf(text, sizeof text, "%s %s", left, right);
        lam_gguf_item_str(writer, text, strlen(text));
    }
}

void lam_synth_vocab_put(struct lam_gguf_writer *writer, uint32_t n_vocab)
{
    assert(n_vocab >= LAM_SYNTH_VOCAB_MIN && n_vocab <= LAM_SYNTH_VOCAB_MAX);
    lam_gguf_put_str(writer, "tokenizer.ggml.model", "gpt2");
    lam_gguf_put_str(writer, "tokenizer.ggml.pre", "llama-bpe");
    put_texts(writer, n_vocab);
    lam_gguf_begin_i32s(writer, "tokenizer.ggml.token_type", n_vocab);
    for (uint32_t id = 0; id < n_vocab; id++)
        lam_gguf_item_i32(writer, id < n_vocab - N_CONTROL ? TYPE_NORMAL : TYPE_CONTROL);
    put_merges(writer, n_vocab - N_BYTES - N_CONTROL);
    lam_gguf_put_u32(writer, "tokenizer.ggml.bos_token_id", n_vocab - 2);
    lam_gguf_put_u32(writer, "tokenizer.ggml.eos_token_id", n_vocab - 1);
    lam_gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", true);
}
