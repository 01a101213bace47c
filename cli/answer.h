/*
 * answer: what `run` and `generate` share: the flags of a generation, the prompt, and how the
 * answer is printed (its text on stdout as it comes, or one JSON object; rates on stderr).
 */
#ifndef LAMINAR_CLI_ANSWER_H
#define LAMINAR_CLI_ANSWER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/client.h"
#include "common/buf.h"
#include "common/flag.h"
#include "common/status.h"

/* A value and whether the user gave it. */
struct lam_answer_real {
    double value;
    bool set;
};
struct lam_answer_int {
    int64_t value;
    bool set;
};

struct lam_answer_options {
    const char *prompt; /* NULL: from stdin */
    struct lam_answer_int max_tokens;
    bool chat;
    bool raw;
    const char *system;
    double temperature;
    struct lam_answer_int top_k;
    struct lam_answer_real top_p;
    struct lam_answer_real min_p;
    struct lam_answer_real repetition_penalty;
    struct lam_answer_real presence_penalty;
    struct lam_answer_real frequency_penalty;
    struct lam_answer_int seed;
    const char *stop;
    bool json;
};

#define LAM_ANSWER_FLAGS 15

/* Temperature 0: the same command prints the same text. The rest is the service's default. */
struct lam_answer_options lam_answer_defaults(void);

/* Fills flags[0, LAM_ANSWER_FLAGS). */
void lam_answer_add_flags(struct lam_answer_options *options, struct lam_flag *flags);

/* Errors (bad usage): --chat with --raw, text that is no UTF-8. */
LAM_MUST_USE enum lam_status lam_answer_check(
    const struct lam_answer_options *options, struct lam_err *err);

/* All of stdin as text; one newline at its end is dropped. Errors: no UTF-8, too long, a failed
 * read. */
LAM_MUST_USE enum lam_status lam_answer_read_prompt(struct lam_buf *prompt, struct lam_err *err);

/* Everything of the request but the prompt. It points into options. */
struct lam_client_request lam_answer_request(const struct lam_answer_options *options);

/* A lam_client_text_fn: writes to stdout at once. --json: nothing. arg: lam_answer_options. */
bool lam_answer_write_text(void *arg, const char *text, size_t n_bytes);

/*
 * After the last text. Text: a newline if stdout is a terminal, rates on stderr. JSON: the object,
 * with the members of `extra` if it is not NULL (taken over).
 */
LAM_MUST_USE enum lam_status lam_answer_finish(const struct lam_answer_options *options,
    const struct lam_client_answer *answer, json_t *extra, struct lam_err *err);

#endif
