/*
 * spm (private to model/): SentencePiece BPE, the family "llama".
 *
 * A space is U+2581; neighbours whose joined text is a token merge, the highest score first;
 * characters that are no token become their UTF-8 bytes, tokens spelled <0x00>..<0xFF>, or the
 * unknown token.
 */
#ifndef LAMINAR_MODEL_SPM_H
#define LAMINAR_MODEL_SPM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "model/gguf.h"
#include "model/merge.h"
#include "model/tokens.h"
#include "model/vocab.h"

/* Longest text that merges can make: bounds the hashing per merge. */
#define LAM_SPM_PIECE_BYTES_MAX 1024u

struct lam_spm {
    const struct lam_vocab *vocab;
    uint32_t *ranks; /* [V]: order-reversing map of the scores */
    uint8_t *bytes;  /* [V]: what a byte token stands for */
    int32_t byte_ids[256];
    int32_t unknown_id; /* -1: none; then all byte tokens exist */
    bool has_bytes;     /* all 256 byte tokens exist */
    bool space_prefix;  /* text after the start or a special token gets a space in front */
};

/*
 * Reads tokenizer.ggml.scores and the byte tokens. Errors: LAM_INVALID_ARGUMENT names the token
 * whose score is NaN, whose spelling is no byte or double, or that is too long; LAM_UNIMPLEMENTED
 * for a normaliser.
 */
LAM_MUST_USE enum lam_status lam_spm_init(struct lam_spm *spm, const struct lam_gguf *gguf,
    const struct lam_vocab *vocab, struct lam_err *err);
void lam_spm_done(struct lam_spm *spm); /* a zeroed struct is allowed */

/* Appends the ids of text[0, n), UTF-8 without special tokens, n > 0. merger: scratch. */
LAM_MUST_USE enum lam_status lam_spm_encode(const struct lam_spm *spm, const char *text, size_t n,
    struct lam_merger *merger, struct lam_tokens *tokens, struct lam_err *err);

/* Appends the bytes of a token's text. */
LAM_MUST_USE bool lam_spm_decode(const struct lam_spm *spm, int32_t token, struct lam_buf *out);

#endif
