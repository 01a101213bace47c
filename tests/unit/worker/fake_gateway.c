/* fake_gateway: see fake_gateway.h. */
#include "tests/unit/worker/fake_gateway.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/mem.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "rpc/message.h"

#define WAIT_S 60 /* or it hangs */
#define ROWS_MAX 8

static void send_packed(struct lam_rpc_call *call, const Laminar__V1__GatewayMessage *message)
{
    struct lam_buf out = LAM_BUF((size_t)1 << 20);

    if (lam_message_pack(&message->base, &out))
        lam_rpc_call_send(call, out.data, out.size);
    lam_buf_done(&out);
}

/* Under the lock. */
static void forget_call(struct fake_gateway *gateway)
{
    if (gateway->call)
        lam_rpc_call_unref(gateway->call);
    gateway->call = NULL;
}

static void take_hello(
    struct fake_gateway *gateway, struct lam_rpc_call *call, const Laminar__V1__Hello *hello)
{
    Laminar__V1__GatewayMessage message = LAMINAR__V1__GATEWAY_MESSAGE__INIT;
    Laminar__V1__Welcome welcome = LAMINAR__V1__WELCOME__INIT;
    struct fake_gateway_seen *seen = &gateway->seen;

    snprintf(seen->worker_id, sizeof seen->worker_id, "%s", hello->worker_id);
    snprintf(seen->device, sizeof seen->device, "%s", hello->device);
    seen->context_tokens = hello->context_tokens;
    seen->max_sequences = hello->max_sequences;
    seen->max_rows = hello->max_rows;
    seen->kv_page_tokens = hello->kv_page_tokens;
    seen->kv_pages = hello->kv_pages;
    seen->max_steps = hello->max_steps;
    seen->header_bytes = hello->header_bytes;
    lam_buf_clear(&seen->header);
    welcome.want_header = true;
    message.kind_case = LAMINAR__V1__GATEWAY_MESSAGE__KIND_WELCOME;
    message.welcome = &welcome;
    send_packed(call, &message);
}

static void take_chunk(
    struct fake_gateway *gateway, struct lam_rpc_call *call, const Laminar__V1__HeaderChunk *chunk)
{
    bool appended;

    assert(chunk->offset == gateway->seen.header.size);
    appended = lam_buf_append(&gateway->seen.header, chunk->data.data, chunk->data.len);
    assert(appended);
    if (gateway->seen.header.size < gateway->seen.header_bytes)
        return;
    forget_call(gateway);
    lam_rpc_call_ref(call);
    gateway->call = call;
    gateway->n_attached++;
}

static void take_result(struct fake_gateway *gateway, const Laminar__V1__StepResult *result)
{
    struct fake_result *to = &gateway->results[gateway->n_results++];

    assert(result->n_tokens <= FAKE_TOKENS_MAX && gateway->n_results <= FAKE_RESULTS_MAX);
    *to = (struct fake_result){.id = result->id,
        .pool_ready_bytes = result->pool_ready_bytes,
        .pool_ready_seconds = result->pool_ready_seconds,
        .n_tokens = result->n_tokens};
    for (size_t i = 0; i < result->n_tokens; i++)
        to->tokens[i] = (struct fake_token){
            result->tokens[i]->seq, result->tokens[i]->epoch, result->tokens[i]->token};
}

static void on_message(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct fake_gateway *gateway = arg;
    const Laminar__V1__WorkerMessage *message;
    ProtobufCMessage *unpacked = NULL;
    struct lam_arena arena;
    enum lam_status status = lam_arena_init(&arena, (uint64_t)4 << 20, NULL);

    assert(status == LAM_OK);
    status = lam_message_unpack(
        &laminar__v1__worker_message__descriptor, bytes, n_bytes, &arena, &unpacked, NULL);
    assert(status == LAM_OK);
    message = (const Laminar__V1__WorkerMessage *)unpacked;
    pthread_mutex_lock(&gateway->lock);
    if (message->kind_case == LAMINAR__V1__WORKER_MESSAGE__KIND_HELLO)
        take_hello(gateway, call, message->hello);
    else if (message->kind_case == LAMINAR__V1__WORKER_MESSAGE__KIND_HEADER_CHUNK)
        take_chunk(gateway, call, message->header_chunk);
    else
        take_result(gateway, message->step_result);
    pthread_cond_broadcast(&gateway->changed);
    pthread_mutex_unlock(&gateway->lock);
    lam_arena_done(&arena);
}

static void on_half_close(void *arg, struct lam_rpc_call *call)
{
    (void)arg;
    lam_rpc_call_finish(call, LAM_OK, NULL);
}

static const struct lam_rpc_method methods[] = {
    {.path = "/laminar.v1.Workers/Attach",
        .on_message = on_message,
        .on_half_close = on_half_close},
};

void fake_gateway_start(struct fake_gateway *gateway)
{
    const char *listen_on[] = {gateway->address};
    struct lam_rpc_server_config config = {
        .listen = listen_on, .n_listen = 1, .message_bytes_max = (size_t)2 << 20, .calls_max = 16};
    struct lam_err err = {0};
    const char *made;
    enum lam_status status;

    *gateway = (struct fake_gateway){.lock = PTHREAD_MUTEX_INITIALIZER,
        .changed = PTHREAD_COND_INITIALIZER,
        .seen = {.header = LAM_BUF((size_t)64 << 20)}};
    snprintf(gateway->dir, sizeof gateway->dir, "/tmp/lam-fake-XXXXXX");
    made = mkdtemp(gateway->dir);
    assert(made);
    snprintf(gateway->address, sizeof gateway->address, "unix:%s/gateway.sock", gateway->dir);
    status = lam_rpc_server_create(&config, &gateway->server, &err);
    if (status == LAM_OK)
        status = lam_rpc_server_add(gateway->server, methods, 1, gateway, &err);
    if (status == LAM_OK)
        status = lam_rpc_server_start(gateway->server, &err);
    if (status != LAM_OK)
        fprintf(stderr, "fake_gateway: %s\n", err.text);
    assert(status == LAM_OK);
}

void fake_gateway_stop(struct fake_gateway *gateway)
{
    lam_rpc_server_shutdown(gateway->server, 0);
    forget_call(gateway);
    lam_rpc_server_destroy(gateway->server);
    rmdir(gateway->dir);
    lam_buf_done(&gateway->seen.header);
}

static struct timespec give_up_at(void)
{
    struct timespec at;

    clock_gettime(CLOCK_REALTIME, &at);
    at.tv_sec += WAIT_S;
    return at;
}

bool fake_gateway_wait_attached(
    struct fake_gateway *gateway, uint32_t nth, struct fake_gateway_seen *ret_seen)
{
    struct timespec until = give_up_at();
    bool attached;

    pthread_mutex_lock(&gateway->lock);
    while (gateway->n_attached < nth &&
           pthread_cond_timedwait(&gateway->changed, &gateway->lock, &until) == 0)
        ;
    attached = gateway->n_attached >= nth;
    if (attached && ret_seen)
        *ret_seen = gateway->seen;
    pthread_mutex_unlock(&gateway->lock);
    return attached;
}

void fake_gateway_step(struct fake_gateway *gateway, uint64_t id, const struct fake_rows *rows,
    size_t n_rows, const uint32_t *to_free, size_t n_free)
{
    Laminar__V1__GatewayMessage message = LAMINAR__V1__GATEWAY_MESSAGE__INIT;
    Laminar__V1__Step step = LAMINAR__V1__STEP__INIT;
    Laminar__V1__SamplingParams greedy = LAMINAR__V1__SAMPLING_PARAMS__INIT;
    Laminar__V1__SequenceRows packed[ROWS_MAX];
    Laminar__V1__SequenceRows *list[ROWS_MAX];

    assert(n_rows <= ROWS_MAX);
    greedy.top_p = 1;
    greedy.repetition_penalty = 1;
    for (size_t i = 0; i < n_rows; i++) {
        laminar__v1__sequence_rows__init(&packed[i]);
        packed[i].seq = rows[i].seq;
        packed[i].epoch = rows[i].epoch;
        packed[i].position = rows[i].position;
        packed[i].tokens = (int32_t *)(uintptr_t)rows[i].tokens;
        packed[i].n_tokens = rows[i].n_tokens;
        packed[i].sample = rows[i].sample;
        packed[i].sampled = rows[i].sampled;
        packed[i].sampling = rows[i].position == 0 ? &greedy : NULL;
        list[i] = &packed[i];
    }
    step.id = id;
    step.rows = list;
    step.n_rows = n_rows;
    step.free = (uint32_t *)(uintptr_t)to_free;
    step.n_free = n_free;
    message.kind_case = LAMINAR__V1__GATEWAY_MESSAGE__KIND_STEP;
    message.step = &step;
    pthread_mutex_lock(&gateway->lock);
    if (gateway->call)
        send_packed(gateway->call, &message);
    pthread_mutex_unlock(&gateway->lock);
}

bool fake_gateway_wait_result(struct fake_gateway *gateway, struct fake_result *ret_result)
{
    struct timespec until = give_up_at();
    bool has_result;

    pthread_mutex_lock(&gateway->lock);
    while (gateway->n_results == 0 &&
           pthread_cond_timedwait(&gateway->changed, &gateway->lock, &until) == 0)
        ;
    has_result = gateway->n_results > 0;
    if (has_result) {
        *ret_result = gateway->results[0];
        gateway->n_results--;
        memmove(
            gateway->results, gateway->results + 1, gateway->n_results * sizeof *gateway->results);
    }
    pthread_mutex_unlock(&gateway->lock);
    return has_result;
}

void fake_gateway_drop(struct fake_gateway *gateway)
{
    pthread_mutex_lock(&gateway->lock);
    lam_rpc_call_finish(gateway->call, LAM_UNAVAILABLE, "restarting");
    forget_call(gateway);
    pthread_mutex_unlock(&gateway->lock);
}
