/*
 * client: see client.h.
 *
 * Each call has a completion queue of its own and each waiting thread plucks its own tag from it:
 * the caller's thread does the I/O itself, so a unary call changes threads nowhere.
 */
#include "rpc/client.h"

#include <assert.h>
#include <grpc/grpc_security.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/utf8.h"
#include "rpc/address.h"
#include "rpc/core.h"

#define RECONNECT_FIRST_MS 50
#define RECONNECT_MAX_MS 1000
#define RECONNECT_TIMEOUT_MS 5000

struct lam_rpc_channel {
    grpc_channel *core;
    char *target;
};

/* What the client knows of a call's end. */
struct ending {
    grpc_metadata_array trailers;
    grpc_status_code code;
    grpc_slice text;
};

struct lam_rpc_pending {
    struct lam_rpc_channel *channel;
    char *path;
    grpc_completion_queue *queue;
    grpc_call *core;
    grpc_byte_buffer *outgoing;
    grpc_byte_buffer *answer;
    grpc_metadata_array headers;
    struct ending ending;
};

struct lam_rpc_stream {
    struct lam_rpc_channel *channel;
    grpc_completion_queue *queue;
    grpc_call *core;
    grpc_metadata_array headers; /* receiving thread */
    bool headers_asked;          /* receiving thread */
    bool ended;                  /* receiving thread */
    struct ending ending;        /* receiving thread; valid when ended */
    char tags[4];                /* their addresses tell the waiting threads apart */
};

enum { TAG_OPEN, TAG_SEND, TAG_RECEIVE, TAG_END };

static grpc_channel *create_core(const char *target, size_t message_bytes_max)
{
    const grpc_arg args[] = {
        lam_core_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, lam_core_limit(message_bytes_max)),
        lam_core_arg(GRPC_ARG_MAX_METADATA_SIZE, LAM_CORE_METADATA_BYTES_MAX),
        lam_core_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        lam_core_arg(GRPC_ARG_KEEPALIVE_TIME_MS, LAM_CORE_KEEPALIVE_MS),
        lam_core_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, LAM_CORE_KEEPALIVE_TIMEOUT_MS),
        lam_core_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        lam_core_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        lam_core_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_FIRST_MS),
        lam_core_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MAX_MS),
        lam_core_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, RECONNECT_TIMEOUT_MS),
        /* A retry would buffer what streams send; our callers decide what is worth repeating. */
        lam_core_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        /* A connection of our own: another channel's failures must not delay this one. */
        lam_core_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1),
        /* $http_proxy is meant for the web, not for a worker on 127.0.0.1. */
        lam_core_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        lam_core_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
    };
    const grpc_channel_args channel_args = {
        sizeof args / sizeof args[0], (grpc_arg *)(uintptr_t)args};
    grpc_channel_credentials *insecure = grpc_insecure_credentials_create();
    grpc_channel *core = grpc_channel_create(target, insecure, &channel_args);

    grpc_channel_credentials_release(insecure);
    return core;
}

enum lam_status lam_rpc_channel_create(const char *target, size_t message_bytes_max,
    struct lam_rpc_channel **ret_channel, struct lam_err *err)
{
    struct lam_rpc_channel *channel;
    enum lam_status status = lam_address_check(target, false, err);

    if (status != LAM_OK)
        return status;
    channel = lam_calloc(1, sizeof *channel);
    if (!channel)
        goto fail;
    channel->target = lam_strdup(target);
    if (!channel->target)
        goto fail;
    lam_core_init();
    channel->core = create_core(target, message_bytes_max);
    *ret_channel = channel;
    return LAM_OK;
fail:
    lam_free(channel);
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a connection to %s", target);
}

void lam_rpc_channel_destroy(struct lam_rpc_channel *channel)
{
    if (!channel)
        return;
    grpc_channel_destroy(channel->core);
    lam_free(channel->target);
    lam_free(channel);
}

/* once: a first failure is the end. */
static enum lam_status connect_channel(
    struct lam_rpc_channel *channel, uint64_t timeout_ns, bool once, struct lam_err *err)
{
    const gpr_timespec never = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    const gpr_timespec deadline = lam_core_deadline(timeout_ns);
    grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
    grpc_connectivity_state state;
    bool in_time = true;

    for (;;) {
        state = grpc_channel_check_connectivity_state(channel->core, 1);
        if (state == GRPC_CHANNEL_READY || state == GRPC_CHANNEL_SHUTDOWN || !in_time ||
            (once && state == GRPC_CHANNEL_TRANSIENT_FAILURE))
            break;
        grpc_channel_watch_connectivity_state(channel->core, state, deadline, queue, channel);
        in_time = grpc_completion_queue_next(queue, never, NULL).success != 0;
    }
    grpc_completion_queue_shutdown(queue);
    while (grpc_completion_queue_next(queue, never, NULL).type != GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(queue);
    if (state == GRPC_CHANNEL_READY)
        return LAM_OK;
    if (in_time)
        return lam_fail(err, LAM_UNAVAILABLE,
            "no server answers at %s: is it running, and is the address right?", channel->target);
    return lam_fail(err, LAM_UNAVAILABLE,
        "no server answered at %s within %.1f s: is it running, and is the address right?",
        channel->target, (double)timeout_ns / (double)LAM_NS_PER_S);
}

enum lam_status lam_rpc_channel_wait_ready(
    struct lam_rpc_channel *channel, uint64_t timeout_ns, struct lam_err *err)
{
    return connect_channel(channel, timeout_ns, false, err);
}

enum lam_status lam_rpc_channel_reach(
    struct lam_rpc_channel *channel, uint64_t timeout_ns, struct lam_err *err)
{
    return connect_channel(channel, timeout_ns, true, err);
}

static grpc_call *create_call(struct lam_rpc_channel *channel, const char *path,
    uint64_t timeout_ns, grpc_completion_queue *queue)
{
    grpc_slice method = grpc_slice_from_copied_string(path);
    grpc_call *call = grpc_channel_create_call(channel->core, NULL, GRPC_PROPAGATE_DEFAULTS, queue,
        method, NULL, lam_core_deadline(timeout_ns), NULL);

    grpc_slice_unref(method);
    return call;
}

/* Waits for a batch in this thread. Was it carried out? */
static bool wait_for(grpc_completion_queue *queue, void *tag)
{
    grpc_event event =
        grpc_completion_queue_pluck(queue, tag, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);

    assert(event.type == GRPC_OP_COMPLETE);
    return event.success != 0;
}

static bool run_batch(
    grpc_call *call, grpc_completion_queue *queue, const grpc_op *ops, size_t n_ops, void *tag)
{
    grpc_call_error error = grpc_call_start_batch(call, ops, n_ops, tag, NULL);

    assert(error == GRPC_CALL_OK);
    return wait_for(queue, tag);
}

static void init_ending(struct ending *ending)
{
    grpc_metadata_array_init(&ending->trailers);
    ending->text = grpc_empty_slice();
}

static void done_ending(struct ending *ending)
{
    grpc_metadata_array_destroy(&ending->trailers);
    grpc_slice_unref(ending->text);
}

static grpc_op receive_ending(struct ending *ending)
{
    grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};

    op.data.recv_status_on_client.trailing_metadata = &ending->trailers;
    op.data.recv_status_on_client.status = &ending->code;
    op.data.recv_status_on_client.status_details = &ending->text;
    return op;
}

/* The peer's status and words. When nobody is there, the words are gRPC's: the address goes before
 * them. */
static enum lam_status explain_ending(
    const struct lam_rpc_channel *channel, const struct ending *ending, struct lam_err *err)
{
    enum lam_status status = lam_status_from_wire((int)ending->code);
    const char *text = (const char *)GRPC_SLICE_START_PTR(ending->text);
    size_t n_bytes = GRPC_SLICE_LENGTH(ending->text);

    if (status == LAM_OK)
        return LAM_OK;
    if (n_bytes > sizeof err->text - 128)
        n_bytes = sizeof err->text - 128;
    n_bytes = lam_utf8_complete_prefix(text, n_bytes);
    if (status == LAM_UNAVAILABLE)
        return lam_fail(err, status, "%.100s: %.*s", channel->target, (int)n_bytes, text);
    return lam_fail(err, status, "%.*s", (int)n_bytes, text);
}

static grpc_byte_buffer *wrap(const void *bytes, size_t n_bytes)
{
    grpc_slice slice = grpc_slice_from_copied_buffer(bytes, n_bytes);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);

    grpc_slice_unref(slice);
    return buffer;
}

/* The answer of a call that ended well. */
static enum lam_status take_answer(const struct lam_rpc_channel *channel, const char *path,
    grpc_byte_buffer *answer, struct lam_buf *response, struct lam_err *err)
{
    if (!answer)
        return lam_fail(
            err, LAM_INTERNAL, "%s at %s ended well without an answer", path, channel->target);
    if (!lam_core_read(answer, response))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no room for the answer of %s from %s", path,
            channel->target);
    return LAM_OK;
}

struct lam_rpc_pending *lam_rpc_unary_begin(struct lam_rpc_channel *channel, const char *path,
    const void *request, size_t request_bytes, uint64_t timeout_ns)
{
    struct lam_rpc_pending *unary = lam_calloc(1, sizeof *unary);
    grpc_op ops[6] = {{0}};
    grpc_call_error error;

    if (!unary)
        return NULL;
    unary->path = lam_strdup(path);
    if (!unary->path) {
        lam_free(unary);
        return NULL;
    }
    unary->channel = channel;
    unary->queue = grpc_completion_queue_create_for_pluck(NULL);
    unary->core = create_call(channel, path, timeout_ns, unary->queue);
    unary->outgoing = wrap(request, request_bytes);
    init_ending(&unary->ending);
    grpc_metadata_array_init(&unary->headers);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = unary->outgoing;
    ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[3].data.recv_initial_metadata.recv_initial_metadata = &unary->headers;
    ops[4].op = GRPC_OP_RECV_MESSAGE;
    ops[4].data.recv_message.recv_message = &unary->answer;
    ops[5] = receive_ending(&unary->ending);
    error = grpc_call_start_batch(unary->core, ops, 6, unary, NULL);
    assert(error == GRPC_CALL_OK);
    return unary;
}

enum lam_status lam_rpc_unary_end(
    struct lam_rpc_pending *unary, struct lam_buf *response, struct lam_err *err)
{
    enum lam_status status;

    wait_for(unary->queue, unary);
    status = explain_ending(unary->channel, &unary->ending, err);
    if (status == LAM_OK)
        status = take_answer(unary->channel, unary->path, unary->answer, response, err);
    grpc_byte_buffer_destroy(unary->outgoing);
    grpc_byte_buffer_destroy(unary->answer);
    grpc_metadata_array_destroy(&unary->headers);
    done_ending(&unary->ending);
    grpc_call_unref(unary->core);
    grpc_completion_queue_destroy(unary->queue);
    lam_free(unary->path);
    lam_free(unary);
    return status;
}

enum lam_status lam_rpc_unary(struct lam_rpc_channel *channel, const char *path,
    const void *request, size_t request_bytes, uint64_t timeout_ns, struct lam_buf *response,
    struct lam_err *err)
{
    struct lam_rpc_pending *unary =
        lam_rpc_unary_begin(channel, path, request, request_bytes, timeout_ns);

    if (!unary)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to call %s", path);
    return lam_rpc_unary_end(unary, response, err);
}

/* Receiving thread: fetches the status, once. */
static void fetch_ending(struct lam_rpc_stream *stream)
{
    grpc_op op = receive_ending(&stream->ending);

    if (stream->ended)
        return;
    run_batch(stream->core, stream->queue, &op, 1, &stream->tags[TAG_END]);
    stream->ended = true;
}

enum lam_status lam_rpc_stream_open(struct lam_rpc_channel *channel, const char *path,
    uint64_t timeout_ns, struct lam_rpc_stream **ret_stream, struct lam_err *err)
{
    const grpc_op op = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    struct lam_rpc_stream *stream = lam_calloc(1, sizeof *stream);
    enum lam_status status;

    if (!stream)
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "no memory for %s at %s", path, channel->target);
    stream->channel = channel;
    stream->queue = grpc_completion_queue_create_for_pluck(NULL);
    stream->core = create_call(channel, path, timeout_ns, stream->queue);
    grpc_metadata_array_init(&stream->headers);
    init_ending(&stream->ending);
    if (run_batch(stream->core, stream->queue, &op, 1, &stream->tags[TAG_OPEN])) {
        *ret_stream = stream;
        return LAM_OK;
    }
    fetch_ending(stream);
    status = explain_ending(channel, &stream->ending, err);
    if (status == LAM_OK)
        status = lam_fail(err, LAM_UNAVAILABLE, "%s at %s ended at once", path, channel->target);
    lam_rpc_stream_destroy(stream);
    return status;
}

enum lam_status lam_rpc_stream_send(
    struct lam_rpc_stream *stream, const void *bytes, size_t n_bytes, struct lam_err *err)
{
    grpc_byte_buffer *outgoing = wrap(bytes, n_bytes);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    bool sent;

    op.data.send_message.send_message = outgoing;
    sent = run_batch(stream->core, stream->queue, &op, 1, &stream->tags[TAG_SEND]);
    grpc_byte_buffer_destroy(outgoing);
    if (sent)
        return LAM_OK;
    return lam_fail(err, LAM_UNAVAILABLE, "the stream to %s has ended", stream->channel->target);
}

enum lam_status lam_rpc_stream_half_close(struct lam_rpc_stream *stream, struct lam_err *err)
{
    const grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};

    if (run_batch(stream->core, stream->queue, &op, 1, &stream->tags[TAG_SEND]))
        return LAM_OK;
    return lam_fail(err, LAM_UNAVAILABLE, "the stream to %s has ended", stream->channel->target);
}

/* The next message, or NULL at the end. */
static grpc_byte_buffer *receive(struct lam_rpc_stream *stream)
{
    grpc_byte_buffer *incoming = NULL;
    grpc_op ops[2] = {{0}};
    size_t n_ops = 0;

    if (!stream->headers_asked) {
        stream->headers_asked = true;
        ops[n_ops].data.recv_initial_metadata.recv_initial_metadata = &stream->headers;
        ops[n_ops++].op = GRPC_OP_RECV_INITIAL_METADATA;
    }
    ops[n_ops].data.recv_message.recv_message = &incoming;
    ops[n_ops++].op = GRPC_OP_RECV_MESSAGE;
    if (!run_batch(stream->core, stream->queue, ops, n_ops, &stream->tags[TAG_RECEIVE])) {
        grpc_byte_buffer_destroy(incoming);
        return NULL;
    }
    return incoming;
}

enum lam_status lam_rpc_stream_recv(
    struct lam_rpc_stream *stream, struct lam_buf *message, bool *ret_end, struct lam_err *err)
{
    grpc_byte_buffer *incoming = stream->ended ? NULL : receive(stream);
    enum lam_status status;
    bool whole;

    if (incoming) {
        lam_buf_clear(message);
        whole = lam_core_read(incoming, message);
        grpc_byte_buffer_destroy(incoming);
        if (!whole)
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no room for a message from %s",
                stream->channel->target);
        *ret_end = false;
        return LAM_OK;
    }
    fetch_ending(stream);
    status = explain_ending(stream->channel, &stream->ending, err);
    if (status == LAM_OK)
        *ret_end = true;
    return status;
}

void lam_rpc_stream_cancel(struct lam_rpc_stream *stream)
{
    grpc_call_cancel(stream->core, NULL);
}

void lam_rpc_stream_destroy(struct lam_rpc_stream *stream)
{
    if (!stream)
        return;
    grpc_call_cancel(stream->core, NULL);
    fetch_ending(stream);
    grpc_call_unref(stream->core);
    grpc_completion_queue_destroy(stream->queue);
    grpc_metadata_array_destroy(&stream->headers);
    done_ending(&stream->ending);
    lam_free(stream);
}
