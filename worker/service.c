/*
 * service: see service.h.
 *
 * One thread computes; others receive the step behind (inbox.h) and send answers (outbox.h). When
 * the next step is here, the answer leaves behind the beginning of its pass: the device first.
 * The lock guards what other threads need in order to wake this one: the stream while it waits for
 * a message, and the wishes. A step allocates nothing here: messages, arrays and packed answers
 * live in buffers made at start.
 */
#include "worker/service.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/size.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "rpc/client.h"
#include "rpc/message.h"
#include "worker/held.h"
#include "worker/inbox.h"
#include "worker/outbox.h"
#include "worker/step.h"

/* A node's own gateway is back within seconds, and an attempt costs it nothing. */
#define SERVICE_BACKOFF_MIN_NS (100 * LAM_NS_PER_MS)
#define SERVICE_BACKOFF_MAX_NS (2 * LAM_NS_PER_S)
#define SERVICE_REACH_NS (1 * LAM_NS_PER_S) /* for one attempt to reach the gateway */
#define SERVICE_FLUSH_NS LAM_NS_PER_S       /* for the last answer, when a wait is ended */
#define SERVICE_CHUNK_BYTES LAM_MIB         /* of the header: the protocol's limit */
#define SERVICE_SEQ_BYTES 1024u             /* of one SequenceRows, unpacked, without its tokens */
#define SERVICE_STEPS 2       /* without an answer: one computes, one waits in the inbox */
#define SERVICE_ROW_BYTES 16u /* of one token, packed or unpacked, generously */

struct lam_service {
    struct lam_service_config config;
    struct lam_step_limits limits;
    uint64_t message_bytes_max; /* of the gateway's messages */
    struct lam_buf sending;     /* before the first step */
    struct lam_inbox *inbox;
    struct lam_outbox *outbox;
    uint32_t *epochs;                  /* [max_seqs]: of the slot's user */
    struct lam_engine_rows *rows;      /* [max_seqs] */
    struct lam_engine_result *results; /* [max_seqs] */
    Laminar__V1__SampledToken *tokens; /* [max_seqs] */
    Laminar__V1__SampledToken **token_refs;
    struct lam_held held; /* on the device */
    bool told_of_loss;    /* the log has a line about the gateway being away */
    pthread_mutex_t lock;
    pthread_cond_t woken;
    /* Under the lock: */
    struct lam_rpc_stream *waiting; /* the stream, while we wait for a message on it */
    bool half_closed;               /* that stream: we said that nothing more comes */
    bool stopping;
    bool loader_lost;
};

enum lam_status lam_service_create(
    const struct lam_service_config *config, struct lam_service **ret_service, struct lam_err *err)
{
    const struct lam_engine_config *engine = lam_engine_config(config->engine);
    struct lam_service *service = lam_calloc(1, sizeof *service);
    pthread_condattr_t attr;
    bool made;

    if (!service)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the service");
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&service->woken, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&service->lock, NULL);
    service->config = *config;
    service->limits = (struct lam_step_limits){engine->max_seqs, engine->max_rows};
    service->message_bytes_max = 64 * LAM_KIB + (uint64_t)engine->max_seqs * SERVICE_SEQ_BYTES +
                                 (uint64_t)engine->max_rows * SERVICE_ROW_BYTES;
    lam_held_init(&service->held, config->engine);
    service->sending = LAM_BUF(SERVICE_CHUNK_BYTES + 64 * LAM_KIB);
    service->epochs = lam_calloc(engine->max_seqs, sizeof *service->epochs);
    service->rows = lam_calloc(engine->max_seqs, sizeof *service->rows);
    service->results = lam_calloc(engine->max_seqs, sizeof *service->results);
    service->tokens = lam_calloc(engine->max_seqs, sizeof *service->tokens);
    service->token_refs = lam_calloc(engine->max_seqs, sizeof *service->token_refs);
    made = service->epochs && service->rows && service->results && service->tokens &&
           service->token_refs &&
           lam_inbox_create(service->message_bytes_max, &service->inbox, NULL) == LAM_OK &&
           lam_outbox_create(SERVICE_CHUNK_BYTES, &service->outbox, NULL) == LAM_OK;
    if (!made) {
        lam_service_destroy(service);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the service");
    }
    *ret_service = service;
    return LAM_OK;
}

void lam_service_destroy(struct lam_service *service)
{
    if (!service)
        return;
    pthread_cond_destroy(&service->woken);
    pthread_mutex_destroy(&service->lock);
    lam_inbox_destroy(service->inbox);
    lam_outbox_destroy(service->outbox);
    lam_buf_done(&service->sending);
    lam_free(service->epochs);
    lam_free(service->rows);
    lam_free(service->results);
    lam_free(service->tokens);
    lam_free(service->token_refs);
    lam_free(service);
}

/* Under the lock: ends a wait, of either kind. */
static void wake(struct lam_service *service)
{
    if (service->waiting)
        lam_rpc_stream_cancel(service->waiting);
    pthread_cond_signal(&service->woken);
}

void lam_service_stop(struct lam_service *service)
{
    bool again;

    pthread_mutex_lock(&service->lock);
    again = service->stopping;
    service->stopping = true;
    /* To cancel a stream drops what the gateway has not yet read of it, and that may be an answer:
     * it is told that nothing more comes, and ends the stream. A second wish does not wait. */
    if (!again && service->waiting && lam_outbox_flush(service->outbox, SERVICE_FLUSH_NS))
        service->half_closed = lam_rpc_stream_half_close(service->waiting, NULL) == LAM_OK;
    if (again || !service->half_closed)
        wake(service);
    pthread_mutex_unlock(&service->lock);
}

void lam_service_lose_loader(struct lam_service *service)
{
    pthread_mutex_lock(&service->lock);
    service->loader_lost = true;
    wake(service);
    pthread_mutex_unlock(&service->lock);
}

static bool is_stopping(struct lam_service *service)
{
    bool stopping;

    pthread_mutex_lock(&service->lock);
    stopping = service->stopping;
    pthread_mutex_unlock(&service->lock);
    return stopping;
}

/* Publishes the stream that other threads may cancel; false when they already want us back. */
static bool begin_waiting(struct lam_service *service, struct lam_rpc_stream *stream)
{
    bool free_to_wait;

    pthread_mutex_lock(&service->lock);
    free_to_wait = !service->stopping && !service->loader_lost;
    if (free_to_wait)
        service->waiting = stream;
    pthread_mutex_unlock(&service->lock);
    return free_to_wait;
}

static void end_waiting(struct lam_service *service)
{
    pthread_mutex_lock(&service->lock);
    service->waiting = NULL;
    pthread_mutex_unlock(&service->lock);
}

/* The next message of the gateway; it lives until the following call. */
static enum lam_status receive(struct lam_service *service, struct lam_rpc_stream *stream,
    const Laminar__V1__GatewayMessage **ret_message, struct lam_err *err)
{
    enum lam_status status;

    if (!begin_waiting(service, stream))
        return lam_fail(err, LAM_CANCELLED, "nothing more to wait for");
    status = lam_inbox_take(service->inbox, ret_message, err);
    end_waiting(service);
    return status;
}

static enum lam_status send_message(struct lam_service *service, struct lam_rpc_stream *stream,
    const Laminar__V1__WorkerMessage *message, struct lam_err *err)
{
    if (!lam_message_pack(&message->base, &service->sending))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a message to the gateway");
    return lam_rpc_stream_send(stream, service->sending.data, service->sending.size, err);
}

static const char *kv_type_name(enum lam_dtype dtype)
{
    if (dtype == LAM_F32)
        return "f32";
    return dtype == LAM_Q8_0 ? "q8_0" : "f16";
}

/* Its parts from context to workspace add up to what is planned. */
static Laminar__V1__Memory describe_memory(const struct lam_service *service)
{
    const struct lam_engine *engine = service->config.engine;
    const struct lam_plan *plan = lam_engine_plan(engine);
    const struct lam_plan_arena *arena = &plan->arenas[0];
    const struct lam_plan_region *regions = arena->regions;
    struct lam_pool_ready pool = lam_units_pool_ready(service->config.units);
    Laminar__V1__Memory memory = LAMINAR__V1__MEMORY__INIT;

    memory.cap_bytes = lam_engine_cap_bytes(engine);
    memory.planned_bytes = arena->total_bytes;
    memory.measured_bytes = service->held.bytes;
    memory.context_bytes = arena->context_bytes;
    memory.resident_bytes =
        regions[LAM_REGION_RESIDENT].bytes + regions[LAM_REGION_EMBEDDING].bytes;
    memory.slots_bytes = regions[LAM_REGION_SLOTS].bytes;
    memory.kv_bytes = regions[LAM_REGION_KV].bytes;
    memory.activations_bytes = regions[LAM_REGION_ACTIVATIONS].bytes +
                               regions[LAM_REGION_LOGITS].bytes + regions[LAM_REGION_TABLES].bytes;
    memory.workspace_bytes = memory.planned_bytes - memory.context_bytes - memory.resident_bytes -
                             memory.slots_bytes - memory.kv_bytes - memory.activations_bytes;
    memory.kv_type = (char *)(uintptr_t)kv_type_name(plan->kv_dtype);
    memory.slots = (int32_t)arena->n_slots;
    memory.layers = (int32_t)plan->n_layers;
    memory.resident_layers = (int32_t)arena->n_layers_resident;
    memory.streamed_bytes = arena->streamed_bytes;
    memory.planned_pass_seconds = plan->pass_seconds;
    memory.pool_ready_bytes = pool.bytes;
    memory.pool_ready_seconds = (double)pool.ns / LAM_NS_PER_S;
    return memory;
}

static enum lam_status send_hello(
    struct lam_service *service, struct lam_rpc_stream *stream, struct lam_err *err)
{
    const struct lam_engine_config *engine = lam_engine_config(service->config.engine);
    const struct lam_model *model = lam_units_model(service->config.units);
    Laminar__V1__Hello hello = LAMINAR__V1__HELLO__INIT;
    Laminar__V1__Memory memory = describe_memory(service);
    Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;

    hello.worker_id = (char *)service->config.worker_id;
    hello.device = (char *)service->config.device;
    hello.backend = (char *)lam_engine_backend(service->config.engine);
    hello.model_digest = model->digest;
    hello.header_bytes = model->header_bytes;
    hello.file_bytes = model->file_bytes;
    hello.context_tokens = (int32_t)engine->n_ctx;
    hello.max_sequences = (int32_t)engine->max_seqs;
    hello.max_rows = (int32_t)engine->max_rows;
    hello.kv_page_tokens = (int32_t)engine->page_tokens;
    hello.kv_pages = (int32_t)engine->kv_pages;
    hello.memory = &memory;
    hello.max_steps = SERVICE_STEPS;
    message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_HELLO;
    message.hello = &hello;
    return send_message(service, stream, &message, err);
}

static enum lam_status send_header(
    struct lam_service *service, struct lam_rpc_stream *stream, struct lam_err *err)
{
    const struct lam_model *model = lam_units_model(service->config.units);
    enum lam_status status = LAM_OK;

    for (uint64_t offset = 0; offset < model->header_bytes && status == LAM_OK;) {
        Laminar__V1__HeaderChunk chunk = LAMINAR__V1__HEADER_CHUNK__INIT;
        Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;
        uint64_t n_left = model->header_bytes - offset;

        chunk.offset = offset;
        chunk.data.data = (uint8_t *)model->header + offset;
        chunk.data.len = n_left < SERVICE_CHUNK_BYTES ? n_left : SERVICE_CHUNK_BYTES;
        message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_HEADER_CHUNK;
        message.header_chunk = &chunk;
        status = send_message(service, stream, &message, err);
        offset += chunk.data.len;
    }
    return status;
}

/* A pass has begun: there is time for what the one before has left to do. */
static void on_begun(void *arg)
{
    struct lam_service *service = arg;

    lam_outbox_go(service->outbox);
    if (lam_engine_profile(service->config.engine)->wall_ns > 0)
        lam_held_look(&service->held, service->config.engine);
}

static enum lam_status send_result(
    struct lam_service *service, const Laminar__V1__Step *step, struct lam_err *err)
{
    bool goes_on = lam_inbox_ready(service->inbox); /* then on_begun comes soon */
    const struct lam_pass_profile *pass = lam_engine_profile(service->config.engine);
    struct lam_pool_ready pool = lam_units_pool_ready(service->config.units);
    Laminar__V1__StepResult result = LAMINAR__V1__STEP_RESULT__INIT;
    Laminar__V1__WorkerMessage message = LAMINAR__V1__WORKER_MESSAGE__INIT;
    Laminar__V1__Profile profile = LAMINAR__V1__PROFILE__INIT;
    enum lam_status status;

    for (size_t i = 0; i < step->n_rows; i++) {
        Laminar__V1__SampledToken *token = &service->tokens[result.n_tokens];

        if (!step->rows[i]->sample)
            continue;
        laminar__v1__sampled_token__init(token);
        token->seq = step->rows[i]->seq;
        token->epoch = step->rows[i]->epoch;
        token->token = service->results[i].token;
        service->token_refs[result.n_tokens++] = token;
    }
    if (step->n_rows > 0 && !goes_on) /* else it only freed slots */
        lam_held_look(&service->held, service->config.engine);
    if (service->config.metrics) {
        lam_worker_metrics_step(
            service->config.metrics, service->config.engine, step->n_rows > 0, result.n_tokens);
        lam_worker_metrics_held(service->config.metrics, service->held.bytes);
    }
    result.id = step->id;
    result.tokens = service->token_refs;
    profile.wall_seconds = (double)pass->wall_ns / LAM_NS_PER_S;
    profile.disk_wait_seconds = (double)pass->disk_wait_ns / LAM_NS_PER_S;
    profile.link_wait_seconds = (double)pass->link_wait_ns / LAM_NS_PER_S;
    profile.compute_seconds = (double)pass->compute_ns / LAM_NS_PER_S;
    profile.copy_seconds = (double)pass->copy_ns / LAM_NS_PER_S;
    profile.floor_seconds = (double)pass->floor_ns / LAM_NS_PER_S;
    profile.link_bytes = pass->link_bytes;
    profile.resident_bytes = pass->resident_bytes;
    if (step->n_rows > 0)
        result.profile = &profile;
    result.measured_bytes = service->held.bytes;
    result.pool_ready_bytes = pool.bytes;
    result.pool_ready_seconds = (double)pool.ns / LAM_NS_PER_S;
    message.kind_case = LAMINAR__V1__WORKER_MESSAGE__KIND_STEP_RESULT;
    message.step_result = &result;
    status = lam_outbox_put(service->outbox, &message.base, err);
    if (!goes_on)
        lam_outbox_go(service->outbox);
    return status;
}

/* A refused step costs the attachment; a pass that broke off costs the worker. */
static enum lam_status run_step(
    struct lam_service *service, const Laminar__V1__Step *step, struct lam_err *err)
{
    enum lam_status status =
        lam_step_read(step, &service->limits, service->epochs, service->rows, err);

    if (status != LAM_OK)
        return status;
    for (size_t i = 0; i < step->n_free; i++)
        lam_engine_free(service->config.engine, step->free[i]);
    status = lam_engine_step(
        service->config.engine, service->rows, (uint32_t)step->n_rows, service->results, err);
    lam_outbox_go(service->outbox); /* no pass has begun: the step was refused, or only frees */
    if (status != LAM_OK)
        return status;
    for (size_t i = 0; i < step->n_rows; i++)
        service->epochs[step->rows[i]->seq] = step->rows[i]->epoch;
    return send_result(service, step, err);
}

/* Ending the stream at once could overtake the last result: the gateway ends it when it has read
 * all. A second wish to stop does not wait for that. */
static void say_goodbye(struct lam_service *service, struct lam_rpc_stream *stream)
{
    const Laminar__V1__GatewayMessage *message;
    bool end;

    pthread_mutex_lock(&service->lock);
    end = !service->half_closed && lam_rpc_stream_half_close(stream, NULL) != LAM_OK;
    service->half_closed = !end;
    service->waiting = stream;
    pthread_mutex_unlock(&service->lock);
    while (!end && lam_inbox_take(service->inbox, &message, NULL) == LAM_OK)
        ;
    end_waiting(service);
}

static void tell_attached(struct lam_service *service, bool attached)
{
    if (service->config.metrics)
        lam_worker_metrics_attached(service->config.metrics, attached);
}

/* The life of one attachment. Returns why it ended, never LAM_OK. */
static enum lam_status converse(
    struct lam_service *service, struct lam_rpc_stream *stream, struct lam_err *err)
{
    const Laminar__V1__GatewayMessage *message;
    enum lam_status status;

    lam_inbox_open(service->inbox, stream);
    status = send_hello(service, stream, err);

    /* A stream that has ended refuses to send; its reason is waiting to be received. */
    if (status != LAM_OK && status != LAM_UNAVAILABLE)
        return status;
    status = receive(service, stream, &message, err);
    if (status != LAM_OK)
        return status;
    if (message->kind_case != LAMINAR__V1__GATEWAY_MESSAGE__KIND_WELCOME)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "the gateway did not begin with a welcome");
    if (message->welcome->want_header)
        status = send_header(service, stream, err);
    if (status != LAM_OK)
        return status;
    lam_info("attached to the gateway at %s", service->config.gateway);
    tell_attached(service, true);
    service->told_of_loss = false;
    lam_outbox_open(service->outbox, stream);
    while (status == LAM_OK) {
        status = receive(service, stream, &message, err);
        if (status != LAM_OK)
            break;
        if (message->kind_case != LAMINAR__V1__GATEWAY_MESSAGE__KIND_STEP)
            status =
                lam_fail(err, LAM_INVALID_ARGUMENT, "the gateway sent something else than a step");
        else
            status = run_step(service, message->step, err);
    }
    lam_outbox_close(service->outbox);
    tell_attached(service, false);
    return status;
}

/* A fresh channel for each attempt: an old one would wait by its own clock to dial again. */
static enum lam_status attach(struct lam_service *service, struct lam_err *err)
{
    struct lam_rpc_channel *channel = NULL;
    struct lam_rpc_stream *stream = NULL;
    enum lam_status status =
        lam_rpc_channel_create(service->config.gateway, service->message_bytes_max, &channel, err);

    if (status == LAM_OK)
        status = lam_rpc_channel_reach(channel, SERVICE_REACH_NS, err);
    if (status == LAM_OK)
        status = lam_rpc_stream_open(
            channel, "/laminar.v1.Workers/Attach", LAM_RPC_NO_TIMEOUT, &stream, err);
    if (status == LAM_OK)
        status = converse(service, stream, err);
    if (stream && is_stopping(service))
        say_goodbye(service, stream);
    if (stream)
        lam_rpc_stream_cancel(stream);
    lam_inbox_close(service->inbox);
    lam_rpc_stream_destroy(stream);
    lam_rpc_channel_destroy(channel);
    for (uint32_t seq = 0; seq < service->limits.max_seqs; seq++)
        lam_engine_free(service->config.engine, seq);
    return status;
}

static void back_off(struct lam_service *service, uint64_t duration_ns)
{
    uint64_t until_ns = lam_now_ns() + duration_ns;
    struct timespec until = {
        .tv_sec = (time_t)(until_ns / LAM_NS_PER_S),
        .tv_nsec = (long)(until_ns % LAM_NS_PER_S),
    };
    int rc = 0;

    pthread_mutex_lock(&service->lock);
    while (rc == 0 && !service->stopping && !service->loader_lost)
        rc = pthread_cond_timedwait(&service->woken, &service->lock, &until);
    pthread_mutex_unlock(&service->lock);
}

enum lam_status lam_service_run(struct lam_service *service, struct lam_err *err)
{
    uint64_t backoff_ns = SERVICE_BACKOFF_MIN_NS;

    lam_engine_on_begun(service->config.engine, on_begun, service);
    for (;;) {
        enum lam_status status = attach(service, err);

        if (is_stopping(service))
            return LAM_OK;
        if (!lam_engine_usable(service->config.engine))
            return status;
        status = lam_units_check(service->config.units, err);
        if (status != LAM_OK)
            return status;
        if (!service->told_of_loss) {
            lam_warn("not attached: %s; dialling again until the gateway answers", err->text);
            service->told_of_loss = true;
            backoff_ns = SERVICE_BACKOFF_MIN_NS;
        }
        back_off(service, backoff_ns);
        backoff_ns =
            backoff_ns * 2 < SERVICE_BACKOFF_MAX_NS ? backoff_ns * 2 : SERVICE_BACKOFF_MAX_NS;
    }
}
