/*
 * chat_file (private to model/): what we read out of a file's tokenizer.chat_template. The template
 * is a program and is never run: it is searched for literals.
 */
#ifndef LAMINAR_MODEL_CHAT_FILE_H
#define LAMINAR_MODEL_CHAT_FILE_H

#include <stdbool.h>

#include "common/buf.h"
#include "common/status.h"
#include "model/gguf.h"

/* The template's text; empty when the file has none. */
LAM_MUST_USE enum lam_status lam_chat_file_text(
    const struct lam_gguf *gguf, struct lam_str *ret_text, struct lam_err *err);

bool lam_chat_file_has(struct lam_str text, const char *literal);

/*
 * The system message that a ChatML template inserts when the conversation has none: a string
 * literal of the form '<|im_start|>system\n...<|im_end|>'. Fills `out` with the part between;
 * leaves it empty when the template has no such literal. Returns false without memory.
 */
LAM_MUST_USE bool lam_chat_file_default_system(struct lam_str text, struct lam_buf *out);

#endif
