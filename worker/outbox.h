/*
 * outbox (private to worker/): answers to the gateway, sent by a thread of their own. A message is
 * with the transport in 0.05 to 0.2 ms; the next pass begins meanwhile.
 *
 * Messages go in the order in which they were put. One thread puts. A stream that refuses a message
 * has ended: what comes after is dropped, and the receiver of the stream meets the reason.
 */
#ifndef LAMINAR_WORKER_OUTBOX_H
#define LAMINAR_WORKER_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "rpc/client.h"
#include "rpc/message.h"

struct lam_outbox;

/* Two messages of up to message_bytes_max may wait. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_outbox_create(
    size_t message_bytes_max, struct lam_outbox **ret_outbox, struct lam_err *err);

/* After lam_outbox_close. NULL is allowed. */
void lam_outbox_destroy(struct lam_outbox *outbox);

/* Messages go to this stream from now on, until close. */
void lam_outbox_open(struct lam_outbox *outbox, struct lam_rpc_stream *stream);

/* Packs the message, for go, flush or close to send; while two are on their way, sends and waits.
 * Errors: LAM_RESOURCE_EXHAUSTED: it is too large. */
LAM_MUST_USE enum lam_status lam_outbox_put(
    struct lam_outbox *outbox, const ProtobufCMessage *message, struct lam_err *err);

/* The thread may send everything that was put. Waking it takes long on some machines, so this is
 * best called when the device has something to do. */
void lam_outbox_go(struct lam_outbox *outbox);

/* Waits until everything that was put is sent or refused, but no longer than this: then false. [any
 * thread] */
LAM_MUST_USE bool lam_outbox_flush(struct lam_outbox *outbox, uint64_t timeout_ns);

/* Waits until everything is sent or refused. The stream is not used afterwards. */
void lam_outbox_close(struct lam_outbox *outbox);

#endif
