/* fake_worker: see fake_worker.h. */
#include "tests/unit/gateway/fake_worker.h"

#include <assert.h>
#include <string.h>

#include "common/clock.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "rpc/message.h"

#define MESSAGE_BYTES_MAX ((size_t)1 << 20)
#define ROWS_MAX 16

int32_t fake_next_token(const int32_t *tokens, uint32_t n)
{
    uint32_t hash = 2166136261u;

    for (uint32_t i = 0; i < n; i++)
        hash = (hash ^ (uint32_t)tokens[i]) * 16777619u;
    return TINY_BYTE('a' + (hash >> 8) % 26);
}

static bool send_message(struct fake_worker *worker, const Laminar__V1__WorkerMessage *message)
{
    struct lam_buf out = LAM_BUF(MESSAGE_BYTES_MAX);
    struct lam_err err = {0};
    bool packed = lam_message_pack(&message->base, &out);
    bool sent = packed && lam_rpc_stream_send(worker->stream, out.data, out.size, &err) == LAM_OK;

    assert(packed);
    lam_buf_done(&out);
    return sent;
}

static bool send_hello(struct fake_worker *worker)
{
    Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;
    Laminar__V1__Hello hello = LAMINAR__V1__HELLO__INIT;

    hello.worker_id = (char *)(uintptr_t)worker->id;
    hello.device = (char *)(uintptr_t) "cpu";
    hello.backend = (char *)(uintptr_t) "fake";
    hello.model_digest = worker->model->digest;
    hello.header_bytes = worker->model->header.size;
    hello.file_bytes = worker->model->file_bytes;
    hello.context_tokens = (int32_t)worker->context;
    hello.max_sequences = FAKE_SLOTS;
    hello.max_rows = ROWS_MAX;
    hello.kv_page_tokens = 16;
    hello.kv_pages = (int32_t)(FAKE_SLOTS * worker->context / 16);
    hello.max_steps = 2;
    message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_HELLO;
    message.hello = &hello;
    return send_message(worker, &message);
}

static bool send_header(struct fake_worker *worker)
{
    const struct lam_buf *header = &worker->model->header;
    bool ok = true;

    for (size_t at = 0; ok && at < header->size; at += 4096) {
        Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;
        Laminar__V1__HeaderChunk chunk = LAMINAR__V1__HEADER_CHUNK__INIT;
        chunk.offset = at;
        chunk.data.data = (uint8_t *)header->data + at;
        chunk.data.len = header->size - at < 4096 ? header->size - at : 4096;
        message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_HEADER_CHUNK;
        message.header_chunk = &chunk;
        ok = send_message(worker, &message);
    }
    return ok;
}

/* True when the rows are what the protocol allows. */
static bool take_rows(struct fake_worker *worker, const Laminar__V1__SequenceRows *rows)
{
    uint32_t n = rows->sampled ? 1 : (uint32_t)rows->n_tokens;
    struct fake_worker_slot *slot;

    if (rows->seq >= FAKE_SLOTS)
        return false;
    slot = &worker->slots[rows->seq];
    if (rows->position == 0) {
        if (slot->n > 0 || !rows->sampling || rows->prompt_tokens == 0)
            return false;
        slot->epoch = rows->epoch;
        atomic_fetch_add(&worker->held, 1);
    }
    if (rows->epoch != slot->epoch || rows->position != slot->n || slot->n + n > worker->context)
        return false;
    if (rows->sampled && (!slot->drawn || rows->n_tokens > 0))
        return false;
    memcpy(slot->tokens + slot->n, rows->sampled ? &slot->token : rows->tokens,
        n * sizeof *rows->tokens);
    slot->n += n;
    slot->drawn = rows->sample;
    slot->token = worker->loud ? TINY_LOUD : fake_next_token(slot->tokens, slot->n);
    if (rows->sampled)
        atomic_fetch_add(&worker->ahead, 1);
    return true;
}

/* Blocks until the next step is here. */
static bool receive_next(struct fake_worker *worker)
{
    bool end = false;

    return lam_rpc_stream_recv(worker->stream, &worker->next, &end, &worker->end) == LAM_OK && !end;
}

static bool answer_step(struct fake_worker *worker, const Laminar__V1__Step *step)
{
    Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;
    Laminar__V1__StepResult result = LAMINAR__V1__STEP_RESULT__INIT;
    Laminar__V1__SampledToken tokens[FAKE_SLOTS];
    Laminar__V1__SampledToken *list[FAKE_SLOTS];

    for (size_t i = 0; i < step->n_free; i++) {
        worker->slots[step->free[i]].n = 0;
        atomic_fetch_sub(&worker->held, 1);
    }
    for (size_t i = 0; i < step->n_rows; i++) {
        const Laminar__V1__SequenceRows *rows = step->rows[i];
        struct fake_worker_slot *slot;
        if (!take_rows(worker, rows)) {
            atomic_store(&worker->broken, true);
            return false;
        }
        if (!rows->sample)
            continue;
        slot = &worker->slots[rows->seq];
        list[result.n_tokens] = &tokens[result.n_tokens];
        laminar__v1__sampled_token__init(&tokens[result.n_tokens]);
        tokens[result.n_tokens].seq = rows->seq;
        tokens[result.n_tokens].epoch = rows->epoch;
        tokens[result.n_tokens++].token = slot->token;
    }
    if (step->n_rows > 0)
        atomic_fetch_add(&worker->steps, 1);
    if (step->n_rows > 1)
        atomic_fetch_add(&worker->shared, 1);
    lam_sleep_ns(worker->step_ns);
    while (atomic_load(&worker->hangs))
        lam_sleep_ns(LAM_NS_PER_MS);
    if (worker->held_step && atomic_load(&worker->steps) == worker->held_step &&
        !receive_next(worker))
        return false;
    result.id = step->id;
    result.tokens = list;
    if (worker->first_bad_answer &&
        atomic_load(&worker->steps) >= (unsigned)worker->first_bad_answer)
        result.n_tokens = 0;
    message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_STEP_RESULT;
    message.step_result = &result;
    return send_message(worker, &message);
}

static bool take_message(
    struct fake_worker *worker, const struct lam_buf *bytes, struct lam_arena *arena)
{
    const Laminar__V1__GatewayMessage *message;
    ProtobufCMessage *unpacked = NULL;

    lam_arena_reset(arena);
    if (lam_message_unpack(&laminar__v1__gateway_message__descriptor, bytes->data, bytes->size,
            arena, &unpacked, &worker->end) != LAM_OK)
        return false;
    message = (const Laminar__V1__GatewayMessage *)unpacked;
    if (message->kind_case == LAMINAR__V1__GATEWAY_MESSAGE__KIND_STEP)
        return answer_step(worker, message->step);
    return !message->welcome->want_header || send_header(worker);
}

/* Ends when the stream does; the gateway's status is read even when sending has failed. */
static void *run(void *arg)
{
    struct fake_worker *worker = arg;
    struct lam_buf bytes = LAM_BUF(MESSAGE_BYTES_MAX);
    struct lam_arena arena = {0};
    struct lam_err err = {0};
    bool end = false;
    bool talking;

    worker->next = LAM_BUF(MESSAGE_BYTES_MAX);
    talking = lam_arena_init(&arena, MESSAGE_BYTES_MAX, &err) == LAM_OK && send_hello(worker);

    while (!end && lam_rpc_stream_recv(worker->stream, &bytes, &end, &worker->end) == LAM_OK)
        for (talking = talking && !end && take_message(worker, &bytes, &arena);
             talking && worker->next.size > 0;) {
            struct lam_buf step = worker->next;
            worker->next = LAM_BUF(MESSAGE_BYTES_MAX);
            talking = take_message(worker, &step, &arena);
            lam_buf_done(&step);
        }
    lam_arena_done(&arena);
    lam_buf_done(&worker->next);
    lam_buf_done(&bytes);
    return NULL;
}

void fake_worker_start(struct fake_worker *worker, const char *target)
{
    enum lam_status status;
    int error;

    status = lam_rpc_channel_create(target, MESSAGE_BYTES_MAX, &worker->channel, &worker->end);
    assert(status == LAM_OK);
    status = lam_rpc_stream_open(worker->channel, "/laminar.v1.Workers/Attach", LAM_RPC_NO_TIMEOUT,
        &worker->stream, &worker->end);
    assert(status == LAM_OK);
    error = pthread_create(&worker->thread, NULL, run, worker);
    assert(error == 0);
    (void)error;
    (void)status;
}

void fake_worker_kill(struct fake_worker *worker)
{
    lam_rpc_stream_cancel(worker->stream);
    fake_worker_join(worker);
}

void fake_worker_join(struct fake_worker *worker)
{
    pthread_join(worker->thread, NULL);
    lam_rpc_stream_destroy(worker->stream);
    lam_rpc_channel_destroy(worker->channel);
}
