/* tokens: a growing list of token ids. One thread. */
#ifndef LAMINAR_MODEL_TOKENS_H
#define LAMINAR_MODEL_TOKENS_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

/* Zero-initialise, but for max. */
struct lam_tokens {
    int32_t *ids;
    size_t n;
    size_t cap;
    size_t max; /* one more fails with LAM_RESOURCE_EXHAUSTED */
};

/* Frees the ids; the list stays usable. */
void lam_tokens_done(struct lam_tokens *tokens);

/* Appends one id. Errors: LAM_RESOURCE_EXHAUSTED over tokens->max or without memory. */
LAM_MUST_USE enum lam_status lam_tokens_push(
    struct lam_tokens *tokens, int32_t id, struct lam_err *err);

#endif
