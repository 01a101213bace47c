/*
 * tokenizer: text to token ids and back, from the vocabulary inside the model file.
 *
 * Two families: "gpt2" (byte-level BPE with merges; the pre-tokenizer pattern named by
 * tokenizer.ggml.pre runs on PCRE2) and "llama" (SentencePiece BPE by scores with byte fallback).
 * An unknown family or pre-tokenizer is a named error, never a default.
 *
 * Immutable after creation: safe from any thread. Encoding allocates; its time is n log n in the
 * text.
 */
#ifndef LAMINAR_MODEL_TOKENIZER_H
#define LAMINAR_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "model/gguf.h"
#include "model/tokens.h"

struct lam_tokenizer;

/* gguf must outlive the tokenizer. Errors: LAM_UNIMPLEMENTED, LAM_INVALID_ARGUMENT, named. */
LAM_MUST_USE enum lam_status lam_tokenizer_create(
    const struct lam_gguf *gguf, struct lam_tokenizer **ret_tokenizer, struct lam_err *err);
void lam_tokenizer_destroy(struct lam_tokenizer *tokenizer); /* NULL is allowed */

uint32_t lam_tokenizer_n_vocab(const struct lam_tokenizer *tokenizer);

/* Special ids; -1 when the model has none. */
int32_t lam_tokenizer_bos(const struct lam_tokenizer *tokenizer);
int32_t lam_tokenizer_eos(const struct lam_tokenizer *tokenizer);

/* Does this token end a generation (eos, end of turn, end of message)? */
bool lam_tokenizer_is_eog(const struct lam_tokenizer *tokenizer, int32_t token);

/* Does the model want a BOS in front of a prompt? */
bool lam_tokenizer_wants_bos(const struct lam_tokenizer *tokenizer);

/* The raw vocabulary text of a token (for `laminar tokenize`); empty for an id out of range. */
struct lam_str lam_tokenizer_piece(const struct lam_tokenizer *tokenizer, int32_t token);

enum lam_encode_flags {
    LAM_ENCODE_PLAIN = 0,
    LAM_ENCODE_SPECIAL = 1, /* spellings of control tokens in the text become those tokens */
};

/* Longest text of one call. */
#define LAM_ENCODE_BYTES_MAX ((size_t)256 << 20)

/*
 * Appends the ids of text[0, n). Text of a user is encoded without LAM_ENCODE_SPECIAL: it can then
 * never produce a control token. Adds no BOS by itself. Errors: LAM_INVALID_ARGUMENT when the text
 * is no UTF-8, LAM_RESOURCE_EXHAUSTED over tokens->max, over LAM_ENCODE_BYTES_MAX or without
 * memory.
 */
LAM_MUST_USE enum lam_status lam_tokenizer_encode(const struct lam_tokenizer *tokenizer,
    const char *text, size_t n, enum lam_encode_flags flags, struct lam_tokens *tokens,
    struct lam_err *err);

/* A piece of a text that has more than one author. */
struct lam_text_part {
    const char *text;
    size_t n;
    enum lam_encode_flags flags;
};

/*
 * Encodes the parts as one text: words may cross a seam, so the ids are those of the joined text,
 * but a control token is recognised only inside one part that has LAM_ENCODE_SPECIAL. Each part is
 * UTF-8 by itself. Errors: as lam_tokenizer_encode.
 */
LAM_MUST_USE enum lam_status lam_tokenizer_encode_parts(const struct lam_tokenizer *tokenizer,
    const struct lam_text_part *parts, size_t n_parts, struct lam_tokens *tokens,
    struct lam_err *err);

/*
 * Streaming decoder: push ids one at a time, take text that is complete UTF-8. Bytes that begin a
 * sequence stay inside until the sequence is complete; bytes that can never be UTF-8 come out as
 * U+FFFD.
 */
struct lam_decoder {
    const struct lam_tokenizer *tokenizer;
    struct lam_buf pending;
    bool show_special; /* write control tokens too (default: they have no text) */
    bool at_start;     /* SentencePiece: the first token's leading space is dropped */
};

void lam_decoder_init(
    struct lam_decoder *decoder, const struct lam_tokenizer *tokenizer, bool show_special);
/* Appends complete text to `out`. Errors: LAM_OUT_OF_RANGE: no such id; LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_decoder_push(
    struct lam_decoder *decoder, int32_t token, struct lam_buf *out, struct lam_err *err);
/* Flushes what is pending, as U+FFFD if incomplete. */
LAM_MUST_USE enum lam_status lam_decoder_finish(
    struct lam_decoder *decoder, struct lam_buf *out, struct lam_err *err);
void lam_decoder_done(struct lam_decoder *decoder);

#endif
