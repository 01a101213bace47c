/*
 * attach: the worker's stream. What it says goes to the registry and, once it is ready, to the
 * scheduler; what the scheduler wants computed goes out as steps. A worker that breaks the protocol
 * loses its stream, and its sequences go to another one.
 */
#include "common/clock.h"
#include "common/log.h"
#include "common/size.h"
#include "gateway/service_impl.h"
#include "proto/laminar/v1/worker.pb-c.h"

/* Every message is small but for header chunks. */
#define WORKER_MESSAGE_BYTES_MAX ((size_t)(LAM_MIB + 64 * LAM_KIB))

static void update_health(struct lam_service *service)
{
    lam_metric_set(
        lam_service_metric(service, LAM_GATEWAY_WORKERS), lam_registry_n_ready(service->registry));
    lam_rpc_server_set_serving(service->server, "laminar.v1.Generation",
        lam_registry_n_ready(service->registry) > 0 && !atomic_load(&service->draining));
}

/* Forgets the worker of this call and replays what it had. Safe to call twice. */
static void detach(struct lam_service *service, struct lam_rpc_call *call)
{
    struct lam_worker *worker = lam_rpc_call_user(call);
    struct lam_sched_worker *sched;

    if (!worker)
        return;
    sched = worker->sched;
    lam_rpc_call_set_user(call, NULL);
    lam_registry_leave(service->registry, worker);
    update_health(service);
    if (sched)
        lam_metric_add(lam_service_metric(service, LAM_GATEWAY_WORKERS_LOST), 1);
    if (sched)
        lam_service_apply(service, lam_sched_lose(service->sched, sched, lam_now_ns()));
}

static void refuse(
    struct lam_service *service, struct lam_rpc_call *call, const struct lam_err *err)
{
    const struct lam_worker *worker = lam_rpc_call_user(call);

    lam_warn("worker \"%s\" at %s is refused: %s", worker && worker->id[0] ? worker->id : "?",
        lam_rpc_call_peer(call), err->text);
    lam_rpc_call_finish(call, err->status, err->text);
    detach(service, call);
}

static enum lam_status make_ready(
    struct lam_service *service, struct lam_worker *worker, struct lam_err *err)
{
    enum lam_status status =
        lam_sched_join(service->sched, &worker->caps, worker, &worker->sched, err);

    if (status != LAM_OK)
        return status;
    lam_info("worker \"%s\" attached: %s, %s, %u sequences of %u tokens, %u rows a pass",
        worker->id, worker->device, worker->backend, worker->caps.max_sequences,
        worker->context_tokens, worker->caps.max_rows);
    update_health(service);
    lam_service_pump(service);
    return LAM_OK;
}

static enum lam_status take_hello(struct lam_service *service, struct lam_rpc_call *call,
    const Laminar__V1__Hello *hello, struct lam_err *err)
{
    Laminar__V1__GatewayMessage message = LAMINAR__V1__GATEWAY_MESSAGE__INIT;
    Laminar__V1__Welcome welcome = LAMINAR__V1__WELCOME__INIT;
    struct lam_worker *worker = lam_rpc_call_user(call);
    bool want_header;
    enum lam_status status =
        lam_registry_hello(service->registry, worker, hello, &want_header, err);

    if (status != LAM_OK)
        return status;
    welcome.want_header = want_header;
    message.kind_case = LAMINAR__V1__GATEWAY_MESSAGE__KIND_WELCOME;
    message.welcome = &welcome;
    if (!lam_message_pack(&message.base, &service->out) ||
        !lam_rpc_call_send(call, service->out.data, service->out.size))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the welcome");
    return want_header ? LAM_OK : make_ready(service, worker, err);
}

static enum lam_status take_header_chunk(struct lam_service *service, struct lam_worker *worker,
    const Laminar__V1__HeaderChunk *chunk, struct lam_err *err)
{
    enum lam_status status = lam_registry_header_chunk(service->registry, worker, chunk, err);

    if (status != LAM_OK || worker->phase != LAM_WORKER_READY)
        return status;
    return make_ready(service, worker, err);
}

/* The step has been answered: `before` is the load before that. */
static void note_pass(
    struct lam_service *service, const struct lam_worker *worker, struct lam_sched_load before)
{
    struct lam_sched_load now = lam_sched_load(worker->sched);

    if (now.passes == before.passes)
        return; /* it only freed slots */
    lam_metric_add(lam_service_metric(service, LAM_GATEWAY_PASSES), 1);
    lam_metric_add(lam_service_metric(service, LAM_GATEWAY_ROWS), now.rows - before.rows);
    lam_metric_observe(
        lam_service_metric(service, LAM_GATEWAY_STEP_SECONDS), lam_now_ns() - worker->step_ns);
    lam_trace_end(LAM_TRACE_STEP, "step", worker->step_ns, LAM_TRACE_NONE, LAM_TRACE_NONE, 0);
}

static enum lam_status take_result(struct lam_service *service, struct lam_worker *worker,
    const Laminar__V1__StepResult *result, struct lam_err *err)
{
    const struct lam_served *served = lam_registry_served(service->registry);
    struct lam_sched_actions actions;
    struct lam_sched_sample *samples;
    struct lam_sched_load before;
    enum lam_status status;

    if (worker->phase != LAM_WORKER_READY)
        return lam_fail(
            err, LAM_FAILED_PRECONDITION, "a step result before the worker was welcome");
    before = lam_sched_load(worker->sched);
    status = lam_report_take_profile(&worker->report, result->profile, err);
    if (status == LAM_OK)
        status = lam_report_take_now(&worker->report,
            &(struct lam_report_now){
                result->measured_bytes, result->pool_ready_bytes, result->pool_ready_seconds},
            err);
    if (status != LAM_OK)
        return status;
    samples = lam_arena_alloc(
        &service->arena, result->n_tokens + 1, sizeof *samples, _Alignof(struct lam_sched_sample));
    if (!samples)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a step result");
    for (size_t i = 0; i < result->n_tokens; i++)
        samples[i] = (struct lam_sched_sample){
            result->tokens[i]->seq, result->tokens[i]->epoch, result->tokens[i]->token};
    status = lam_sched_result(service->sched, worker->sched, result->id, samples,
        (uint32_t)result->n_tokens, served->spec.n_vocab, lam_now_ns(), &actions, err);
    if (status != LAM_OK)
        return status;
    note_pass(service, worker, before);
    worker->n_steps--;
    worker->step_ns = lam_now_ns();
    lam_service_apply(service, actions);
    return LAM_OK;
}

void lam_attach_on_open(void *arg, struct lam_rpc_call *call)
{
    struct lam_service *service = arg;
    struct lam_worker *worker;
    struct lam_err err = {0};

    if (lam_registry_enter(service->registry, call, &worker, &err) == LAM_OK)
        lam_rpc_call_set_user(call, worker);
    else
        refuse(service, call, &err);
}

void lam_attach_on_message(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_service *service = arg;
    struct lam_worker *worker = lam_rpc_call_user(call);
    const Laminar__V1__WorkerMessage *message;
    struct lam_err err = {0};
    enum lam_status status;

    message = (const Laminar__V1__WorkerMessage *)lam_service_unpack(service, call,
        &laminar__v1__worker_message__descriptor, bytes, n_bytes, WORKER_MESSAGE_BYTES_MAX);
    if (!message || !worker) {
        detach(service, call);
        return;
    }
    switch (message->kind_case) {
    case LAMINAR__V1__WORKER_MESSAGE__KIND_HELLO:
        status = take_hello(service, call, message->hello, &err);
        break;
    case LAMINAR__V1__WORKER_MESSAGE__KIND_HEADER_CHUNK:
        status = take_header_chunk(service, worker, message->header_chunk, &err);
        break;
    case LAMINAR__V1__WORKER_MESSAGE__KIND_STEP_RESULT:
        status = take_result(service, worker, message->step_result, &err);
        break;
    default:
        status = lam_fail(&err, LAM_INVALID_ARGUMENT, "a worker message of no known kind");
    }
    if (status != LAM_OK)
        refuse(service, call, &err);
}

void lam_attach_on_half_close(void *arg, struct lam_rpc_call *call)
{
    detach(arg, call);
    lam_rpc_call_finish(call, LAM_OK, NULL);
}

void lam_attach_on_done(void *arg, struct lam_rpc_call *call, bool cancelled)
{
    const struct lam_worker *worker = lam_rpc_call_user(call);

    if (worker)
        lam_warn("worker \"%s\" is gone%s", worker->id, cancelled ? "" : " (stream ended)");
    detach(arg, call);
}

/* The message in the arena, or NULL. */
static Laminar__V1__SequenceRows **make_rows(
    struct lam_arena *arena, const struct lam_sched_step *step)
{
    Laminar__V1__SequenceRows **list = lam_arena_alloc(
        arena, step->n_rows + 1, sizeof *list, _Alignof(Laminar__V1__SequenceRows *));
    Laminar__V1__SequenceRows *rows =
        lam_arena_alloc(arena, step->n_rows + 1, sizeof *rows, _Alignof(Laminar__V1__SequenceRows));
    Laminar__V1__SamplingParams *params = lam_arena_alloc(
        arena, step->n_rows + 1, sizeof *params, _Alignof(Laminar__V1__SamplingParams));

    if (!list || !rows || !params)
        return NULL;
    for (uint32_t i = 0; i < step->n_rows; i++) {
        const struct lam_sched_rows *from = &step->rows[i];
        laminar__v1__sequence_rows__init(&rows[i]);
        list[i] = &rows[i];
        rows[i].seq = from->slot;
        rows[i].epoch = from->epoch;
        rows[i].position = from->position;
        rows[i].tokens = (int32_t *)(uintptr_t)from->tokens;
        rows[i].n_tokens = from->sampled ? 0 : from->n_tokens;
        rows[i].sampled = from->sampled;
        rows[i].sample = from->sample;
        if (from->position > 0)
            continue;
        laminar__v1__sampling_params__init(&params[i]);
        params[i].temperature = from->sampling->temperature;
        params[i].top_k = from->sampling->top_k;
        params[i].top_p = from->sampling->top_p;
        params[i].min_p = from->sampling->min_p;
        params[i].repetition_penalty = from->sampling->repetition_penalty;
        params[i].presence_penalty = from->sampling->presence_penalty;
        params[i].frequency_penalty = from->sampling->frequency_penalty;
        params[i].seed = from->sampling->seed;
        rows[i].sampling = &params[i];
        rows[i].prompt_tokens = from->n_prompt;
    }
    return list;
}

void lam_attach_send_step(struct lam_service *service, const struct lam_sched_step *step)
{
    struct lam_worker *worker = step->worker_user;
    Laminar__V1__GatewayMessage message = LAMINAR__V1__GATEWAY_MESSAGE__INIT;
    Laminar__V1__Step packed = LAMINAR__V1__STEP__INIT;

    lam_arena_reset(&service->arena);
    packed.id = step->id;
    packed.rows = make_rows(&service->arena, step);
    packed.n_rows = step->n_rows;
    packed.free = (uint32_t *)(uintptr_t)step->free;
    packed.n_free = step->n_free;
    message.kind_case = LAMINAR__V1__GATEWAY_MESSAGE__KIND_STEP;
    message.step = &packed;
    if (worker->n_steps++ == 0)
        worker->step_ns = lam_now_ns();
    if (packed.rows && lam_message_pack(&message.base, &service->out) &&
        lam_rpc_call_send(worker->user, service->out.data, service->out.size))
        return;
    /* on_done follows and replays its sequences elsewhere */
    lam_rpc_call_finish(worker->user, LAM_RESOURCE_EXHAUSTED, "no memory for a step");
}

/* Its stream is open and its process may live: it hangs, on a disk, a device or a lock. What it had
 * is computed elsewhere; if it is well after all it attaches again. One for each tick: the list
 * changes. */
void lam_attach_tick(struct lam_service *service)
{
    /* Not the tick's: steps that the tick itself has sent are younger. */
    uint64_t now_ns = lam_now_ns();
    struct lam_worker *worker = lam_registry_workers(service->registry);
    struct lam_err err = {0};

    if (service->step_limit_ns == 0)
        return;
    while (worker && (worker->n_steps == 0 || now_ns - worker->step_ns < service->step_limit_ns))
        worker = worker->next;
    if (!worker)
        return;
    lam_fail(&err, LAM_DEADLINE_EXCEEDED,
        "no answer to a step for %llu s (--step-timeout of the gateway); does its loader, disk or "
        "device hang?",
        (unsigned long long)((now_ns - worker->step_ns) / LAM_NS_PER_S));
    refuse(service, worker->user, &err);
}

void lam_attach_dismiss(struct lam_service *service)
{
    for (struct lam_worker *worker = lam_registry_workers(service->registry); worker;
         worker = worker->next)
        lam_rpc_call_finish(worker->user, LAM_UNAVAILABLE, "the gateway is shutting down");
}
