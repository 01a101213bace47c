/*
 * vocab (private to model/): the token table of a model file, checked, with a hash from text to id.
 *
 * Every text occurs once, every type is one of GGUF's six, special texts are UTF-8. The texts stay
 * in the gguf, which must outlive the table. Immutable after lam_vocab_init.
 */
#ifndef LAMINAR_MODEL_VOCAB_H
#define LAMINAR_MODEL_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "model/gguf.h"

#define LAM_VOCAB_TOKENS_MAX (1u << 20)

/* A table that needs more probes than this for one entry was made to collide. */
#define LAM_PROBES_MAX 1024u

enum lam_token_type {
    LAM_TOKEN_NORMAL = 1,
    LAM_TOKEN_UNKNOWN = 2,
    LAM_TOKEN_CONTROL = 3,
    LAM_TOKEN_USER_DEFINED = 4,
    LAM_TOKEN_UNUSED = 5,
    LAM_TOKEN_BYTE = 6,
};

struct lam_vocab {
    const struct lam_str *pieces; /* [n] */
    const int32_t *types;         /* [n], or NULL: all normal */
    uint32_t n;
    uint32_t slot_mask;
    uint32_t *slots; /* id + 1; 0: free */
};

/* Errors: LAM_INVALID_ARGUMENT names the token; LAM_NOT_FOUND without a token list. */
LAM_MUST_USE enum lam_status lam_vocab_init(
    struct lam_vocab *vocab, const struct lam_gguf *gguf, struct lam_err *err);
void lam_vocab_done(struct lam_vocab *vocab); /* a zeroed struct is allowed */

/* The id of a text, of whatever type; -1 when it is no token. */
int32_t lam_vocab_find(const struct lam_vocab *vocab, const char *text, size_t n);

enum lam_token_type lam_vocab_type(const struct lam_vocab *vocab, int32_t id);

/* Is the token found in text by its spelling, before any merging? Such spellings are UTF-8. */
bool lam_vocab_special(const struct lam_vocab *vocab, int32_t id);

/* May plain text merge into this token? Control tokens must not come out of a user's text. */
bool lam_vocab_mergeable(const struct lam_vocab *vocab, int32_t id);

#endif
