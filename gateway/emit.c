/* emit: see emit.h. */
#include "gateway/emit.h"

#include <assert.h>
#include <string.h>

/* Text that waits for a client is bounded by the credits of the call; this is the bound of last
 * resort. */
#define TEXT_BYTES_MAX ((size_t)16 << 20)

struct match {
    const struct lam_stop *stop;
    size_t begin;
    size_t end;
};

/* The match that is complete first; of those, the longest. `found` is the best one so far. */
static void search(
    const struct lam_stop *stop, const char *text, size_t n, size_t from, struct match *found)
{
    const char *hit = NULL;
    struct match match;

    if (n > from)
        hit = memmem(text + from, n - from, stop->text, stop->size);
    if (!hit)
        return;
    match.stop = stop;
    match.begin = (size_t)(hit - text);
    match.end = match.begin + stop->size;
    if (!found->stop || match.end < found->end ||
        (match.end == found->end && match.begin < found->begin))
        *found = match;
}

/* Length of the longest end of text[0, n) that begins the stop string without completing it. */
static size_t overlap(const struct lam_stop *stop, const char *text, size_t n)
{
    size_t length = stop->size - 1 < n ? stop->size - 1 : n;

    while (length > 0 && memcmp(text + n - length, stop->text, length) != 0)
        length--;
    return length;
}

/* Looks at what is not ready yet: text that is ready has been found to begin no stop string. */
static void scan(struct lam_emit *emit)
{
    const char *text = emit->text.data;
    size_t n = emit->text.size;
    struct match found = {0};
    size_t held = 0;

    for (size_t i = 0; i < emit->n_stops; i++)
        search(&emit->stops[i], text, n, emit->n_ready, &found);
    if (found.stop) {
        emit->finish = LAM_FINISH_STOP;
        emit->matched = found.stop;
        emit->n_ready = found.begin;
        return;
    }
    for (size_t i = 0; i < emit->n_stops; i++) {
        size_t length = overlap(&emit->stops[i], text + emit->n_ready, n - emit->n_ready);
        held = length > held ? length : held;
    }
    emit->n_ready = n - held;
}

void lam_emit_init(struct lam_emit *emit, const struct lam_emit_config *config)
{
    assert(config->n_stops <= LAM_STOPS_MAX);
    memset(emit, 0, sizeof *emit);
    emit->tokenizer = config->tokenizer;
    emit->ignore_eos = config->ignore_eos;
    emit->n_stops = config->n_stops;
    for (size_t i = 0; i < config->n_stops; i++) {
        assert(config->stops[i].size >= 1 && config->stops[i].size <= LAM_STOP_BYTES_MAX);
        emit->stops[i] = config->stops[i];
    }
    emit->fresh = LAM_BUF(TEXT_BYTES_MAX);
    emit->text = LAM_BUF(TEXT_BYTES_MAX);
    lam_decoder_init(&emit->decoder, config->tokenizer, false);
}

enum lam_status lam_emit_push(struct lam_emit *emit, int32_t token, bool last, struct lam_err *err)
{
    bool ends = !emit->ignore_eos && lam_tokenizer_is_eog(emit->tokenizer, token);
    enum lam_status status;

    assert(emit->finish == LAM_FINISH_NOT);
    lam_buf_clear(&emit->fresh);
    status = lam_decoder_push(&emit->decoder, token, &emit->fresh, err);
    if (status == LAM_OK && (ends || last))
        status = lam_decoder_finish(&emit->decoder, &emit->fresh, err);
    if (status != LAM_OK)
        return status;
    if (!lam_emit_append_text(&emit->text, emit->fresh.data, emit->fresh.size))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the text of a generation");
    if (emit->text.size > emit->n_ready)
        scan(emit);
    if (emit->finish == LAM_FINISH_NOT && (ends || last)) {
        emit->finish = ends ? LAM_FINISH_STOP : LAM_FINISH_LENGTH;
        emit->n_ready = emit->text.size;
    }
    return LAM_OK;
}

void lam_emit_taken(struct lam_emit *emit)
{
    lam_buf_drop_front(&emit->text, emit->n_ready);
    emit->n_ready = 0;
}

bool lam_emit_append_text(struct lam_buf *out, const char *text, size_t n)
{
    while (n > 0) {
        const char *nul = memchr(text, '\0', n);
        size_t plain = nul ? (size_t)(nul - text) : n;
        if (!lam_buf_append(out, text, plain))
            return false;
        if (!nul)
            return true;
        if (!lam_buf_text(out, "\xef\xbf\xbd"))
            return false;
        text += plain + 1;
        n -= plain + 1;
    }
    return true;
}

void lam_emit_done(struct lam_emit *emit)
{
    lam_buf_done(&emit->fresh);
    lam_buf_done(&emit->text);
    lam_decoder_done(&emit->decoder);
    memset(emit, 0, sizeof *emit);
}
