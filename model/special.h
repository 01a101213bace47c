/*
 * special (private to model/): finds control and user-defined tokens in text. A byte trie over
 * their spellings; of several tokens that begin at one place the longest wins.
 */
#ifndef LAMINAR_MODEL_SPECIAL_H
#define LAMINAR_MODEL_SPECIAL_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "model/vocab.h"

/* Longest spelling of a special token: bounds the time per byte of text. */
#define LAM_SPECIAL_BYTES_MAX 512u

/* All spellings together: bounds the memory, which is some 30 bytes per byte of them. */
#define LAM_SPECIAL_TOTAL_BYTES_MAX (1u << 20)

struct lam_special {
    int32_t *node_ids;  /* [n_nodes]: the token that ends here, or -1 */
    uint64_t *edges;    /* (node + 1) << 8 | byte; 0: free */
    uint32_t *children; /* parallel to edges */
    uint32_t edge_mask;
    uint32_t n_nodes;
};

/* Errors: LAM_INVALID_ARGUMENT names the token that is too long, or one too many. */
LAM_MUST_USE enum lam_status lam_special_init(
    struct lam_special *special, const struct lam_vocab *vocab, struct lam_err *err);
void lam_special_done(struct lam_special *special); /* a zeroed struct is allowed */

/*
 * Does a special token begin at text[0]? User-defined ones may use text[0, n), control and unknown
 * ones only text[0, n_control). Returns its length in bytes and sets *ret_id; 0 for none.
 */
size_t lam_special_match(const struct lam_special *special, const struct lam_vocab *vocab,
    const char *text, size_t n, size_t n_control, int32_t *ret_id);

#endif
