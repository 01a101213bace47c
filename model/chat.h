/*
 * chat: messages to a prompt, by built-in templates.
 *
 * A model file carries its template as a Jinja program; running a stranger's program is not an
 * option, so the file's text only *chooses* among the built-in ones, by its markers. A template
 * renders to segments: template text (control tokens are recognised in it) and user text (they are
 * not).
 */
#ifndef LAMINAR_MODEL_CHAT_H
#define LAMINAR_MODEL_CHAT_H

#include <stddef.h>

#include "common/status.h"
#include "model/gguf.h"
#include "model/tokenizer.h"
#include "model/tokens.h"

enum lam_chat_template {
    LAM_CHAT_NONE, /* the file has no template */
    LAM_CHAT_CHATML,
    LAM_CHAT_LLAMA2,
    LAM_CHAT_LLAMA3,
    LAM_CHAT_MISTRAL,
    LAM_CHAT_GEMMA,
    LAM_CHAT_PHI3,
    LAM_CHAT_ZEPHYR,
};

struct lam_chat_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
    size_t content_bytes;
};

/*
 * Picks by the file's tokenizer.chat_template. LAM_CHAT_NONE when there is none.
 * Errors: LAM_UNIMPLEMENTED for a template of no known family: the text names --chat-template.
 */
LAM_MUST_USE enum lam_status lam_chat_detect(
    const struct lam_gguf *gguf, enum lam_chat_template *ret, struct lam_err *err);

/* By name ("chatml", "llama2", ...). Errors: LAM_INVALID_ARGUMENT lists the names. */
LAM_MUST_USE enum lam_status lam_chat_by_name(
    const char *name, enum lam_chat_template *ret, struct lam_err *err);
const char *lam_chat_name(enum lam_chat_template chat);

/*
 * Appends the tokens of the conversation and of the opening of the assistant's turn, BOS included
 * where the model wants one. gguf: for the default system prompt of the file's template, where the
 * family has one. Errors: LAM_INVALID_ARGUMENT for an unknown role, no messages, or an order that
 * the family forbids.
 */
LAM_MUST_USE enum lam_status lam_chat_encode(enum lam_chat_template chat,
    const struct lam_gguf *gguf, const struct lam_tokenizer *tokenizer,
    const struct lam_chat_message *messages, size_t n_messages, struct lam_tokens *tokens,
    struct lam_err *err);

#endif
