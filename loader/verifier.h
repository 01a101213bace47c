/*
 * verifier: the method Verify: lam_verify on a thread of its own, beside a loader that serves.
 *
 * It reads with one request at a time, past the pool and the page cache. While sessions are open it
 * rests nine times as long as it has worked, so workers keep their speed; with none it goes on at
 * once. What it sees for the first time goes into the record that the sessions use too, and the
 * checker saves it.
 *
 * begin and drop are the I/O thread's; the other two that of the owner.
 */
#ifndef LAMINAR_LOADER_VERIFIER_H
#define LAMINAR_LOADER_VERIFIER_H

#include "common/status.h"
#include "loader/file.h"
#include "loader/integrity.h"
#include "loader/sessions.h"
#include "rpc/server.h"

struct lam_verifier;

/* All outlive it. integrity: NULL when checksums are off. */
LAM_MUST_USE enum lam_status lam_verifier_create(const struct lam_file *file,
    struct lam_integrity *integrity, struct lam_sessions *sessions,
    struct lam_verifier **ret_verifier, struct lam_err *err);

/* Answers the call, from now until it finishes it. Errors: LAM_FAILED_PRECONDITION when checksums
 * are off; LAM_ALREADY_EXISTS when another call is being answered; LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_verifier_begin(
    struct lam_verifier *verifier, struct lam_rpc_call *call, struct lam_err *err);

/* That call has ended: nobody waits for the rest. Other calls are fine. */
void lam_verifier_drop(struct lam_verifier *verifier, const struct lam_rpc_call *call);

/* Gives up what is under way. NULL is allowed. */
void lam_verifier_destroy(struct lam_verifier *verifier);

#endif
