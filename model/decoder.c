/*
 * decoder: ids to text, as a stream (tokenizer.h).
 *
 * A token's bytes go to `pending`; then all complete characters leave it. At most three bytes, a
 * beginning of one character, stay. at_start: nothing was written yet, so a space that encoding put
 * in front of the text is still to be dropped.
 */
#include <inttypes.h>

#include "common/utf8.h"
#include "model/tokenizer_impl.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void lam_decoder_init(
    struct lam_decoder *decoder, const struct lam_tokenizer *tokenizer, bool show_special)
{
    *decoder = (struct lam_decoder){.tokenizer = tokenizer,
        .pending = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX),
        .show_special = show_special,
        .at_start = tokenizer->family == LAM_FAMILY_SPM && tokenizer->spm.space_prefix};
}

static enum lam_status no_memory(struct lam_err *err)
{
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to decode a token");
}

/* Puts the token's bytes behind `pending`. */
static bool spell(struct lam_decoder *decoder, int32_t token)
{
    const struct lam_tokenizer *tokenizer = decoder->tokenizer;
    struct lam_str piece = tokenizer->vocab.pieces[token];

    switch (lam_vocab_type(&tokenizer->vocab, token)) {
    case LAM_TOKEN_CONTROL:
    case LAM_TOKEN_UNKNOWN:
        return !decoder->show_special || lam_buf_append(&decoder->pending, piece.data, piece.size);
    case LAM_TOKEN_USER_DEFINED:
        return lam_buf_append(&decoder->pending, piece.data, piece.size);
    case LAM_TOKEN_NORMAL:
    case LAM_TOKEN_UNUSED:
    case LAM_TOKEN_BYTE:
        break;
    }
    if (tokenizer->family == LAM_FAMILY_SPM)
        return lam_spm_decode(&tokenizer->spm, token, &decoder->pending);
    return lam_bytelevel_decode(piece, &decoder->pending);
}

static void drop_prefix(struct lam_decoder *decoder)
{
    if (!decoder->at_start || decoder->pending.size == 0)
        return;
    decoder->at_start = false;
    if (decoder->pending.data[0] == ' ')
        lam_buf_drop_front(&decoder->pending, 1);
}

/* Moves what is complete to `out`; `all`: the rest too, as U+FFFD. All or nothing. */
static bool release(struct lam_decoder *decoder, bool all, struct lam_buf *out)
{
    const char *text = decoder->pending.data;
    size_t n = decoder->pending.size;
    size_t n_before = out->size;
    size_t at = 0;

    while (at < n) {
        uint32_t code;
        int length = lam_utf8_decode(text + at, n - at, &code);
        bool ok;
        if (length < 0 && !all)
            break;
        ok = length > 0 ? lam_buf_append(out, text + at, (size_t)length)
                        : lam_buf_text(out, REPLACEMENT);
        if (!ok) {
            out->size = n_before;
            return false;
        }
        /* An unfinished character at the end is one U+FFFD, whatever its length. */
        at = length < 0 ? n : at + (length > 0 ? (size_t)length : 1);
    }
    lam_buf_drop_front(&decoder->pending, at);
    return true;
}

enum lam_status lam_decoder_push(
    struct lam_decoder *decoder, int32_t token, struct lam_buf *out, struct lam_err *err)
{
    uint32_t n_vocab = decoder->tokenizer->vocab.n;

    if (token < 0 || (uint32_t)token >= n_vocab)
        return lam_fail(err, LAM_OUT_OF_RANGE,
            "token %" PRId32 " is outside the vocabulary of %" PRIu32, token, n_vocab);
    if (!spell(decoder, token))
        return no_memory(err);
    drop_prefix(decoder);
    return release(decoder, false, out) ? LAM_OK : no_memory(err);
}

enum lam_status lam_decoder_finish(
    struct lam_decoder *decoder, struct lam_buf *out, struct lam_err *err)
{
    return release(decoder, true, out) ? LAM_OK : no_memory(err);
}

void lam_decoder_done(struct lam_decoder *decoder)
{
    lam_buf_done(&decoder->pending);
}
