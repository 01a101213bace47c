/*
 * talk: a conversation at a terminal. Each line is a message; the model's answers become part of
 * what it reads next. Ends at the end of input (Ctrl-D).
 */
#ifndef LAMINAR_CLI_TALK_H
#define LAMINAR_CLI_TALK_H

#include "cli/answer.h"
#include "cli/session.h"
#include "common/status.h"

/*
 * chat: whether lines are messages of one conversation, or each a prompt by itself.
 * Errors: of a generation; the session may have come to its end (lam_session_blame).
 */
LAM_MUST_USE enum lam_status lam_talk(struct lam_session *session,
    struct lam_answer_options *options, bool chat, struct lam_err *err);

#endif
