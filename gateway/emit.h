/*
 * emit: the tokens of one generation to text for the client.
 *
 * Text leaves only when it is complete UTF-8 and cannot be the beginning of a stop string. What
 * comes out in the end does not depend on how the text was cut into tokens: the stop string that is
 * complete first wins, and of two that are complete at the same byte the longer one. The stop
 * string itself is never output.
 *
 * A `struct lam_emit` is owned by one thread.
 */
#ifndef LAMINAR_GATEWAY_EMIT_H
#define LAMINAR_GATEWAY_EMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "model/tokenizer.h"

#define LAM_STOPS_MAX 8u
#define LAM_STOP_BYTES_MAX 64u

struct lam_stop {
    char text[LAM_STOP_BYTES_MAX];
    size_t size; /* 1..LAM_STOP_BYTES_MAX */
};

enum lam_finish {
    LAM_FINISH_NOT,    /* it goes on */
    LAM_FINISH_STOP,   /* an end token or a stop string */
    LAM_FINISH_LENGTH, /* the last token that was allowed */
};

struct lam_emit_config {
    const struct lam_tokenizer *tokenizer; /* outlives the emit */
    const struct lam_stop *stops;          /* [n_stops], copied */
    size_t n_stops;                        /* at most LAM_STOPS_MAX */
    bool ignore_eos;
};

struct lam_emit {
    struct lam_decoder decoder;
    const struct lam_tokenizer *tokenizer;
    struct lam_stop stops[LAM_STOPS_MAX];
    size_t n_stops;
    bool ignore_eos;
    struct lam_buf fresh; /* text of the token that is being pushed */
    struct lam_buf text;  /* decoded and not yet taken */
    size_t n_ready;       /* bytes of it that may leave */
    enum lam_finish finish;
    const struct lam_stop *matched; /* the stop string that ended it, or NULL */
};

void lam_emit_init(struct lam_emit *emit, const struct lam_emit_config *config);

/*
 * The next token; not after the end. last: no more tokens are allowed. emit->finish tells whether
 * it is over. Errors: LAM_OUT_OF_RANGE for an id outside of the vocabulary; LAM_RESOURCE_EXHAUSTED
 * without memory.
 */
LAM_MUST_USE enum lam_status lam_emit_push(
    struct lam_emit *emit, int32_t token, bool last, struct lam_err *err);

/* Text that may leave: [emit->n_ready] bytes at emit->text.data. Forgets them: */
void lam_emit_taken(struct lam_emit *emit);

/* Appends text[0, n) with every U+0000 as U+FFFD. False: no memory or over out->max. */
LAM_MUST_USE bool lam_emit_append_text(struct lam_buf *out, const char *text, size_t n);

void lam_emit_done(struct lam_emit *emit); /* a zeroed struct is allowed */

#endif
