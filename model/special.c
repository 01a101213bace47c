/*
 * special: see special.h. All edges of the trie share one hash table, keyed by (node, byte): a
 * vocabulary of thousands of special tokens costs a few bytes per byte of their spelling.
 */
#include "model/special.h"

#include <inttypes.h>

#include "common/mem.h"

/* The slot of an edge: where it is, or the free slot where it would go. */
static uint32_t find_edge(const struct lam_special *special, uint64_t key)
{
    uint32_t slot = (uint32_t)(key * 0x9e3779b97f4a7c15ull >> 32) & special->edge_mask;

    while (special->edges[slot] && special->edges[slot] != key)
        slot = (slot + 1) & special->edge_mask;
    return slot;
}

static uint64_t edge_key(uint32_t node, char byte)
{
    return ((uint64_t)node + 1) << 8 | (unsigned char)byte;
}

static void add_piece(struct lam_special *special, struct lam_str piece, int32_t id)
{
    uint32_t node = 0;

    for (uint64_t i = 0; i < piece.size; i++) {
        uint64_t key = edge_key(node, piece.data[i]);
        uint32_t slot = find_edge(special, key);
        if (!special->edges[slot]) {
            special->edges[slot] = key;
            special->children[slot] = special->n_nodes;
            special->node_ids[special->n_nodes++] = -1;
        }
        node = special->children[slot];
    }
    if (node)
        special->node_ids[node] = id;
}

/* Sizes the tables: at most one node and one edge per byte of all spellings. */
static enum lam_status reserve(
    struct lam_special *special, const struct lam_vocab *vocab, struct lam_err *err)
{
    uint64_t n_bytes = 0;
    uint64_t n_slots = 16;

    for (uint32_t id = 0; id < vocab->n; id++) {
        if (!lam_vocab_special(vocab, (int32_t)id))
            continue;
        if (vocab->pieces[id].size > LAM_SPECIAL_BYTES_MAX)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "token %" PRIu32 " is special and %" PRIu64 " bytes long; the limit is %u", id,
                vocab->pieces[id].size, LAM_SPECIAL_BYTES_MAX);
        n_bytes += vocab->pieces[id].size;
        if (n_bytes > LAM_SPECIAL_TOTAL_BYTES_MAX)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the special tokens up to %" PRIu32 " spell %" PRIu64 " bytes; the limit is %u", id,
                n_bytes, LAM_SPECIAL_TOTAL_BYTES_MAX);
    }
    while (n_slots < 2 * n_bytes)
        n_slots *= 2;
    special->node_ids = lam_calloc(n_bytes + 1, sizeof *special->node_ids);
    special->edges = lam_calloc(n_slots, sizeof *special->edges);
    special->children = lam_calloc(n_slots, sizeof *special->children);
    if (!special->node_ids || !special->edges || !special->children)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the special tokens");
    special->edge_mask = (uint32_t)n_slots - 1;
    special->node_ids[0] = -1;
    special->n_nodes = 1;
    return LAM_OK;
}

enum lam_status lam_special_init(
    struct lam_special *special, const struct lam_vocab *vocab, struct lam_err *err)
{
    enum lam_status status;

    *special = (struct lam_special){0};
    status = reserve(special, vocab, err);
    if (status) {
        lam_special_done(special);
        return status;
    }
    for (uint32_t id = 0; id < vocab->n; id++)
        if (lam_vocab_special(vocab, (int32_t)id))
            add_piece(special, vocab->pieces[id], (int32_t)id);
    return LAM_OK;
}

void lam_special_done(struct lam_special *special)
{
    lam_free(special->node_ids);
    lam_free(special->edges);
    lam_free(special->children);
    *special = (struct lam_special){0};
}

size_t lam_special_match(const struct lam_special *special, const struct lam_vocab *vocab,
    const char *text, size_t n, size_t n_control, int32_t *ret_id)
{
    uint32_t node = 0;
    size_t best = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t slot = find_edge(special, edge_key(node, text[i]));
        int32_t id;
        if (!special->edges[slot])
            break;
        node = special->children[slot];
        id = special->node_ids[node];
        if (id < 0)
            continue;
        if (i < n_control || lam_vocab_type(vocab, id) == LAM_TOKEN_USER_DEFINED) {
            best = i + 1;
            *ret_id = id;
        }
    }
    return best;
}
