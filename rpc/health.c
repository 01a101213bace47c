/*
 * health: grpc.health.v1. Source: health.proto and gRPC's health checking guide.
 *
 * Check answers NOT_FOUND for a name that nobody added. Watch tells the state at once and then each
 * change; for an unknown name it says SERVICE_UNKNOWN and stays open, as the guide asks.
 */
#include "rpc/internal.h"

#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include "rpc/message.h"

/* Room for an unpacked request: a service name. */
#define REQUEST_BYTES_MAX 2048

/* A watcher that never reads is let go, not queued for. */
#define WATCH_QUEUE_MAX 64

#define UNKNOWN SIZE_MAX

struct lam_health_watch {
    struct lam_health_watch *next;
    struct lam_rpc_call *call;
    size_t index; /* in server->health, or UNKNOWN */
};

/* The entry that a request asks about; UNKNOWN for a name that nobody added. */
static enum lam_status read_request(const struct lam_rpc_server *server, const void *bytes,
    size_t n_bytes, size_t *ret_index, struct lam_err *err)
{
    _Alignas(64) unsigned char memory[REQUEST_BYTES_MAX];
    struct lam_arena arena = {.base = memory, .cap_bytes = sizeof memory};
    const Grpc__Health__V1__HealthCheckRequest *request;
    ProtobufCMessage *message = NULL;
    enum lam_status status = lam_message_unpack(
        &grpc__health__v1__health_check_request__descriptor, bytes, n_bytes, &arena, &message, err);

    if (status != LAM_OK)
        return status;
    request = (const Grpc__Health__V1__HealthCheckRequest *)message;
    *ret_index = UNKNOWN;
    for (size_t i = 0; i < server->n_health; i++)
        if (strcmp(server->health[i].name, request->service) == 0)
            *ret_index = i;
    return LAM_OK;
}

/* The state of an entry as a packed answer. health_lock held. */
static bool pack_state(const struct lam_rpc_server *server, size_t index, struct lam_buf *out)
{
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

    if (index == UNKNOWN)
        response.status = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN;
    else if (server->health[index].serving)
        response.status = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    else
        response.status = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
    return lam_message_pack(&response.base, out);
}

static void check(void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_rpc_server *server = service;
    struct lam_buf answer = LAM_BUF(64);
    struct lam_err err = {0};
    size_t index = UNKNOWN;
    bool packed;

    if (read_request(server, bytes, n_bytes, &index, &err) != LAM_OK) {
        lam_rpc_call_finish(call, err.status, err.text);
        return;
    }
    if (index == UNKNOWN) {
        lam_rpc_call_finish(call, LAM_NOT_FOUND, "no such service here");
        return;
    }
    pthread_mutex_lock(&server->health_lock);
    packed = pack_state(server, index, &answer);
    pthread_mutex_unlock(&server->health_lock);
    if (packed)
        lam_rpc_call_reply(call, answer.data, answer.size);
    else
        lam_rpc_call_finish(call, LAM_RESOURCE_EXHAUSTED, "no memory for the answer");
    lam_buf_done(&answer);
}

/* Sends a watcher its state. health_lock held. */
static void notify(const struct lam_rpc_server *server, const struct lam_health_watch *watch)
{
    struct lam_buf answer = LAM_BUF(64);
    bool told = lam_rpc_call_queued(watch->call) < WATCH_QUEUE_MAX &&
                pack_state(server, watch->index, &answer) &&
                lam_rpc_call_send(watch->call, answer.data, answer.size);

    lam_buf_done(&answer);
    if (!told)
        lam_rpc_call_finish(
            watch->call, LAM_RESOURCE_EXHAUSTED, "health changes are not being read");
}

static void watch_message(
    void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_rpc_server *server = service;
    struct lam_health_watch *watch;
    struct lam_err err = {0};
    size_t index = UNKNOWN;

    if (lam_rpc_call_user(call)) {
        lam_rpc_call_finish(call, LAM_INVALID_ARGUMENT, "Watch takes one request");
        return;
    }
    if (read_request(server, bytes, n_bytes, &index, &err) != LAM_OK) {
        lam_rpc_call_finish(call, err.status, err.text);
        return;
    }
    watch = lam_calloc(1, sizeof *watch);
    if (!watch) {
        lam_rpc_call_finish(call, LAM_RESOURCE_EXHAUSTED, "no memory to watch");
        return;
    }
    lam_rpc_call_set_user(call, watch);
    watch->call = call;
    watch->index = index;
    pthread_mutex_lock(&server->health_lock);
    watch->next = server->watches;
    server->watches = watch;
    notify(server, watch);
    pthread_mutex_unlock(&server->health_lock);
}

static void watch_done(void *service, struct lam_rpc_call *call, bool cancelled)
{
    struct lam_rpc_server *server = service;
    struct lam_health_watch *watch = lam_rpc_call_user(call);
    struct lam_health_watch **link = &server->watches;

    (void)cancelled;
    if (!watch)
        return;
    pthread_mutex_lock(&server->health_lock);
    while (*link != watch)
        link = &(*link)->next;
    *link = watch->next;
    pthread_mutex_unlock(&server->health_lock);
    lam_free(watch);
}

/* A client that half-closes without a request gets an answer, too. */
static void no_request(void *service, struct lam_rpc_call *call)
{
    (void)service;
    if (!lam_rpc_call_user(call))
        lam_rpc_call_finish(call, LAM_INVALID_ARGUMENT, "a HealthCheckRequest is missing");
}

const struct lam_rpc_method lam_health_methods[2] = {
    {
        .path = "/grpc.health.v1.Health/Check",
        .on_message = check,
        .on_half_close = no_request,
    },
    {
        .path = "/grpc.health.v1.Health/Watch",
        .on_message = watch_message,
        .on_half_close = no_request,
        .on_done = watch_done,
    },
};

void lam_rpc_server_set_serving(struct lam_rpc_server *server, const char *service, bool serving)
{
    size_t index = 0;

    while (index < server->n_health && strcmp(server->health[index].name, service) != 0)
        index++;
    assert(index < server->n_health);
    pthread_mutex_lock(&server->health_lock);
    if (server->health[index].serving != serving) {
        server->health[index].serving = serving;
        for (struct lam_health_watch *watch = server->watches; watch; watch = watch->next)
            if (watch->index == index)
                notify(server, watch);
    }
    pthread_mutex_unlock(&server->health_lock);
}

void lam_health_end(struct lam_rpc_server *server)
{
    pthread_mutex_lock(&server->health_lock);
    for (struct lam_health_watch *watch = server->watches; watch; watch = watch->next)
        lam_rpc_call_finish(watch->call, LAM_UNAVAILABLE, "the server is shutting down");
    pthread_mutex_unlock(&server->health_lock);
}
