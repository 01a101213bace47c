/*
 * inbox (private to worker/): messages of the gateway, received and unpacked by a thread of their
 * own, so that the next step lies ready when the engine has finished with one.
 *
 * Messages are taken in their order by one thread, all that came before the end of the stream
 * before that end.
 */
#ifndef LAMINAR_WORKER_INBOX_H
#define LAMINAR_WORKER_INBOX_H

#include <stdbool.h>
#include <stddef.h>

#include "common/status.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "rpc/client.h"

struct lam_inbox;

/* Room for the message that was taken last and one more. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_inbox_create(
    size_t message_bytes_max, struct lam_inbox **ret_inbox, struct lam_err *err);

/* After lam_inbox_close. NULL is allowed. */
void lam_inbox_destroy(struct lam_inbox *inbox);

/* From now on, until close, the inbox is the one that receives on this stream. */
void lam_inbox_open(struct lam_inbox *inbox, struct lam_rpc_stream *stream);

/* Whether take would not wait. */
bool lam_inbox_ready(struct lam_inbox *inbox);

/*
 * Waits for the next message; it lives until the next call. Errors: LAM_UNAVAILABLE: the gateway
 * ended the stream, well or not; LAM_CANCELLED: somebody cancelled it; those of lam_message_unpack,
 * which end the inbox too.
 */
LAM_MUST_USE enum lam_status lam_inbox_take(
    struct lam_inbox *inbox, const Laminar__V1__GatewayMessage **ret_message, struct lam_err *err);

/* Waits until the stream has ended, which is the caller's to bring about, and lets go of it. What
 * was not taken is dropped. Nothing happens when none is open. */
void lam_inbox_close(struct lam_inbox *inbox);

#endif
