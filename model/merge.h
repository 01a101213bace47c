/*
 * merge (private to model/): the loop that both tokenizer families share. Symbols in a row; the
 * adjacent pair of the lowest rank (leftmost among equals) becomes one symbol, until no pair has a
 * rank.
 *
 * n log n in the number of symbols: a linked list, and a heap of candidate pairs in which pairs
 * that died stay until they surface. One lam_merger is scratch for one thread; it grows to the
 * longest word it met.
 */
#ifndef LAMINAR_MODEL_MERGE_H
#define LAMINAR_MODEL_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define LAM_SYMBOL_NONE UINT32_MAX

struct lam_symbol {
    uint32_t start; /* bytes of the text */
    uint32_t size;
    int32_t id;    /* token, -1: none */
    uint32_t prev; /* neighbours, or LAM_SYMBOL_NONE */
    uint32_t next;
};

/* Do two neighbours merge? Sets the rank (lower goes first) and the token that they become. */
typedef bool (*lam_merge_fn)(const void *context, const struct lam_symbol *left,
    const struct lam_symbol *right, uint32_t *ret_rank, int32_t *ret_id);

struct lam_merger {
    struct lam_symbol *symbols; /* [n]; after a run, follow `next` from symbols[0] */
    uint32_t n;
    uint32_t cap;
    struct lam_candidate *heap; /* [2 * cap] */
    uint32_t n_heap;
};

/* Empties the row and makes room for n_max symbols. False: no memory; the merger stays usable. */
LAM_MUST_USE bool lam_merger_begin(struct lam_merger *merger, uint32_t n_max);
/* At the end of the row; there is room for it. */
void lam_merger_add(struct lam_merger *merger, uint32_t start, uint32_t size, int32_t id);
/* Merges until no pair has a rank. */
void lam_merger_run(struct lam_merger *merger, lam_merge_fn merge, const void *context);
void lam_merger_done(struct lam_merger *merger); /* a zeroed struct is allowed */

#endif
