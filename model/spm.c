/* spm: see spm.h. */
#include "model/spm.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "common/utf8.h"

#define BLANK "\xe2\x96\x81" /* U+2581 */
#define BLANK_BYTES 3u

/* What find_merge needs besides the symbols. */
struct merge_text {
    const struct lam_spm *spm;
    const char *text;
};

/* "<0x0A>" and nothing else: -1 for any other spelling. */
static int parse_byte(struct lam_str piece)
{
    int value = 0;

    if (piece.size != 6 || memcmp(piece.data, "<0x", 3) != 0 || piece.data[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        char digit = piece.data[i];
        if (digit >= '0' && digit <= '9')
            value = value * 16 + (digit - '0');
        else if (digit >= 'A' && digit <= 'F')
            value = value * 16 + (digit - 'A' + 10);
        else
            return -1;
    }
    return value;
}

/* Maps scores to ranks: a higher score is a lower rank, and equal scores are equal. */
static uint32_t rank_of(float score)
{
    uint32_t bits;

    score += 0.0f; /* -0 becomes 0 */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? bits : 0x7fffffffu - bits;
}

static enum lam_status add_byte(struct lam_spm *spm, uint32_t id, struct lam_err *err)
{
    struct lam_str piece = spm->vocab->pieces[id];
    int byte = parse_byte(piece);

    if (byte < 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "token %" PRIu32 " has the type of a byte, but is not spelled <0x00>..<0xFF>", id);
    spm->bytes[id] = (uint8_t)byte;
    spm->byte_ids[byte] = (int32_t)id;
    return LAM_OK;
}

static enum lam_status read_tokens(
    struct lam_spm *spm, struct lam_gguf_f32s scores, struct lam_err *err)
{
    for (uint32_t id = 0; id < spm->vocab->n; id++) {
        enum lam_token_type type = lam_vocab_type(spm->vocab, (int32_t)id);
        enum lam_status status = LAM_OK;
        if (isnan(scores.items[id]))
            return lam_fail(
                err, LAM_INVALID_ARGUMENT, "the score of token %" PRIu32 " is no number", id);
        if (type == LAM_TOKEN_NORMAL && spm->vocab->pieces[id].size > LAM_SPM_PIECE_BYTES_MAX)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "token %" PRIu32 " is %" PRIu64 " bytes long; the limit is %u", id,
                spm->vocab->pieces[id].size, LAM_SPM_PIECE_BYTES_MAX);
        spm->ranks[id] = rank_of(scores.items[id]);
        if (type == LAM_TOKEN_BYTE)
            status = add_byte(spm, id, err);
        else if (type == LAM_TOKEN_UNKNOWN && spm->unknown_id < 0)
            spm->unknown_id = (int32_t)id;
        if (status)
            return status;
    }
    return LAM_OK;
}

static enum lam_status read_options(
    struct lam_spm *spm, const struct lam_gguf *gguf, struct lam_err *err)
{
    struct lam_gguf_i32s unused;
    enum lam_status status =
        lam_gguf_bool(gguf, "tokenizer.ggml.add_space_prefix", &spm->space_prefix, err);

    if (status == LAM_NOT_FOUND)
        spm->space_prefix = true;
    else if (status)
        return status;
    if (lam_gguf_i32s(gguf, "tokenizer.ggml.precompiled_charsmap", &unused, NULL) != LAM_NOT_FOUND)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "the tokenizer has a precompiled_charsmap (a normaliser), which this build does not "
            "run");
    return LAM_OK;
}

static enum lam_status read_scores(
    struct lam_spm *spm, const struct lam_gguf *gguf, struct lam_err *err)
{
    struct lam_gguf_f32s scores;
    enum lam_status status = lam_gguf_f32s(gguf, "tokenizer.ggml.scores", &scores, err);

    if (status)
        return status;
    if (scores.n != spm->vocab->n)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "tokenizer.ggml.scores has %" PRIu64 " entries for %" PRIu32 " tokens", scores.n,
            spm->vocab->n);
    spm->ranks = lam_calloc(spm->vocab->n, sizeof *spm->ranks);
    spm->bytes = lam_calloc(spm->vocab->n, sizeof *spm->bytes);
    if (!spm->ranks || !spm->bytes)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the vocabulary's scores");
    return read_tokens(spm, scores, err);
}

enum lam_status lam_spm_init(struct lam_spm *spm, const struct lam_gguf *gguf,
    const struct lam_vocab *vocab, struct lam_err *err)
{
    enum lam_status status;

    *spm = (struct lam_spm){.vocab = vocab, .unknown_id = -1, .has_bytes = true};
    for (int byte = 0; byte < 256; byte++)
        spm->byte_ids[byte] = -1;
    status = read_options(spm, gguf, err);
    if (!status)
        status = read_scores(spm, gguf, err);
    for (int byte = 0; byte < 256; byte++)
        spm->has_bytes = spm->has_bytes && spm->byte_ids[byte] >= 0;
    if (!status && !spm->has_bytes && spm->unknown_id < 0)
        status = lam_fail(err, LAM_INVALID_ARGUMENT,
            "the vocabulary has neither all 256 byte tokens nor an unknown token");
    if (status)
        lam_spm_done(spm);
    return status;
}

void lam_spm_done(struct lam_spm *spm)
{
    lam_free(spm->ranks);
    lam_free(spm->bytes);
    *spm = (struct lam_spm){0};
}

/* The mergeable token with this text, or -1. */
static int32_t find_piece(const struct lam_spm *spm, const char *text, size_t n)
{
    int32_t id = n <= LAM_SPM_PIECE_BYTES_MAX ? lam_vocab_find(spm->vocab, text, n) : -1;

    return id >= 0 && lam_vocab_mergeable(spm->vocab, id) ? id : -1;
}

static bool find_merge(const void *context, const struct lam_symbol *left,
    const struct lam_symbol *right, uint32_t *ret_rank, int32_t *ret_id)
{
    const struct merge_text *run = context;
    int32_t id = find_piece(run->spm, run->text + left->start, left->size + right->size);

    if (id < 0)
        return false;
    *ret_rank = run->spm->ranks[id];
    *ret_id = id;
    return true;
}

/* Appends text with its spaces as U+2581, one more in front where the model wants that. */
static bool escape(const struct lam_spm *spm, const char *text, size_t n, struct lam_buf *out)
{
    size_t begin = 0;

    if (spm->space_prefix && !lam_buf_append(out, BLANK, BLANK_BYTES))
        return false;
    for (size_t at = 0; at < n; at++) {
        if (text[at] != ' ')
            continue;
        if (!lam_buf_append(out, text + begin, at - begin) ||
            !lam_buf_append(out, BLANK, BLANK_BYTES))
            return false;
        begin = at + 1;
    }
    return lam_buf_append(out, text + begin, n - begin);
}

static enum lam_status push_symbol(const struct lam_spm *spm, const char *text,
    const struct lam_symbol *symbol, struct lam_tokens *tokens, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    if (symbol->id >= 0)
        return lam_tokens_push(tokens, symbol->id, err);
    if (!spm->has_bytes)
        return lam_tokens_push(tokens, spm->unknown_id, err);
    for (uint32_t i = 0; !status && i < symbol->size; i++)
        status =
            lam_tokens_push(tokens, spm->byte_ids[(unsigned char)text[symbol->start + i]], err);
    return status;
}

static enum lam_status encode_escaped(const struct lam_spm *spm, const char *text, size_t n,
    struct lam_merger *merger, struct lam_tokens *tokens, struct lam_err *err)
{
    struct merge_text run = {.spm = spm, .text = text};
    enum lam_status status = LAM_OK;

    if (!lam_merger_begin(merger, (uint32_t)n))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to encode %zu bytes", n);
    for (size_t at = 0; at < n;) {
        uint32_t code;
        int length = lam_utf8_decode(text + at, n - at, &code);
        uint32_t size = length > 0 ? (uint32_t)length : 1;
        lam_merger_add(merger, (uint32_t)at, size, find_piece(spm, text + at, size));
        at += size;
    }
    lam_merger_run(merger, find_merge, &run);
    for (uint32_t at = 0; !status && at != LAM_SYMBOL_NONE; at = merger->symbols[at].next)
        status = push_symbol(spm, text, &merger->symbols[at], tokens, err);
    return status;
}

enum lam_status lam_spm_encode(const struct lam_spm *spm, const char *text, size_t n,
    struct lam_merger *merger, struct lam_tokens *tokens, struct lam_err *err)
{
    struct lam_buf escaped = LAM_BUF(SIZE_MAX);
    enum lam_status status;

    if (escape(spm, text, n, &escaped))
        status = encode_escaped(spm, escaped.data, escaped.size, merger, tokens, err);
    else
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to encode %zu bytes", n);
    lam_buf_done(&escaped);
    return status;
}

bool lam_spm_decode(const struct lam_spm *spm, int32_t token, struct lam_buf *out)
{
    struct lam_str piece = spm->vocab->pieces[token];
    size_t begin = 0;

    if (lam_vocab_type(spm->vocab, token) == LAM_TOKEN_BYTE)
        return lam_buf_append(out, &spm->bytes[token], 1);
    for (size_t at = 0; at + BLANK_BYTES <= piece.size; at++) {
        if (memcmp(piece.data + at, BLANK, BLANK_BYTES) != 0)
            continue;
        if (!lam_buf_append(out, piece.data + begin, at - begin) || !lam_buf_append(out, " ", 1))
            return false;
        at += BLANK_BYTES - 1;
        begin = at + 1;
    }
    return lam_buf_append(out, piece.data + begin, piece.size - begin);
}
