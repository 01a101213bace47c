/*
 * bytelevel (private to model/): byte-level BPE, the family "gpt2".
 *
 * Vocabulary texts spell bytes in an alphabet of 256 printable characters: a printable Latin-1 byte
 * is itself, the others are U+0100 upwards in order. Encoding works on token ids only: the ids of
 * the single bytes and a hash of the merges, (left, right) -> (rank, result).
 */
#ifndef LAMINAR_MODEL_BYTELEVEL_H
#define LAMINAR_MODEL_BYTELEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "model/gguf.h"
#include "model/merge.h"
#include "model/pretok.h"
#include "model/tokens.h"
#include "model/vocab.h"

struct lam_bytelevel {
    const struct lam_vocab *vocab;
    struct lam_pretok *pretok;
    struct lam_pair *pairs; /* hash of the merges */
    uint32_t pair_mask;
    int32_t byte_ids[256]; /* -1: the vocabulary has no token for this byte */
};

/*
 * Reads tokenizer.ggml.pre and tokenizer.ggml.merges. Errors: LAM_UNIMPLEMENTED for an unknown
 * pre-tokenizer; LAM_INVALID_ARGUMENT names the merge that is malformed, double, or names no token.
 */
LAM_MUST_USE enum lam_status lam_bytelevel_init(struct lam_bytelevel *bytelevel,
    const struct lam_gguf *gguf, const struct lam_vocab *vocab, struct lam_err *err);
void lam_bytelevel_done(struct lam_bytelevel *bytelevel); /* a zeroed struct is allowed */

/*
 * Appends the ids of text[0, n), UTF-8 without special tokens. A byte that the vocabulary has no
 * token for is left out, as the models' own tokenizers do. merger: the caller's scratch.
 */
LAM_MUST_USE enum lam_status lam_bytelevel_encode(const struct lam_bytelevel *bytelevel,
    const char *text, size_t n, struct lam_merger *merger, struct lam_tokens *tokens,
    struct lam_err *err);

/* Appends the bytes that a vocabulary text spells; a text outside the alphabet is its own. */
LAM_MUST_USE bool lam_bytelevel_decode(struct lam_str piece, struct lam_buf *out);

#endif
