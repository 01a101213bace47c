/*
 * nfc (private to model/): Unicode's canonical composition, for the families whose own tokenizer
 * applies it before splitting (Qwen 2, Command R).
 */
#ifndef LAMINAR_MODEL_NFC_H
#define LAMINAR_MODEL_NFC_H

#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"
#include "common/status.h"

/* Is there nothing to do? True for text below U+0300 only; a quick test, not an exact one. */
bool lam_nfc_is_plain(const char *text, size_t n);

/*
 * Appends the NFC form of text[0, n), valid UTF-8. Errors: LAM_INVALID_ARGUMENT for more combining
 * marks in a row than any script writes (sorting them is quadratic); LAM_RESOURCE_EXHAUSTED.
 */
LAM_MUST_USE enum lam_status lam_nfc(
    const char *text, size_t n, struct lam_buf *out, struct lam_err *err);

#endif
