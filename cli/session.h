/*
 * session: a stack that is ready, and a client of it: what `run` and `serve` have in common.
 *
 * A plan was made before, and the tokenizer is checked first, in this process, so that a bad file
 * costs nothing. Then the services start, and the caller waits until the gateway has a worker or
 * something ends.
 */
#ifndef LAMINAR_CLI_SESSION_H
#define LAMINAR_CLI_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/plan_report.h"
#include "cli/progress.h"
#include "cli/stack.h"
#include "common/status.h"

struct lam_session {
    struct lam_stack *stack;
    struct lam_client *client;
    struct lam_progress *progress;
    struct lam_client_model model;
    const struct lam_run_plan *plan;
    bool stays;
};

struct lam_session_config {
    const char *model;       /* path */
    const char *runtime_dir; /* may be NULL */
    const char *listen;      /* public address; NULL: none */
    const char *prompt;      /* UTF-8 that will be asked; NULL: not known yet */
    bool stays;              /* a signal is the ordinary end, not an interruption */
    bool ops, record;        /* as those of lam_stack_config */
    const struct lam_stack_options *options;
    const struct lam_run_plan *plan; /* of this model; outlives the session */
};

/*
 * Returns when text can be generated. Call from the main thread, before any gRPC object exists.
 * Errors: of the model file; of a child (lam_stack_check). Close in every case.
 */
LAM_MUST_USE enum lam_status lam_session_open(
    const struct lam_session_config *config, struct lam_session *session, struct lam_err *err);

/* Asks again what the gateway and its worker say. Errors: those of lam_client_get_model. */
LAM_MUST_USE enum lam_status lam_session_refresh(struct lam_session *session, struct lam_err *err);

/* All that the services of a session with `ops` and `record` did since their start, into a file,
 * and a word on stderr. Errors: those of lam_trace_collect. */
LAM_MUST_USE enum lam_status lam_session_write_trace(
    const struct lam_session *session, const char *path, struct lam_err *err);

/* Passes with a row for each sequence that a caller has watched. */
struct lam_session_watch {
    double pass_s; /* of one; 0: there was none */
    int32_t n_passes;
    bool counted;                          /* the next two are known */
    struct lam_loader_stats before, after; /* around them */
};

/* The plan, and beside it what is measured by now. watch: NULL for none. After a refresh. */
struct lam_plan_report lam_session_report(
    const struct lam_session *session, const struct lam_session_watch *watch);

/*
 * Ends everything and returns the exit code: for `err`, of which it prints the cause
 * (lam_stack_blame); 0 for NULL. If a signal interrupted a session that does not stay, ends this
 * process by that signal, as shells expect, and does not return.
 */
int lam_session_close(struct lam_session *session, struct lam_err *err);

#endif
