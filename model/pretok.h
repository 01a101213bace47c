/*
 * pretok (private to model/): cuts text into the words that byte-level BPE works on.
 *
 * A family is a list of splits, run in order: each cuts every piece that the one before left into
 * its matches and the gaps between them. The patterns are those of the models' own tokenizer files;
 * they run on PCRE2 (JIT where the machine allows it). The splitter is immutable: any thread may
 * use it.
 */
#ifndef LAMINAR_MODEL_PRETOK_H
#define LAMINAR_MODEL_PRETOK_H

#include <stdbool.h>
#include <stddef.h>

#include "common/status.h"
#include "model/gguf.h"

struct lam_pretok;

/* name: tokenizer.ggml.pre. Errors: LAM_UNIMPLEMENTED names it; LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_pretok_create(
    struct lam_str name, struct lam_pretok **ret_pretok, struct lam_err *err);
void lam_pretok_destroy(struct lam_pretok *pretok); /* NULL is allowed */

/* What the family's own tokenizer does besides splitting. */
bool lam_pretok_wants_nfc(const struct lam_pretok *pretok);
/* A word that is a token stays whole. */
bool lam_pretok_keeps_whole_words(const struct lam_pretok *pretok);
/* Where the file does not say. */
bool lam_pretok_adds_bos(const struct lam_pretok *pretok);

/* Takes one word, text[0, n), n > 0. A failure ends the split and is its result. */
typedef enum lam_status (*lam_word_fn)(
    void *context, const char *text, size_t n, struct lam_err *err);

/* text must be UTF-8. Errors: of `word`; LAM_RESOURCE_EXHAUSTED when PCRE2 has no memory or no
 * steps left. */
LAM_MUST_USE enum lam_status lam_pretok_split(const struct lam_pretok *pretok, const char *text,
    size_t n, lam_word_fn word, void *context, struct lam_err *err);

#endif
