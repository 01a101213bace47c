/* bytelevel: see bytelevel.h. */
#include "model/bytelevel.h"

#include <inttypes.h>
#include <string.h>

#include "common/mem.h"
#include "common/utf8.h"
#include "model/nfc.h"

/* One merge. The key is never 0 for a used slot: left + 1 is in the high half. */
struct lam_pair {
    uint64_t key;
    uint32_t rank;
    int32_t id;
};

struct word_run {
    const struct lam_bytelevel *bytelevel;
    struct lam_merger *merger;
    struct lam_tokens *tokens;
    struct lam_buf *spelled; /* scratch for whole words */
};

static bool prints_itself(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* The alphabet: 0x00..0x20 are U+0100.., 0x7f..0xa0 are U+0121.., 0xad is U+0143. */
static uint32_t byte_to_code(unsigned char byte)
{
    if (prints_itself(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    return byte == 0xad ? 0x143u : 0x121u + (byte - 0x7fu);
}

/* Returns the byte, or -1 for a character outside the alphabet. */
static int code_to_byte(uint32_t code)
{
    if (code < 0x100)
        return prints_itself(code) ? (int)code : -1;
    if (code <= 0x120)
        return (int)(code - 0x100);
    if (code <= 0x142)
        return (int)(code - 0x121 + 0x7f);
    return code == 0x143 ? 0xad : -1;
}

static uint64_t pair_key(int32_t left, int32_t right)
{
    return ((uint64_t)(uint32_t)left + 1) << 32 | (uint32_t)right;
}

static uint32_t first_slot(const struct lam_bytelevel *bytelevel, uint64_t key)
{
    return (uint32_t)(key * 0x9e3779b97f4a7c15ull >> 32) & bytelevel->pair_mask;
}

static enum lam_status add_pair(
    struct lam_bytelevel *bytelevel, struct lam_pair pair, struct lam_err *err)
{
    uint32_t slot = first_slot(bytelevel, pair.key);

    for (uint32_t probe = 0; probe < LAM_PROBES_MAX; probe++) {
        struct lam_pair *other = &bytelevel->pairs[slot];
        if (other->key == 0) {
            *other = pair;
            return LAM_OK;
        }
        if (other->key == pair.key)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "merge %" PRIu32 " of the vocabulary repeats merge %" PRIu32, pair.rank,
                other->rank);
        slot = (slot + 1) & bytelevel->pair_mask;
    }
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "merge %" PRIu32 " of the vocabulary: too many pairs with one hash", pair.rank);
}

/* "left right": both sides and left followed by right are tokens. */
static enum lam_status read_merge(struct lam_bytelevel *bytelevel, struct lam_str merge,
    uint32_t rank, struct lam_buf *joined, struct lam_err *err)
{
    const struct lam_vocab *vocab = bytelevel->vocab;
    const char *space = merge.size > 1 ? memchr(merge.data + 1, ' ', merge.size - 1) : NULL;
    size_t n_left = space ? (size_t)(space - merge.data) : 0;
    size_t n_right = space ? merge.size - n_left - 1 : 0;
    int32_t left, right, id;

    if (n_right == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "merge %" PRIu32 " of the vocabulary is no pair of texts with a space between", rank);
    lam_buf_clear(joined);
    if (!lam_buf_append(joined, merge.data, n_left) || !lam_buf_append(joined, space + 1, n_right))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the merges");
    left = lam_vocab_find(vocab, merge.data, n_left);
    right = lam_vocab_find(vocab, space + 1, n_right);
    id = lam_vocab_find(vocab, joined->data, joined->size);
    if (left < 0 || right < 0 || id < 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "merge %" PRIu32 " of the vocabulary: its %s is no token", rank,
            left < 0    ? "left side"
            : right < 0 ? "right side"
                        : "result");
    if (!lam_vocab_mergeable(vocab, id))
        return LAM_OK;
    return add_pair(
        bytelevel, (struct lam_pair){.key = pair_key(left, right), .rank = rank, .id = id}, err);
}

static enum lam_status read_merges(
    struct lam_bytelevel *bytelevel, const struct lam_gguf *gguf, struct lam_err *err)
{
    struct lam_gguf_strings merges;
    struct lam_buf joined = LAM_BUF(SIZE_MAX);
    uint64_t n_slots = 16;
    enum lam_status status = lam_gguf_strings(gguf, "tokenizer.ggml.merges", &merges, err);

    if (status)
        return status;
    while (n_slots < 2 * merges.n)
        n_slots *= 2;
    bytelevel->pairs = lam_calloc(n_slots, sizeof *bytelevel->pairs);
    if (!bytelevel->pairs)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the merges");
    bytelevel->pair_mask = (uint32_t)(n_slots - 1);
    for (uint64_t i = 0; !status && i < merges.n; i++)
        status = read_merge(bytelevel, merges.items[i], (uint32_t)i, &joined, err);
    lam_buf_done(&joined);
    return status;
}

static void find_byte_ids(struct lam_bytelevel *bytelevel)
{
    for (int byte = 0; byte < 256; byte++) {
        char text[4];
        size_t n = lam_utf8_encode(byte_to_code((unsigned char)byte), text);
        int32_t id = lam_vocab_find(bytelevel->vocab, text, n);
        bytelevel->byte_ids[byte] = id >= 0 && lam_vocab_mergeable(bytelevel->vocab, id) ? id : -1;
    }
}

enum lam_status lam_bytelevel_init(struct lam_bytelevel *bytelevel, const struct lam_gguf *gguf,
    const struct lam_vocab *vocab, struct lam_err *err)
{
    struct lam_str pre;
    enum lam_status status = lam_gguf_str(gguf, "tokenizer.ggml.pre", &pre, err);

    *bytelevel = (struct lam_bytelevel){.vocab = vocab};
    if (status == LAM_NOT_FOUND)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "the file has no tokenizer.ggml.pre, so its pre-tokenizer is unknown; convert it "
            "again");
    if (!status)
        status = lam_pretok_create(pre, &bytelevel->pretok, err);
    if (!status)
        status = read_merges(bytelevel, gguf, err);
    if (status) {
        lam_bytelevel_done(bytelevel);
        return status;
    }
    find_byte_ids(bytelevel);
    return LAM_OK;
}

void lam_bytelevel_done(struct lam_bytelevel *bytelevel)
{
    lam_pretok_destroy(bytelevel->pretok);
    lam_free(bytelevel->pairs);
    *bytelevel = (struct lam_bytelevel){0};
}

static bool find_merge(const void *context, const struct lam_symbol *left,
    const struct lam_symbol *right, uint32_t *ret_rank, int32_t *ret_id)
{
    const struct lam_bytelevel *bytelevel = context;
    uint64_t key = pair_key(left->id, right->id);
    uint32_t slot = first_slot(bytelevel, key);

    while (bytelevel->pairs[slot].key) {
        const struct lam_pair *pair = &bytelevel->pairs[slot];
        if (pair->key == key) {
            *ret_rank = pair->rank;
            *ret_id = pair->id;
            return true;
        }
        slot = (slot + 1) & bytelevel->pair_mask;
    }
    return false;
}

/* Is the word as a whole a token? Sets *ret_id to it or to -1. */
static bool find_whole(const struct word_run *run, const char *word, size_t n, int32_t *ret_id)
{
    const struct lam_vocab *vocab = run->bytelevel->vocab;
    int32_t id;

    lam_buf_clear(run->spelled);
    for (size_t i = 0; i < n; i++) {
        char text[4];
        size_t length = lam_utf8_encode(byte_to_code((unsigned char)word[i]), text);
        if (!lam_buf_append(run->spelled, text, length))
            return false;
    }
    id = lam_vocab_find(vocab, run->spelled->data, run->spelled->size);
    *ret_id = id >= 0 && lam_vocab_mergeable(vocab, id) ? id : -1;
    return true;
}

static enum lam_status encode_word(void *context, const char *word, size_t n, struct lam_err *err)
{
    struct word_run *run = context;
    struct lam_merger *merger = run->merger;
    int32_t whole = -1;

    if (lam_pretok_keeps_whole_words(run->bytelevel->pretok) && !find_whole(run, word, n, &whole))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to encode a word of %zu bytes", n);
    if (whole >= 0)
        return lam_tokens_push(run->tokens, whole, err);
    if (!lam_merger_begin(merger, (uint32_t)n))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to encode a word of %zu bytes", n);
    for (size_t i = 0; i < n; i++) {
        int32_t id = run->bytelevel->byte_ids[(unsigned char)word[i]];
        if (id >= 0)
            lam_merger_add(merger, (uint32_t)i, 1, id);
    }
    lam_merger_run(merger, find_merge, run->bytelevel);
    for (uint32_t at = merger->n ? 0 : LAM_SYMBOL_NONE; at != LAM_SYMBOL_NONE;
         at = merger->symbols[at].next) {
        enum lam_status status = lam_tokens_push(run->tokens, merger->symbols[at].id, err);
        if (status)
            return status;
    }
    return LAM_OK;
}

enum lam_status lam_bytelevel_encode(const struct lam_bytelevel *bytelevel, const char *text,
    size_t n, struct lam_merger *merger, struct lam_tokens *tokens, struct lam_err *err)
{
    struct lam_buf normal = LAM_BUF(SIZE_MAX);
    struct lam_buf spelled = LAM_BUF(SIZE_MAX);
    struct word_run run = {
        .bytelevel = bytelevel, .merger = merger, .tokens = tokens, .spelled = &spelled};
    enum lam_status status = LAM_OK;

    if (lam_pretok_wants_nfc(bytelevel->pretok) && !lam_nfc_is_plain(text, n)) {
        status = lam_nfc(text, n, &normal, err);
        text = normal.data;
        n = normal.size;
    }
    if (!status)
        status = lam_pretok_split(bytelevel->pretok, text, n, encode_word, &run, err);
    lam_buf_done(&spelled);
    lam_buf_done(&normal);
    return status;
}

bool lam_bytelevel_decode(struct lam_str piece, struct lam_buf *out)
{
    size_t n_before = out->size;

    for (size_t at = 0; at < piece.size;) {
        uint32_t code;
        int length = lam_utf8_decode(piece.data + at, piece.size - at, &code);
        int value = length > 0 ? code_to_byte(code) : -1;
        char byte = (char)value;
        if (value < 0) {
            out->size = n_before;
            return lam_buf_append(out, piece.data, piece.size);
        }
        if (!lam_buf_append(out, &byte, 1))
            return false;
        at += (size_t)length;
    }
    return true;
}
