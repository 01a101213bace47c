/* service: see service.h. Its life, the clock, and the pump between scheduler and streams. */
#include "gateway/service.h"

#include "common/clock.h"
#include "common/log.h"
#include "gateway/service_impl.h"

/* A header chunk of 1 MiB and its envelope. */
#define MESSAGE_BYTES_MAX ((size_t)(LAM_MIB + 64 * LAM_KIB))
/* Calls beyond the waiting ones: running generations, workers, unary calls. */
#define CALLS_SPARE 4096u
/* Three workers in a row have died of it: the fourth is not risked. */
#define DEATHS_MAX 3u
/* Steps are sent ahead of answers while a pass takes at most this: then the turn from worker to
 * gateway and back, 0.3 ms, is more than 1 % of it, and nobody waits long behind the second one. */
#define AHEAD_LIMIT_NS (25 * LAM_NS_PER_MS)
/* Behind longer passes they go this long before the expected end: a timer of ours is up to 2 ms
 * late, and passes of 2,048 rows on a GPU, 58 ms, differ from the one before by as much. */
#define AHEAD_LEAD_NS (4 * LAM_NS_PER_MS)

static const struct lam_rpc_method generation_methods[] = {
    {.path = "/laminar.v1.Generation/Generate",
        .on_message = lam_generate_on_message,
        .on_nudge = lam_generate_on_nudge,
        .on_done = lam_generate_on_done},
    {.path = "/laminar.v1.Generation/Tokenize",
        .on_message = lam_tokenize_on_message,
        .on_nudge = lam_query_on_nudge,
        .on_done = lam_query_on_done},
    {.path = "/laminar.v1.Generation/Detokenize",
        .on_message = lam_detokenize_on_message,
        .on_nudge = lam_query_on_nudge,
        .on_done = lam_query_on_done},
    {.path = "/laminar.v1.Generation/GetModel", .on_message = lam_get_model_on_message},
};

static const struct lam_rpc_method worker_methods[] = {
    {.path = "/laminar.v1.Workers/Attach",
        .on_open = lam_attach_on_open,
        .on_message = lam_attach_on_message,
        .on_half_close = lam_attach_on_half_close,
        .on_done = lam_attach_on_done},
};

void lam_service_pump(struct lam_service *service)
{
    struct lam_sched_step step;
    uint64_t now_ns = lam_now_ns();

    for (; lam_sched_next(service->sched, now_ns, &step); now_ns = lam_now_ns())
        lam_attach_send_step(service, &step);
    lam_rpc_server_wake_at(service->server, lam_sched_wake_ns(service->sched, now_ns));
    lam_metric_set(
        lam_service_metric(service, LAM_GATEWAY_WAITING), lam_sched_waiting(service->sched));
}

void lam_service_apply(struct lam_service *service, struct lam_sched_actions actions)
{
    uint64_t now_ns = lam_now_ns();

    for (uint32_t i = 0; i < actions.n; i++)
        lam_generation_apply(actions.items[i].user, &actions.items[i], now_ns);
    lam_service_pump(service);
}

static void on_tick(void *arg)
{
    struct lam_service *service = arg;
    uint64_t now_ns = lam_now_ns();

    for (struct lam_generation *g = service->generations; g; g = g->next)
        lam_generation_tick(g, now_ns);
    lam_service_apply(service, lam_sched_tick(service->sched, now_ns));
    lam_attach_tick(service);
    if (atomic_load(&service->draining) && !service->generations)
        lam_attach_dismiss(service);
}

/* A long pass is about to end. */
static void on_wake(void *arg)
{
    lam_service_pump(arg);
}

ProtobufCMessage *lam_service_read(struct lam_service *service,
    const ProtobufCMessageDescriptor *type, const void *bytes, size_t n_bytes, size_t bytes_max,
    struct lam_err *err)
{
    ProtobufCMessage *message = NULL;

    lam_arena_reset(&service->arena);
    if (n_bytes > bytes_max)
        lam_fail(err, LAM_RESOURCE_EXHAUSTED, "the request has %zu bytes; at most %zu are allowed",
            n_bytes, bytes_max);
    else if (lam_message_unpack(type, bytes, n_bytes, &service->arena, &message, err) == LAM_OK)
        return message;
    return NULL;
}

ProtobufCMessage *lam_service_unpack(struct lam_service *service, struct lam_rpc_call *call,
    const ProtobufCMessageDescriptor *type, const void *bytes, size_t n_bytes, size_t bytes_max)
{
    struct lam_err err = {0};
    ProtobufCMessage *message = lam_service_read(service, type, bytes, n_bytes, bytes_max, &err);

    if (!message)
        lam_rpc_call_finish(call, err.status, err.text);
    return message;
}

void lam_service_reply(
    struct lam_service *service, struct lam_rpc_call *call, const ProtobufCMessage *message)
{
    if (lam_message_pack(message, &service->out))
        lam_rpc_call_reply(call, service->out.data, service->out.size);
    else
        lam_rpc_call_finish(call, LAM_RESOURCE_EXHAUSTED, "no memory for the answer");
}

const struct lam_served *lam_service_model(struct lam_service *service, struct lam_rpc_call *call)
{
    const struct lam_served *served = lam_registry_served(service->registry);

    if (!served)
        lam_rpc_call_finish(call, LAM_UNAVAILABLE,
            "no worker has brought a model yet: start one, or try again in a moment");
    return served;
}

static enum lam_status create_server(
    struct lam_service *service, const struct lam_service_config *config, struct lam_err *err)
{
    struct lam_rpc_server_config server_config = {
        .listen = config->listen,
        .n_listen = config->n_listen,
        .message_bytes_max = MESSAGE_BYTES_MAX,
        .calls_max = config->waiting_max + CALLS_SPARE,
        .on_tick = on_tick,
        .on_wake = on_wake,
        .tick_arg = service,
    };
    enum lam_status status = lam_rpc_server_create(&server_config, &service->server, err);

    if (status == LAM_OK)
        status = lam_rpc_server_add(service->server, generation_methods,
            sizeof generation_methods / sizeof generation_methods[0], service, err);
    if (status == LAM_OK)
        status = lam_rpc_server_add(service->server, worker_methods,
            sizeof worker_methods / sizeof worker_methods[0], service, err);
    if (status == LAM_OK)
        status = lam_rpc_server_add_standard(service->server, err);
    return status;
}

/* On the thread of the operations port. */
static bool write_metrics(void *arg, struct lam_buf *out)
{
    const struct lam_service *service = arg;

    return lam_gateway_metrics_write(&service->metrics, out);
}

static const char *unhealthy(void *arg)
{
    struct lam_service *service = arg;

    if (atomic_load(&service->draining))
        return "the gateway is shutting down\n";
    if (lam_metric_get(lam_service_metric(service, LAM_GATEWAY_WORKERS)) == 0)
        return "no worker is attached\n";
    return NULL;
}

enum lam_status lam_service_create(
    const struct lam_service_config *config, struct lam_service **ret_service, struct lam_err *err)
{
    struct lam_sched_config sched_config = {
        .waiting_max = config->waiting_max,
        .orphan_limit_ns = config->orphan_limit_ns,
        .ahead_limit_ns = AHEAD_LIMIT_NS,
        .ahead_lead_ns = AHEAD_LEAD_NS,
        .deaths_max = DEATHS_MAX,
    };
    struct lam_service *service;
    enum lam_chat_template chat;
    enum lam_status status;

    if (config->chat_name) {
        status = lam_chat_by_name(config->chat_name, &chat, err);
        if (status != LAM_OK)
            return status;
    }
    service = lam_calloc(1, sizeof *service);
    if (!service)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the gateway");
    atomic_init(&service->draining, false);
    service->step_limit_ns = config->step_limit_ns;
    lam_gateway_metrics_init(&service->metrics);
    service->ops_config = (struct lam_ops_config){.listen = config->ops,
        .process = "laminar-gateway",
        .record = config->record,
        .arg = service,
        .write_metrics = write_metrics,
        .unhealthy = unhealthy};
    service->out = LAM_BUF(LAM_ANSWER_BYTES_MAX);
    status = lam_arena_init(&service->arena, LAM_REQUEST_ARENA_BYTES, err);
    if (status == LAM_OK)
        status = lam_sched_create(&sched_config, &service->sched, err);
    if (status == LAM_OK)
        status = lam_aside_create(&service->aside, err);
    if (status == LAM_OK)
        status = lam_registry_create(config->chat_name, &service->registry, err);
    if (status == LAM_OK)
        status = create_server(service, config, err);
    if (status != LAM_OK) {
        lam_service_destroy(service);
        return status;
    }
    *ret_service = service;
    return LAM_OK;
}

enum lam_status lam_service_start(struct lam_service *service, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    if (service->ops_config.listen)
        status = lam_ops_start(&service->ops_config, &service->ops, err);
    if (status == LAM_OK)
        status = lam_rpc_server_start(service->server, err);
    if (status != LAM_OK)
        return status;
    lam_rpc_server_set_serving(service->server, "", true);
    lam_rpc_server_set_serving(service->server, "laminar.v1.Workers", true);
    return LAM_OK;
}

int lam_service_port(const struct lam_service *service, size_t i)
{
    return lam_rpc_server_port(service->server, i);
}

int lam_service_ops_port(const struct lam_service *service)
{
    return service->ops ? lam_ops_port(service->ops) : 0;
}

void lam_service_shutdown(struct lam_service *service, uint64_t grace_ns)
{
    atomic_store(&service->draining, true);
    lam_rpc_server_shutdown(service->server, grace_ns);
}

void lam_service_destroy(struct lam_service *service)
{
    if (!service)
        return;
    lam_ops_stop(service->ops);
    lam_aside_destroy(service->aside);
    lam_rpc_server_destroy(service->server);
    lam_sched_destroy(service->sched);
    lam_registry_destroy(service->registry);
    lam_buf_done(&service->out);
    lam_arena_done(&service->arena);
    lam_free(service);
}
