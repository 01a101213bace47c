/* tokens: see tokens.h. */
#include "model/tokens.h"

#include "common/mem.h"

void lam_tokens_done(struct lam_tokens *tokens)
{
    lam_free(tokens->ids);
    *tokens = (struct lam_tokens){.max = tokens->max};
}

enum lam_status lam_tokens_push(struct lam_tokens *tokens, int32_t id, struct lam_err *err)
{
    size_t cap = tokens->cap ? tokens->cap * 2 : 64;
    int32_t *ids;

    if (tokens->n >= tokens->max)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "the text is more than %zu tokens long; shorten it", tokens->max);
    if (tokens->n == tokens->cap) {
        ids = lam_realloc(tokens->ids, cap, sizeof *ids);
        if (!ids)
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for %zu tokens", cap);
        tokens->ids = ids;
        tokens->cap = cap;
    }
    tokens->ids[tokens->n++] = id;
    return LAM_OK;
}
