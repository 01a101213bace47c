/*
 * client: blocking gRPC client on the C core.
 *
 * A channel connects by itself and may be shared by threads. A stream has at most one thread
 * sending and one receiving at a time; cancel may come from any thread and wakes both. A peer that
 * is not there gives LAM_UNAVAILABLE with the address in the text.
 */
#ifndef LAMINAR_RPC_CLIENT_H
#define LAMINAR_RPC_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"

struct lam_rpc_channel;
struct lam_rpc_stream;
struct lam_rpc_pending; /* a call under way */

#define LAM_RPC_NO_TIMEOUT UINT64_MAX

/* target: "unix:/path", "host:port". message_bytes_max: largest message accepted from the peer. */
LAM_MUST_USE enum lam_status lam_rpc_channel_create(const char *target, size_t message_bytes_max,
    struct lam_rpc_channel **ret_channel, struct lam_err *err);
void lam_rpc_channel_destroy(struct lam_rpc_channel *channel); /* NULL is allowed */

/* Waits until the peer answers, at most timeout_ns: one that refuses is dialled again, by the clock
 * of gRPC. Errors: LAM_UNAVAILABLE. */
LAM_MUST_USE enum lam_status lam_rpc_channel_wait_ready(
    struct lam_rpc_channel *channel, uint64_t timeout_ns, struct lam_err *err);

/* One attempt, for callers with a clock of their own: the same, but a refusal is the end. */
LAM_MUST_USE enum lam_status lam_rpc_channel_reach(
    struct lam_rpc_channel *channel, uint64_t timeout_ns, struct lam_err *err);

/* One request, one answer, appended to *response. The peer's status and text come back in err. */
LAM_MUST_USE enum lam_status lam_rpc_unary(struct lam_rpc_channel *channel, const char *path,
    const void *request, size_t request_bytes, uint64_t timeout_ns, struct lam_buf *response,
    struct lam_err *err);

/* The same in two steps, so that several calls can be under way: the first sends (NULL: no memory),
 * the second waits, and ends the call. The request may be reused at once. One thread. */
LAM_MUST_USE struct lam_rpc_pending *lam_rpc_unary_begin(struct lam_rpc_channel *channel,
    const char *path, const void *request, size_t request_bytes, uint64_t timeout_ns);
LAM_MUST_USE enum lam_status lam_rpc_unary_end(
    struct lam_rpc_pending *unary, struct lam_buf *response, struct lam_err *err);

/* Opens a stream of either or both directions. timeout_ns: for the whole stream. */
LAM_MUST_USE enum lam_status lam_rpc_stream_open(struct lam_rpc_channel *channel, const char *path,
    uint64_t timeout_ns, struct lam_rpc_stream **ret_stream, struct lam_err *err);

/* Blocks until the transport takes the message. Errors: LAM_UNAVAILABLE when the stream has ended;
 * the reason comes from lam_rpc_stream_recv. */
LAM_MUST_USE enum lam_status lam_rpc_stream_send(
    struct lam_rpc_stream *stream, const void *bytes, size_t n_bytes, struct lam_err *err);

/* No more messages from us. */
LAM_MUST_USE enum lam_status lam_rpc_stream_half_close(
    struct lam_rpc_stream *stream, struct lam_err *err);

/*
 * Blocks for the next message, which replaces the contents of *message. *ret_end is true, and the
 * status LAM_OK, when the peer ended the stream well; a bad end is its status and text.
 */
LAM_MUST_USE enum lam_status lam_rpc_stream_recv(
    struct lam_rpc_stream *stream, struct lam_buf *message, bool *ret_end, struct lam_err *err);

void lam_rpc_stream_cancel(struct lam_rpc_stream *stream); /* from any thread */

/* Cancels if still open. No other thread may be inside a call on it. NULL is allowed. */
void lam_rpc_stream_destroy(struct lam_rpc_stream *stream);

#endif
