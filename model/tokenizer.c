/*
 * tokenizer: see tokenizer.h.
 *
 * Encoding: join the parts; cut the text at special tokens (special.h); give each stretch between
 * them to the family (bytelevel.h, spm.h), which merges with merge.h. Decoding is decoder.c.
 */
#include "model/tokenizer.h"

#include <inttypes.h>
#include <string.h>

#include "common/mem.h"
#include "common/utf8.h"
#include "model/tokenizer_impl.h"

/* Texts that end a turn in models whose files name only one such token. Control tokens only. */
static const char *const end_texts[] = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
};

static bool str_is(struct lam_str str, const char *text)
{
    return str.size == strlen(text) && memcmp(str.data, text, str.size) == 0;
}

/* A token id from the metadata; -1 when the key is absent. */
static enum lam_status read_id(const struct lam_tokenizer *tokenizer, const struct lam_gguf *gguf,
    const char *key, int32_t *ret_id, struct lam_err *err)
{
    uint64_t id;
    enum lam_status status = lam_gguf_u64(gguf, key, &id, err);

    if (status == LAM_NOT_FOUND) {
        *ret_id = -1;
        return LAM_OK;
    }
    if (status)
        return status;
    if (id >= tokenizer->vocab.n)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s is %" PRIu64 ", but the vocabulary has %" PRIu32 " tokens", key, id,
            tokenizer->vocab.n);
    *ret_id = (int32_t)id;
    return LAM_OK;
}

static void add_end(struct lam_tokenizer *tokenizer, int32_t id)
{
    if (id >= 0 && !lam_tokenizer_is_eog(tokenizer, id))
        tokenizer->ends[tokenizer->n_ends++] = id;
}

static enum lam_status read_special_ids(
    struct lam_tokenizer *tokenizer, const struct lam_gguf *gguf, struct lam_err *err)
{
    const struct lam_vocab *vocab = &tokenizer->vocab;
    int32_t eot, eom;
    enum lam_status status =
        read_id(tokenizer, gguf, "tokenizer.ggml.bos_token_id", &tokenizer->bos, err);

    if (!status)
        status = read_id(tokenizer, gguf, "tokenizer.ggml.eos_token_id", &tokenizer->eos, err);
    if (!status)
        status = read_id(tokenizer, gguf, "tokenizer.ggml.eot_token_id", &eot, err);
    if (!status)
        status = read_id(tokenizer, gguf, "tokenizer.ggml.eom_token_id", &eom, err);
    if (status)
        return status;
    add_end(tokenizer, tokenizer->eos);
    add_end(tokenizer, eot);
    add_end(tokenizer, eom);
    for (size_t i = 0; i < sizeof end_texts / sizeof *end_texts; i++) {
        int32_t id = lam_vocab_find(vocab, end_texts[i], strlen(end_texts[i]));
        if (id >= 0 && lam_vocab_type(vocab, id) == LAM_TOKEN_CONTROL)
            add_end(tokenizer, id);
    }
    return LAM_OK;
}

static enum lam_status read_family(
    struct lam_tokenizer *tokenizer, const struct lam_gguf *gguf, struct lam_err *err)
{
    struct lam_str model;
    enum lam_status status = lam_gguf_str(gguf, "tokenizer.ggml.model", &model, err);
    int shown;

    if (status)
        return status;
    if (str_is(model, "gpt2")) {
        tokenizer->family = LAM_FAMILY_BYTELEVEL;
        return lam_bytelevel_init(&tokenizer->bytelevel, gguf, &tokenizer->vocab, err);
    }
    if (str_is(model, "llama")) {
        tokenizer->family = LAM_FAMILY_SPM;
        return lam_spm_init(&tokenizer->spm, gguf, &tokenizer->vocab, err);
    }
    shown = model.size < 64 ? (int)model.size : 64;
    return lam_fail(err, LAM_UNIMPLEMENTED,
        "tokenizer.ggml.model \"%.*s\" is a tokenizer that this build does not know (gpt2, llama)",
        shown, model.data);
}

static enum lam_status read_bos_rule(
    struct lam_tokenizer *tokenizer, const struct lam_gguf *gguf, struct lam_err *err)
{
    bool wants =
        tokenizer->family == LAM_FAMILY_SPM || lam_pretok_adds_bos(tokenizer->bytelevel.pretok);
    enum lam_status status = lam_gguf_bool(gguf, "tokenizer.ggml.add_bos_token", &wants, err);

    if (status && status != LAM_NOT_FOUND)
        return status;
    tokenizer->wants_bos = wants && tokenizer->bos >= 0;
    return LAM_OK;
}

enum lam_status lam_tokenizer_create(
    const struct lam_gguf *gguf, struct lam_tokenizer **ret_tokenizer, struct lam_err *err)
{
    struct lam_tokenizer *tokenizer = lam_calloc(1, sizeof *tokenizer);
    enum lam_status status;

    if (!tokenizer)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the tokenizer");
    status = lam_vocab_init(&tokenizer->vocab, gguf, err);
    if (!status)
        status = lam_special_init(&tokenizer->special, &tokenizer->vocab, err);
    if (!status)
        status = read_special_ids(tokenizer, gguf, err);
    if (!status)
        status = read_family(tokenizer, gguf, err);
    if (!status)
        status = read_bos_rule(tokenizer, gguf, err);
    if (status) {
        lam_tokenizer_destroy(tokenizer);
        return status;
    }
    *ret_tokenizer = tokenizer;
    return LAM_OK;
}

void lam_tokenizer_destroy(struct lam_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    lam_bytelevel_done(&tokenizer->bytelevel);
    lam_spm_done(&tokenizer->spm);
    lam_special_done(&tokenizer->special);
    lam_vocab_done(&tokenizer->vocab);
    lam_free(tokenizer);
}

uint32_t lam_tokenizer_n_vocab(const struct lam_tokenizer *tokenizer)
{
    return tokenizer->vocab.n;
}

int32_t lam_tokenizer_bos(const struct lam_tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t lam_tokenizer_eos(const struct lam_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

bool lam_tokenizer_is_eog(const struct lam_tokenizer *tokenizer, int32_t token)
{
    for (uint32_t i = 0; i < tokenizer->n_ends; i++)
        if (tokenizer->ends[i] == token)
            return true;
    return false;
}

bool lam_tokenizer_wants_bos(const struct lam_tokenizer *tokenizer)
{
    return tokenizer->wants_bos;
}

struct lam_str lam_tokenizer_piece(const struct lam_tokenizer *tokenizer, int32_t token)
{
    if (token < 0 || (uint32_t)token >= tokenizer->vocab.n)
        return (struct lam_str){.data = "", .size = 0};
    return tokenizer->vocab.pieces[token];
}

static enum lam_status encode_stretch(const struct lam_tokenizer *tokenizer, const char *text,
    size_t n, struct lam_merger *merger, struct lam_tokens *tokens, struct lam_err *err)
{
    if (n == 0)
        return LAM_OK;
    if (tokenizer->family == LAM_FAMILY_SPM)
        return lam_spm_encode(&tokenizer->spm, text, n, merger, tokens, err);
    return lam_bytelevel_encode(&tokenizer->bytelevel, text, n, merger, tokens, err);
}

/* text: the parts, joined. */
static enum lam_status encode_joined(const struct lam_tokenizer *tokenizer, const char *text,
    const struct lam_text_part *parts, size_t n_parts, struct lam_merger *merger,
    struct lam_tokens *tokens, struct lam_err *err)
{
    size_t at = 0, begin = 0, part_end = 0, n = 0;
    enum lam_status status = LAM_OK;

    for (size_t i = 0; i < n_parts; i++)
        n += parts[i].n;
    for (size_t part = 0; part < n_parts; part++) {
        part_end += parts[part].n;
        while (at < part_end) {
            bool control = parts[part].flags & LAM_ENCODE_SPECIAL;
            int32_t id = -1;
            size_t length = lam_special_match(&tokenizer->special, &tokenizer->vocab, text + at,
                n - at, control ? part_end - at : 0, &id);
            if (length == 0) {
                at++;
                continue;
            }
            status = encode_stretch(tokenizer, text + begin, at - begin, merger, tokens, err);
            if (!status)
                status = lam_tokens_push(tokens, id, err);
            if (status)
                return status;
            at += length;
            begin = at;
        }
    }
    return encode_stretch(tokenizer, text + begin, n - begin, merger, tokens, err);
}

static enum lam_status check_parts(
    const struct lam_text_part *parts, size_t n_parts, struct lam_err *err)
{
    size_t n = 0;

    for (size_t i = 0; i < n_parts; i++) {
        size_t valid = 0;
        if (parts[i].n > LAM_ENCODE_BYTES_MAX - n)
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
                "the text is longer than %zu bytes; shorten it", LAM_ENCODE_BYTES_MAX);
        n += parts[i].n;
        while (valid < parts[i].n) {
            uint32_t code;
            int length = lam_utf8_decode(parts[i].text + valid, parts[i].n - valid, &code);
            if (length <= 0)
                return lam_fail(
                    err, LAM_INVALID_ARGUMENT, "the text is no UTF-8 at byte %zu", valid);
            valid += (size_t)length;
        }
    }
    return LAM_OK;
}

enum lam_status lam_tokenizer_encode(const struct lam_tokenizer *tokenizer, const char *text,
    size_t n, enum lam_encode_flags flags, struct lam_tokens *tokens, struct lam_err *err)
{
    struct lam_text_part part = {.text = text, .n = n, .flags = flags};

    return lam_tokenizer_encode_parts(tokenizer, &part, 1, tokens, err);
}

enum lam_status lam_tokenizer_encode_parts(const struct lam_tokenizer *tokenizer,
    const struct lam_text_part *parts, size_t n_parts, struct lam_tokens *tokens,
    struct lam_err *err)
{
    struct lam_buf joined = LAM_BUF(LAM_ENCODE_BYTES_MAX);
    struct lam_merger merger = {0};
    size_t n_before = tokens->n;
    enum lam_status status = check_parts(parts, n_parts, err);

    for (size_t i = 0; !status && n_parts > 1 && i < n_parts; i++)
        if (!lam_buf_append(&joined, parts[i].text, parts[i].n))
            status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to join the text");
    if (!status && n_parts > 0)
        status = encode_joined(tokenizer, n_parts > 1 ? joined.data : parts[0].text, parts, n_parts,
            &merger, tokens, err);
    if (status)
        tokens->n = n_before;
    lam_merger_done(&merger);
    lam_buf_done(&joined);
    return status;
}
