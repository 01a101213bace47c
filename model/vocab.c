/*
 * vocab: see vocab.h. The hash is open addressing at half load with linear probing; empty texts
 * (padding rows of some files) have no entry.
 */
#include "model/vocab.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "common/mem.h"
#include "common/utf8.h"

/* FNV-1a with a final mix, because slots are taken from the low bits. */
static uint32_t hash_text(const char *text, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325ull;

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3ull;
    hash ^= hash >> 32;
    hash *= 0x9e3779b97f4a7c15ull;
    return (uint32_t)(hash >> 32);
}

static bool piece_is(const struct lam_vocab *vocab, uint32_t id, const char *text, size_t n)
{
    const struct lam_str *piece = &vocab->pieces[id];

    return piece->size == n && memcmp(piece->data, text, n) == 0;
}

static enum lam_status add_piece(struct lam_vocab *vocab, uint32_t id, struct lam_err *err)
{
    const struct lam_str *piece = &vocab->pieces[id];
    uint32_t slot = hash_text(piece->data, piece->size) & vocab->slot_mask;

    for (uint32_t probe = 0; probe < LAM_PROBES_MAX; probe++) {
        uint32_t other = vocab->slots[slot];
        if (other == 0) {
            vocab->slots[slot] = id + 1;
            return LAM_OK;
        }
        if (piece_is(vocab, other - 1, piece->data, piece->size))
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "token %" PRIu32 " of the vocabulary repeats token %" PRIu32, id, other - 1);
        slot = (slot + 1) & vocab->slot_mask;
    }
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "token %" PRIu32 " of the vocabulary: too many texts with one hash", id);
}

static enum lam_status check_type(const struct lam_vocab *vocab, uint32_t id, struct lam_err *err)
{
    const struct lam_str *piece = &vocab->pieces[id];
    int32_t type = vocab->types ? vocab->types[id] : LAM_TOKEN_NORMAL;

    if (type < LAM_TOKEN_NORMAL || type > LAM_TOKEN_BYTE)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "tokenizer.ggml.token_type of token %" PRIu32 " is %" PRId32 ", not in 1..6", id, type);
    if (lam_vocab_special(vocab, (int32_t)id) && !lam_utf8_valid(piece->data, piece->size))
        return lam_fail(err, LAM_INVALID_ARGUMENT, "token %" PRIu32 " is special but no UTF-8", id);
    return LAM_OK;
}

static enum lam_status read_types(
    struct lam_vocab *vocab, const struct lam_gguf *gguf, struct lam_err *err)
{
    const char *key = "tokenizer.ggml.token_type";
    struct lam_gguf_i32s types;
    enum lam_status status = lam_gguf_i32s(gguf, key, &types, err);

    if (status == LAM_NOT_FOUND)
        return LAM_OK;
    if (status)
        return status;
    if (types.n != vocab->n)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s has %" PRIu64 " entries for %" PRIu32 " tokens", key, types.n, vocab->n);
    vocab->types = types.items;
    return LAM_OK;
}

static enum lam_status build_slots(struct lam_vocab *vocab, struct lam_err *err)
{
    uint32_t n_slots = 16;

    while (n_slots < 2 * vocab->n)
        n_slots *= 2;
    vocab->slots = lam_calloc(n_slots, sizeof *vocab->slots);
    if (!vocab->slots)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the vocabulary");
    vocab->slot_mask = n_slots - 1;
    for (uint32_t id = 0; id < vocab->n; id++) {
        enum lam_status status = check_type(vocab, id, err);
        if (!status && vocab->pieces[id].size)
            status = add_piece(vocab, id, err);
        if (status)
            return status;
    }
    return LAM_OK;
}

enum lam_status lam_vocab_init(
    struct lam_vocab *vocab, const struct lam_gguf *gguf, struct lam_err *err)
{
    struct lam_gguf_strings tokens;
    enum lam_status status = lam_gguf_strings(gguf, "tokenizer.ggml.tokens", &tokens, err);

    *vocab = (struct lam_vocab){0};
    if (status)
        return status;
    if (tokens.n == 0 || tokens.n > LAM_VOCAB_TOKENS_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "tokenizer.ggml.tokens has %" PRIu64 " tokens, not in 1..%u", tokens.n,
            LAM_VOCAB_TOKENS_MAX);
    vocab->pieces = tokens.items;
    vocab->n = (uint32_t)tokens.n;
    status = read_types(vocab, gguf, err);
    if (!status)
        status = build_slots(vocab, err);
    if (status)
        lam_vocab_done(vocab);
    return status;
}

void lam_vocab_done(struct lam_vocab *vocab)
{
    lam_free(vocab->slots);
    *vocab = (struct lam_vocab){0};
}

int32_t lam_vocab_find(const struct lam_vocab *vocab, const char *text, size_t n)
{
    uint32_t slot = hash_text(text, n) & vocab->slot_mask;

    while (vocab->slots[slot]) {
        uint32_t id = vocab->slots[slot] - 1;
        if (piece_is(vocab, id, text, n))
            return (int32_t)id;
        slot = (slot + 1) & vocab->slot_mask;
    }
    return -1;
}

enum lam_token_type lam_vocab_type(const struct lam_vocab *vocab, int32_t id)
{
    assert(id >= 0 && (uint32_t)id < vocab->n);
    return vocab->types ? (enum lam_token_type)vocab->types[id] : LAM_TOKEN_NORMAL;
}

bool lam_vocab_special(const struct lam_vocab *vocab, int32_t id)
{
    enum lam_token_type type = lam_vocab_type(vocab, id);

    return type == LAM_TOKEN_CONTROL || type == LAM_TOKEN_USER_DEFINED || type == LAM_TOKEN_UNKNOWN;
}

bool lam_vocab_mergeable(const struct lam_vocab *vocab, int32_t id)
{
    enum lam_token_type type = lam_vocab_type(vocab, id);

    return type == LAM_TOKEN_NORMAL || type == LAM_TOKEN_USER_DEFINED;
}
