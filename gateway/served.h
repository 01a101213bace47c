/*
 * served: the model that the gateway speaks for, made from the header bytes of its file:
 * vocabulary, tokenizer, chat template, numbers. The weights are the workers' business.
 *
 * Immutable after creation; safe from any thread.
 */
#ifndef LAMINAR_GATEWAY_SERVED_H
#define LAMINAR_GATEWAY_SERVED_H

#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "model/chat.h"
#include "model/gguf.h"
#include "model/spec.h"
#include "model/tokenizer.h"

struct lam_served {
    struct lam_buf header; /* the gguf points into it */
    uint64_t digest;
    struct lam_gguf *gguf;
    struct lam_spec spec;
    struct lam_tokenizer *tokenizer;
    enum lam_chat_template chat;
    struct lam_err chat_err; /* LAM_OK, or why this model cannot chat: the text for the client */
    uint32_t context_tokens; /* prompt and completion of one request */
};

struct lam_served_config {
    uint64_t file_bytes;
    uint64_t digest; /* XXH3-64 that the header must have */
    uint32_t context_tokens;
    const char *chat_name; /* template to use instead of the file's own choice; NULL: the file's */
};

/*
 * Takes over the contents of *header, also on failure. Errors: LAM_DATA_LOSS when the digest
 * differs; those of the parsers. A model without a usable chat template is served all the same.
 */
LAM_MUST_USE enum lam_status lam_served_create(struct lam_buf *header,
    const struct lam_served_config *config, struct lam_served **ret_served, struct lam_err *err);
void lam_served_destroy(struct lam_served *served); /* NULL is allowed */

#endif
