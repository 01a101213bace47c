/*
 * call: one call on the server, from its arrival to on_done.
 *
 * The core allows one batch of each kind at a time. So there are three at most: CLOSED (posted at
 * once: the only sign of cancellation and deadline), one RECEIVED at a time, one SENT at a time
 * with a queue behind it. Headers travel with the first message and the status with the last one: a
 * unary answer is one write. Receiving is done by the I/O thread alone; sending by any thread,
 * under the call's lock. NUDGED is an empty batch, which the core completes at once: one at a time.
 *
 * The call is done when CLOSED has come and none of the others is under way. Nothing can be started
 * after that, because CLOSED sets `ended` under the lock; so the core's object goes without a race.
 */
#include "rpc/internal.h"

#include <assert.h>
#include <grpc/support/alloc.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/utf8.h"

static void start_batch(
    struct lam_rpc_call *call, const grpc_op *ops, size_t n_ops, enum lam_event event)
{
    grpc_call_error error = grpc_call_start_batch(call->core, ops, n_ops, &call->tags[event], NULL);

    assert(error == GRPC_CALL_OK);
}

static void release_outgoing(void *message)
{
    lam_free(message);
}

/* The oldest message as the core wants it. The core frees it when the transport has taken it. */
static grpc_byte_buffer *take_message(struct lam_rpc_call *call)
{
    struct lam_outgoing *message = call->head;
    grpc_byte_buffer *buffer;
    grpc_slice slice;

    call->head = message->next;
    if (!call->head)
        call->tail = &call->head;
    slice =
        grpc_slice_new_with_user_data(message->bytes, message->n_bytes, release_outgoing, message);
    buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

/* Starts the next batch if none is under way and there is something to send. Lock held. */
static void pump(struct lam_rpc_call *call)
{
    grpc_op ops[3] = {{0}};
    grpc_slice text = grpc_empty_slice();
    size_t n_ops = 0;

    if (call->sending || call->finished || call->ended || (!call->head && !call->finishing))
        return;
    if (!call->headers_sent) {
        call->headers_sent = true;
        ops[n_ops++].op = GRPC_OP_SEND_INITIAL_METADATA;
    }
    if (call->head) {
        call->outgoing = take_message(call);
        ops[n_ops].data.send_message.send_message = call->outgoing;
        ops[n_ops++].op = GRPC_OP_SEND_MESSAGE;
    }
    if (!call->head && call->finishing) {
        call->finished = true;
        text = grpc_slice_from_copied_string(call->status_text);
        ops[n_ops].data.send_status_from_server.status = (grpc_status_code)call->status;
        ops[n_ops].data.send_status_from_server.status_details = &text;
        ops[n_ops++].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    }
    call->sending = true;
    start_batch(call, ops, n_ops, LAM_EVENT_SENT);
    grpc_slice_unref(text);
}

static void drop_queue(struct lam_rpc_call *call)
{
    while (call->head) {
        struct lam_outgoing *message = call->head;
        call->head = message->next;
        lam_free(message);
        call->n_queued--;
    }
    call->tail = &call->head;
}

static void start_receive(struct lam_rpc_call *call)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};

    op.data.recv_message.recv_message = &call->received;
    call->receiving = true;
    start_batch(call, &op, 1, LAM_EVENT_RECEIVED);
}

struct lam_rpc_call *lam_call_create(struct lam_rpc_server *server)
{
    struct lam_rpc_call *call = lam_calloc(1, sizeof *call);

    if (!call)
        return NULL;
    call->server = server;
    call->tail = &call->head;
    atomic_init(&call->refs, 1);
    pthread_mutex_init(&call->lock, NULL);
    for (int i = 0; i < LAM_EVENT_COUNT; i++)
        call->tags[i] = (struct lam_event_tag){(enum lam_event)i, call};
    grpc_call_details_init(&call->details);
    grpc_metadata_array_init(&call->metadata);
    return call;
}

/* The core's time, as lam_now_ns counts it. */
static uint64_t monotonic_ns(gpr_timespec time)
{
    gpr_timespec converted = gpr_convert_clock_type(time, GPR_CLOCK_MONOTONIC);

    if (gpr_time_cmp(converted, gpr_inf_future(GPR_CLOCK_MONOTONIC)) == 0)
        return UINT64_MAX;
    if (converted.tv_sec < 0)
        return 0;
    return (uint64_t)converted.tv_sec * LAM_NS_PER_S + (uint64_t)(unsigned)converted.tv_nsec;
}

/* Not for the services: health, reflection, or refused at the door. */
static bool is_standard(const struct lam_rpc_call *call)
{
    return !call->route || call->route->standard;
}

/* Shutdown waits for both numbers to come down to zero. */
static void count_opened(struct lam_rpc_call *call)
{
    struct lam_rpc_server *server = call->server;

    pthread_mutex_lock(&server->lock);
    server->n_calls++;
    server->n_service_calls += is_standard(call) ? 0 : 1;
    pthread_mutex_unlock(&server->lock);
}

static void count_closed(struct lam_rpc_call *call)
{
    struct lam_rpc_server *server = call->server;

    pthread_mutex_lock(&server->lock);
    server->n_calls--;
    server->n_service_calls -= is_standard(call) ? 0 : 1;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

void lam_call_open(struct lam_rpc_call *call, const struct lam_rpc_route *route,
    enum lam_status status, const char *text)
{
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};

    call->route = route;
    call->deadline_ns = monotonic_ns(call->details.deadline);
    call->peer = grpc_call_get_peer(call->core);
    count_opened(call);
    op.data.recv_close_on_server.cancelled = &call->cancelled;
    start_batch(call, &op, 1, LAM_EVENT_CLOSED);
    if (!route) {
        lam_rpc_call_finish(call, status, text);
        return;
    }
    start_receive(call);
    if (route->method->on_open)
        route->method->on_open(route->service, call);
}

/* May the service still hear of this call? Not after it finished it, not after the end. */
static bool listening(struct lam_rpc_call *call)
{
    bool open;

    pthread_mutex_lock(&call->lock);
    open = !call->finishing && !call->ended;
    pthread_mutex_unlock(&call->lock);
    return open;
}

static void handle_received(struct lam_rpc_call *call, bool ok)
{
    const struct lam_rpc_method *method = call->route->method;
    struct lam_buf *scratch = &call->server->scratch;
    grpc_byte_buffer *buffer = call->received;
    bool failed = !ok || grpc_call_failed_before_recv_message(call->core) != 0;
    bool whole = false;

    call->receiving = false;
    call->received = NULL;
    if (buffer) {
        lam_buf_clear(scratch);
        whole = lam_core_read(buffer, scratch);
        grpc_byte_buffer_destroy(buffer);
    }
    if (!listening(call))
        return;
    if (!buffer) {
        if (!failed && method->on_half_close)
            method->on_half_close(call->route->service, call);
        return;
    }
    if (!whole) {
        lam_rpc_call_finish(call, LAM_RESOURCE_EXHAUSTED, "no memory for the message");
        return;
    }
    if (method->on_message)
        method->on_message(
            call->route->service, call, scratch->data ? scratch->data : "", scratch->size);
    if (listening(call))
        start_receive(call);
}

static void handle_sent(struct lam_rpc_call *call, bool ok)
{
    pthread_mutex_lock(&call->lock);
    call->sending = false;
    if (call->outgoing) {
        grpc_byte_buffer_destroy(call->outgoing);
        call->outgoing = NULL;
        call->n_queued--;
    }
    if (ok)
        pump(call);
    else /* CLOSED follows, and ends the call */
        drop_queue(call);
    pthread_mutex_unlock(&call->lock);
}

static void handle_nudged(struct lam_rpc_call *call)
{
    const struct lam_rpc_method *method = call->route->method;

    pthread_mutex_lock(&call->lock);
    call->nudging = false;
    pthread_mutex_unlock(&call->lock);
    if (method->on_nudge && listening(call))
        method->on_nudge(call->route->service, call);
}

static void handle_closed(struct lam_rpc_call *call)
{
    call->closed = true;
    pthread_mutex_lock(&call->lock);
    call->ended = true;
    drop_queue(call);
    pthread_mutex_unlock(&call->lock);
}

static bool batch_under_way(struct lam_rpc_call *call)
{
    bool under_way;

    pthread_mutex_lock(&call->lock);
    under_way = call->sending || call->nudging;
    pthread_mutex_unlock(&call->lock);
    return under_way || call->receiving;
}

void lam_call_handle(struct lam_rpc_call *call, enum lam_event event, bool ok)
{
    const struct lam_rpc_route *route = call->route;

    if (event == LAM_EVENT_RECEIVED)
        handle_received(call, ok);
    else if (event == LAM_EVENT_SENT)
        handle_sent(call, ok);
    else if (event == LAM_EVENT_NUDGED)
        handle_nudged(call);
    else
        handle_closed(call);
    if (!call->closed || batch_under_way(call))
        return;
    if (route && route->method->on_done)
        route->method->on_done(route->service, call, call->cancelled != 0);
    grpc_call_unref(call->core);
    count_closed(call);
    lam_rpc_call_unref(call);
}

void lam_rpc_call_set_user(struct lam_rpc_call *call, void *user)
{
    call->user = user;
}

void *lam_rpc_call_user(const struct lam_rpc_call *call)
{
    return call->user;
}

/* A queue entry with a copy of the bytes, or NULL. */
static struct lam_outgoing *copy_message(const void *bytes, size_t n_bytes)
{
    struct lam_outgoing *message = NULL;

    if (n_bytes <= SIZE_MAX - sizeof *message)
        message = lam_calloc(1, sizeof *message + n_bytes);
    if (!message)
        return NULL;
    message->n_bytes = n_bytes;
    if (n_bytes > 0)
        memcpy(message->bytes, bytes, n_bytes);
    return message;
}

/* Lock held. */
static void enqueue(struct lam_rpc_call *call, struct lam_outgoing *message)
{
    *call->tail = message;
    call->tail = &message->next;
    call->n_queued++;
}

bool lam_rpc_call_send(struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_outgoing *message = copy_message(bytes, n_bytes);
    bool open;

    if (!message)
        return false;
    pthread_mutex_lock(&call->lock);
    open = !call->finishing && !call->ended;
    if (open) {
        enqueue(call, message);
        pump(call);
    }
    pthread_mutex_unlock(&call->lock);
    if (!open)
        lam_free(message);
    return open;
}

size_t lam_rpc_call_queued(struct lam_rpc_call *call)
{
    size_t n_queued;

    pthread_mutex_lock(&call->lock);
    n_queued = call->n_queued;
    pthread_mutex_unlock(&call->lock);
    return n_queued;
}

/* Copies what may travel in a header: whole UTF-8 sequences, no control characters. */
static void copy_status_text(char out[LAM_STATUS_TEXT_BYTES], const char *text)
{
    size_t n_bytes = strnlen(text, LAM_STATUS_TEXT_BYTES - 1);
    size_t n_out = 0;
    uint32_t code;

    while (n_out < n_bytes) {
        int length = lam_utf8_decode(text + n_out, n_bytes - n_out, &code);
        if (length < 0)
            break;
        if (length == 0 || code < 0x20 || code == 0x7f) {
            out[n_out++] = '?';
        } else {
            memcpy(out + n_out, text + n_out, (size_t)length);
            n_out += (size_t)length;
        }
    }
    out[n_out] = '\0';
}

/* Lock held. */
static void begin_finish(struct lam_rpc_call *call, enum lam_status status, const char *text)
{
    call->finishing = true;
    call->status = status;
    copy_status_text(call->status_text, text ? text : "");
    pump(call);
}

void lam_rpc_call_finish(struct lam_rpc_call *call, enum lam_status status, const char *text)
{
    pthread_mutex_lock(&call->lock);
    if (!call->finishing && !call->ended)
        begin_finish(call, status, text);
    pthread_mutex_unlock(&call->lock);
}

void lam_rpc_call_reply(struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_outgoing *message = copy_message(bytes, n_bytes);

    if (!message) {
        lam_rpc_call_finish(call, LAM_RESOURCE_EXHAUSTED, "no memory for the answer");
        return;
    }
    pthread_mutex_lock(&call->lock);
    if (!call->finishing && !call->ended) {
        enqueue(call, message);
        message = NULL;
        begin_finish(call, LAM_OK, NULL);
    }
    pthread_mutex_unlock(&call->lock);
    lam_free(message);
}

void lam_rpc_call_nudge(struct lam_rpc_call *call)
{
    pthread_mutex_lock(&call->lock);
    if (!call->nudging && !call->ended) {
        call->nudging = true;
        start_batch(call, NULL, 0, LAM_EVENT_NUDGED);
    }
    pthread_mutex_unlock(&call->lock);
}

uint64_t lam_rpc_call_time_left_ns(const struct lam_rpc_call *call)
{
    uint64_t now_ns = lam_now_ns();

    if (call->deadline_ns == UINT64_MAX)
        return UINT64_MAX;
    return call->deadline_ns > now_ns ? call->deadline_ns - now_ns : 0;
}

const char *lam_rpc_call_peer(const struct lam_rpc_call *call)
{
    return call->peer;
}

void lam_rpc_call_ref(struct lam_rpc_call *call)
{
    atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
}

void lam_rpc_call_unref(struct lam_rpc_call *call)
{
    if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) != 1)
        return;
    grpc_call_details_destroy(&call->details);
    grpc_metadata_array_destroy(&call->metadata);
    gpr_free(call->peer);
    pthread_mutex_destroy(&call->lock);
    lam_free(call);
}
