/* talk: see talk.h. */
#include "cli/talk.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "common/mem.h"
#include "common/size.h"

#define LINE_BYTES_MAX LAM_MIB

struct talk {
    struct lam_session *session;
    struct lam_answer_options *options;
    struct lam_buf input;                /* bytes read from stdin, not yet used */
    bool at_end;                         /* of stdin */
    struct lam_client_message *messages; /* [n]; contents are ours */
    size_t n;
    size_t cap;
};

/* Adds a copy of the text. role: literal. */
static enum lam_status push_message(
    struct talk *talk, const char *role, const char *text, size_t n_bytes, struct lam_err *err)
{
    char *content = lam_strndup(text, n_bytes);

    if (content && talk->n == talk->cap) {
        size_t cap = talk->cap ? 2 * talk->cap : 16;
        void *grown = lam_realloc(talk->messages, cap, sizeof *talk->messages);
        if (grown) {
            talk->messages = grown;
            talk->cap = cap;
        }
    }
    if (!content || talk->n == talk->cap) {
        lam_free(content);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the conversation");
    }
    talk->messages[talk->n++] = (struct lam_client_message){role, content};
    return LAM_OK;
}

static void drop_messages(struct talk *talk, size_t keep)
{
    while (talk->n > keep) {
        union {
            const char *in;
            char *out;
        } content = {.in = talk->messages[--talk->n].content};
        lam_free(content.out);
    }
}

/* Waits for more of stdin. False at its end, or when the session has ended. */
static bool read_more(struct talk *talk)
{
    struct pollfd fds[2] = {
        {.fd = STDIN_FILENO, .events = POLLIN},
        {.fd = lam_stack_end_fd(talk->session->stack), .events = POLLIN},
    };
    char bytes[4096];
    ssize_t n;

    if (poll(fds, 2, -1) < 0)
        return errno == EINTR;
    if (fds[1].revents)
        return false;
    n = read(STDIN_FILENO, bytes, sizeof bytes);
    if (n <= 0 || !lam_buf_append(&talk->input, bytes, (size_t)n)) {
        talk->at_end = true;
        return false;
    }
    return true;
}

/* The bytes of the next line, without its newline, at the front of input. False: there is none. */
static bool next_line(struct talk *talk, size_t *ret_bytes)
{
    for (;;) {
        char *newline = talk->input.size ? memchr(talk->input.data, '\n', talk->input.size) : NULL;
        if (newline) {
            *ret_bytes = (size_t)(newline - talk->input.data);
            return true;
        }
        if (!read_more(talk))
            break;
    }
    *ret_bytes = talk->input.size;
    return talk->at_end && talk->input.size > 0;
}

/* One line, one answer. A refused message (too long, no UTF-8) is reported and forgotten. */
static enum lam_status answer_line(
    struct talk *talk, size_t line_bytes, bool chat, struct lam_err *err)
{
    struct lam_client_request request = lam_answer_request(talk->options);
    struct lam_client_answer answer = {0};
    size_t n_before = talk->n;
    enum lam_status status;

    status = lam_command_check_text("the line", talk->input.data, line_bytes, err);
    if (!status)
        status = push_message(talk, "user", talk->input.data, line_bytes, err);
    if (!status) {
        request.messages = talk->messages;
        request.n_messages = talk->n;
        if (!chat)
            request.text = talk->messages[talk->n - 1].content;
        status = lam_client_generate(
            talk->session->client, &request, lam_answer_write_text, talk->options, &answer, err);
    }
    if (!status)
        status = lam_answer_finish(talk->options, &answer, NULL, err);
    if (!status && chat)
        status = push_message(
            talk, "assistant", answer.text.data ? answer.text.data : "", answer.text.size, err);
    if (status || !chat)
        drop_messages(talk, n_before);
    lam_client_answer_done(&answer);
    if (status == LAM_INVALID_ARGUMENT || status == LAM_OUT_OF_RANGE) {
        lam_command_fail(err);
        memset(err, 0, sizeof *err);
        status = LAM_OK;
    }
    return status;
}

enum lam_status lam_talk(
    struct lam_session *session, struct lam_answer_options *options, bool chat, struct lam_err *err)
{
    struct talk talk = {.session = session, .options = options, .input = LAM_BUF(LINE_BYTES_MAX)};
    const struct lam_client_model *model = &session->model;
    const char *name = model->name[0] ? model->name : model->architecture;
    enum lam_status status = LAM_OK;
    size_t line_bytes = 0;

    fprintf(stderr, "%s with ", chat ? "chat" : "raw text");
    lam_command_print_clean(stderr, name, strlen(name));
    fprintf(stderr, "; Ctrl-D ends\n");
    if (chat && options->system)
        status = push_message(&talk, "system", options->system, strlen(options->system), err);
    while (!status) {
        fprintf(stderr, "> ");
        if (!next_line(&talk, &line_bytes))
            break;
        if (line_bytes > 0)
            status = answer_line(&talk, line_bytes, chat, err);
        lam_buf_drop_front(&talk.input, line_bytes < talk.input.size ? line_bytes + 1 : line_bytes);
    }
    fprintf(stderr, "\n");
    if (!status)
        status = lam_stack_check(session->stack, err);
    drop_messages(&talk, 0);
    lam_free(talk.messages);
    lam_buf_done(&talk.input);
    return status;
}
