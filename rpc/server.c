/*
 * server: see server.h. Listening, dispatch and shutdown; one call is call.c.
 *
 * All calls come through the core's generic request, and their path is looked up here: one request
 * posted at a time instead of one for each method, and an unknown method is an answer
 * (UNIMPLEMENTED), not a client that hangs until its deadline, which is what registered methods
 * alone give.
 *
 * Shutdown, in this order: refuse new calls, wait for open ones, and until their clients have read
 * the end; close connections (shutdown_and_notify), cancel the rest, and when the core's notice has
 * come and every call is done: queue shutdown, drain, destroy. Destroying an undrained queue aborts
 * the process.
 */
#include "rpc/internal.h"

#include <limits.h>
#include <assert.h>
#include <errno.h>
#include <grpc/grpc_security.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "common/clock.h"
#include "common/mem.h"

#define TICK_NS (100 * LAM_NS_PER_MS)
#define HANDSHAKE_TIMEOUT_MS 5000
#define GRACE_NS_MAX (86400 * LAM_NS_PER_S)

/* For calls that are finished but whose end is still on its way: health watchers hear
 * NOT_SERVING. */
#define LAST_WORDS_NS (200 * LAM_NS_PER_MS)

/* For clients to answer the ping behind GOAWAY: by then they have read all that was sent to them. A
 * client that is stopped, or polls nothing, does not answer. */
#define GOODBYE_NS LAM_NS_PER_S

/* Beyond calls_max: health and reflection still answer, and refusals have room to travel. */
#define CALLS_SPARE 64

/* libgrpc 1.51 never accepts again once accept has failed for want of a descriptor. */
#define OPEN_FILES_MIN 4096

static enum lam_status check_open_files(uint32_t calls_max, struct lam_err *err)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)OPEN_FILES_MIN + calls_max;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return lam_fail_errno(err, errno, "cannot read the limit of open files");
    if (limit.rlim_cur >= wanted)
        return LAM_OK;
    if (limit.rlim_max >= wanted) {
        limit.rlim_cur = wanted;
        if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
            return LAM_OK;
    }
    return lam_fail(err, LAM_FAILED_PRECONDITION,
        "the limit of open files is %llu and a server for %u calls needs %llu: raise it with "
        "'ulimit -n' or LimitNOFILE=",
        (unsigned long long)limit.rlim_max, calls_max, (unsigned long long)wanted);
}

static void init_locks(struct lam_rpc_server *server)
{
    pthread_condattr_t monotonic;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&server->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&server->lock, NULL);
    pthread_mutex_init(&server->health_lock, NULL);
}

/* Adds a name to the health table. */
static bool add_health(struct lam_rpc_server *server, const char *name, size_t n_bytes)
{
    struct lam_rpc_health *grown;
    char *copy;

    for (size_t i = 0; i < server->n_health; i++)
        if (strlen(server->health[i].name) == n_bytes &&
            memcmp(server->health[i].name, name, n_bytes) == 0)
            return true;
    grown = lam_realloc(server->health, server->n_health + 1, sizeof *grown);
    if (!grown)
        return false;
    server->health = grown;
    copy = lam_strndup(name, n_bytes);
    if (!copy)
        return false;
    server->health[server->n_health++] = (struct lam_rpc_health){.name = copy};
    return true;
}

static bool copy_listen(struct lam_rpc_server *server)
{
    size_t n = server->config.n_listen;

    server->listen = lam_calloc(n, sizeof *server->listen);
    server->ports = lam_calloc(n, sizeof *server->ports);
    server->files = lam_calloc(n, sizeof *server->files);
    if (!server->listen || !server->ports || !server->files)
        return false;
    for (size_t i = 0; i < n; i++) {
        server->listen[i] = lam_strdup(server->config.listen[i]);
        if (!server->listen[i])
            return false;
    }
    return true;
}

enum lam_status lam_rpc_server_create(const struct lam_rpc_server_config *config,
    struct lam_rpc_server **ret_server, struct lam_err *err)
{
    struct lam_rpc_server *server;
    enum lam_status status = check_open_files(config->calls_max, err);

    assert(config->n_listen > 0 && config->message_bytes_max > 0 && config->calls_max > 0);
    if (status != LAM_OK)
        return status;
    server = lam_calloc(1, sizeof *server);
    if (!server)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a gRPC server");
    server->config = *config;
    server->wake_ns = UINT64_MAX;
    server->scratch = LAM_BUF(config->message_bytes_max);
    init_locks(server);
    lam_core_init();
    if (!copy_listen(server) || !add_health(server, "", 0)) {
        lam_rpc_server_destroy(server);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a gRPC server");
    }
    *ret_server = server;
    return LAM_OK;
}

static enum lam_status add_routes(struct lam_rpc_server *server,
    const struct lam_rpc_method *methods, size_t n_methods, void *service, bool standard,
    struct lam_err *err)
{
    struct lam_rpc_route *grown;

    assert(!server->core && methods[0].path[0] == '/' && strchr(methods[0].path + 1, '/'));
    grown = lam_realloc(server->routes, server->n_routes + n_methods, sizeof *grown);
    if (!grown)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for %s", methods[0].path);
    server->routes = grown;
    for (size_t i = 0; i < n_methods; i++) {
        const char *name = methods[i].path + 1;
        if (!standard && !add_health(server, name, strcspn(name, "/")))
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for %s", methods[i].path);
        server->routes[server->n_routes++] = (struct lam_rpc_route){&methods[i], service, standard};
    }
    return LAM_OK;
}

enum lam_status lam_rpc_server_add(struct lam_rpc_server *server,
    const struct lam_rpc_method *methods, size_t n_methods, void *service, struct lam_err *err)
{
    return add_routes(server, methods, n_methods, service, false, err);
}

enum lam_status lam_rpc_server_add_standard(struct lam_rpc_server *server, struct lam_err *err)
{
    enum lam_status status = add_routes(server, lam_health_methods,
        sizeof lam_health_methods / sizeof lam_health_methods[0], server, true, err);

    if (status == LAM_OK)
        status = add_routes(server, lam_reflection_methods,
            sizeof lam_reflection_methods / sizeof lam_reflection_methods[0], server, true, err);
    return status;
}

/* Is there room for one more call of this kind? */
static bool has_room(struct lam_rpc_server *server, const struct lam_rpc_route *route)
{
    size_t calls_max = server->config.calls_max;
    bool room;

    pthread_mutex_lock(&server->lock);
    if (route->standard)
        room = server->n_calls < calls_max + CALLS_SPARE;
    else
        room = server->n_service_calls < calls_max;
    pthread_mutex_unlock(&server->lock);
    return room;
}

static bool is_leaving(struct lam_rpc_server *server)
{
    bool leaving;

    pthread_mutex_lock(&server->lock);
    leaving = server->leaving;
    pthread_mutex_unlock(&server->lock);
    return leaving;
}

static bool any_calls(struct lam_rpc_server *server)
{
    bool any;

    pthread_mutex_lock(&server->lock);
    any = server->n_calls > 0;
    pthread_mutex_unlock(&server->lock);
    return any;
}

/* Asks the core for the next call. Without memory for it the next tick tries again. */
static void request_call(struct lam_rpc_server *server)
{
    struct lam_rpc_call *call = lam_call_create(server);
    grpc_call_error error;

    server->arriving = call;
    if (!call)
        return;
    error = grpc_server_request_call(server->core, &call->core, &call->details, &call->metadata,
        server->queue, server->queue, &call->tags[LAM_EVENT_ARRIVED]);
    assert(error == GRPC_CALL_OK);
}

static const struct lam_rpc_route *find_route(const struct lam_rpc_server *server, grpc_slice path)
{
    for (size_t i = 0; i < server->n_routes; i++)
        if (grpc_slice_str_cmp(path, server->routes[i].method->path) == 0)
            return &server->routes[i];
    return NULL;
}

static void handle_arrived(struct lam_rpc_server *server, bool ok)
{
    struct lam_rpc_call *call = server->arriving;
    const struct lam_rpc_route *route;

    server->arriving = NULL;
    if (!ok) { /* the server is shutting down */
        lam_rpc_call_unref(call);
        return;
    }
    request_call(server);
    route = find_route(server, call->details.method);
    if (!route)
        lam_call_open(
            call, NULL, LAM_UNIMPLEMENTED, "no such method: server reflection lists the services");
    else if (!route->standard && is_leaving(server))
        lam_call_open(call, NULL, LAM_UNAVAILABLE, "the server is shutting down");
    else if (!has_room(server, route))
        lam_call_open(call, NULL, LAM_RESOURCE_EXHAUSTED, "too many open calls: try again later");
    else
        lam_call_open(call, route, LAM_OK, NULL);
}

static void note_stopped(struct lam_rpc_server *server)
{
    server->stopped = true;
    pthread_mutex_lock(&server->lock);
    server->n_cores = 0;
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

static void handle_event(struct lam_rpc_server *server, const grpc_event *event)
{
    struct lam_event_tag *tag = event->tag;

    if (event->tag == server)
        note_stopped(server);
    else if (tag->event == LAM_EVENT_ARRIVED)
        handle_arrived(server, event->success != 0);
    else
        lam_call_handle(tag->call, tag->event, event->success != 0);
}

static void tick(struct lam_rpc_server *server)
{
    if (server->config.on_tick)
        server->config.on_tick(server->config.tick_arg);
    if (!server->arriving && !server->stopped)
        request_call(server);
}

void lam_rpc_server_wake_at(struct lam_rpc_server *server, uint64_t at_ns)
{
    server->wake_ns = at_ns;
}

/* How long the next event may be waited for. */
static uint64_t patience_ns(const struct lam_rpc_server *server, uint64_t now_ns, uint64_t tick_ns)
{
    uint64_t next_ns = server->wake_ns < tick_ns ? server->wake_ns : tick_ns;

    return next_ns > now_ns ? next_ns - now_ns : 0;
}

/* The I/O thread. Ends when the core has shut down and every call is done. */
static void *run(void *arg)
{
    struct lam_rpc_server *server = arg;
    uint64_t next_tick_ns = lam_now_ns() + TICK_NS;
    bool draining = false;

    request_call(server);
    for (;;) {
        uint64_t now_ns = lam_now_ns();
        grpc_event event;

        if (now_ns >= next_tick_ns && !draining) {
            tick(server);
            next_tick_ns = now_ns + TICK_NS;
        }
        if (now_ns >= server->wake_ns && !draining) {
            server->wake_ns = UINT64_MAX;
            if (server->config.on_wake)
                server->config.on_wake(server->config.tick_arg);
        }
        event = grpc_completion_queue_next(server->queue,
            lam_core_deadline(draining ? TICK_NS : patience_ns(server, now_ns, next_tick_ns)),
            NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (event.type == GRPC_OP_COMPLETE)
            handle_event(server, &event);
        if (!draining && server->stopped && !server->arriving && !any_calls(server)) {
            draining = true;
            grpc_completion_queue_shutdown(server->queue);
        }
    }
}

static grpc_server *create_core(const struct lam_rpc_server_config *config)
{
    const grpc_arg args[] = {
        lam_core_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),
        lam_core_arg(
            GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, lam_core_limit(config->message_bytes_max)),
        lam_core_arg(GRPC_ARG_MAX_METADATA_SIZE, LAM_CORE_METADATA_BYTES_MAX),
        lam_core_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS,
            lam_core_limit((size_t)config->calls_max + CALLS_SPARE)),
        /* Identity alone: a few compressed bytes must not become many. */
        lam_core_arg(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
        lam_core_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS),
        lam_core_arg(
            GRPC_ARG_KEEPALIVE_TIME_MS, config->no_keepalive ? INT_MAX : LAM_CORE_KEEPALIVE_MS),
        lam_core_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, LAM_CORE_KEEPALIVE_TIMEOUT_MS),
        lam_core_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        lam_core_arg(
            GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, LAM_CORE_PING_INTERVAL_MIN_MS),
    };
    const grpc_channel_args channel_args = {
        sizeof args / sizeof args[0], (grpc_arg *)(uintptr_t)args};

    return grpc_server_create(&channel_args, NULL);
}

static enum lam_status bind_all(struct lam_rpc_server *server, struct lam_err *err)
{
    grpc_server_credentials *insecure = grpc_insecure_server_credentials_create();
    enum lam_status status = LAM_OK;

    for (size_t i = 0; status == LAM_OK && i < server->config.n_listen; i++) {
        const char *address = server->listen[i];
        int port;
        status = lam_address_claim(address, err);
        if (status != LAM_OK)
            break;
        port = grpc_server_add_http2_port(server->core, address, insecure);
        if (port == 0)
            status = lam_fail(
                err, LAM_UNAVAILABLE, "gRPC cannot listen on %s: the log has its reason", address);
        lam_address_remember(address, &server->files[i]);
        server->ports[i] = lam_address_unix_path(address) ? 0 : port;
    }
    grpc_server_credentials_release(insecure);
    return status;
}

static void remove_files(struct lam_rpc_server *server)
{
    for (size_t i = 0; i < server->config.n_listen; i++)
        lam_address_remove(server->listen[i], &server->files[i]);
}

static void destroy_core(struct lam_rpc_server *server)
{
    grpc_server_destroy(server->core);
    grpc_completion_queue_destroy(server->queue);
    server->core = NULL;
    server->queue = NULL;
}

/* Takes a core apart that no I/O thread ever served. */
static void abandon_core(struct lam_rpc_server *server)
{
    const gpr_timespec never = gpr_inf_future(GPR_CLOCK_MONOTONIC);

    grpc_server_shutdown_and_notify(server->core, server->queue, server);
    while (grpc_completion_queue_next(server->queue, never, NULL).tag != server)
        ;
    grpc_completion_queue_shutdown(server->queue);
    while (grpc_completion_queue_next(server->queue, never, NULL).type != GRPC_QUEUE_SHUTDOWN)
        ;
    destroy_core(server);
    remove_files(server);
}

enum lam_status lam_rpc_server_start(struct lam_rpc_server *server, struct lam_err *err)
{
    enum lam_status status;
    int code;

    assert(!server->core && !server->started);
    server->core = create_core(&server->config);
    server->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(server->core, server->queue, NULL);
    status = bind_all(server, err);
    if (status != LAM_OK)
        goto fail;
    grpc_server_start(server->core);
    server->leaving = false;
    server->n_cores = 1;
    code = pthread_create(&server->thread, NULL, run, server);
    if (code != 0) {
        status = lam_fail_errno(err, code, "cannot start the I/O thread of the gRPC server");
        goto fail;
    }
    server->started = true;
    return LAM_OK;
fail:
    abandon_core(server);
    return status;
}

int lam_rpc_server_port(const struct lam_rpc_server *server, size_t i)
{
    assert(i < server->config.n_listen);
    return server->ports[i];
}

/* Waits until *count, a number under the lock, is zero; false when the time was not enough. */
static bool wait_for_none(struct lam_rpc_server *server, const size_t *count, uint64_t limit_ns)
{
    const uint64_t until_ns = lam_now_ns() + limit_ns;
    const struct timespec until = {
        .tv_sec = (time_t)(until_ns / LAM_NS_PER_S),
        .tv_nsec = (long)(until_ns % LAM_NS_PER_S),
    };
    int code = 0;
    bool none;

    pthread_mutex_lock(&server->lock);
    while (*count > 0 && code == 0)
        code = pthread_cond_timedwait(&server->changed, &server->lock, &until);
    none = *count == 0;
    pthread_mutex_unlock(&server->lock);
    return none;
}

/* Closes the connections. The core says GOAWAY, sends a ping, and closes a connection that has no
 * calls when the ping is answered; grpc_server_cancel_all_calls cuts all of them off at once, with
 * what a client has not read. */
static void close_core(struct lam_rpc_server *server)
{
    const bool idle = wait_for_none(server, &server->n_calls, LAST_WORDS_NS);

    grpc_server_shutdown_and_notify(server->core, server->queue, server);
    if (!idle || !wait_for_none(server, &server->n_cores, GOODBYE_NS))
        grpc_server_cancel_all_calls(server->core);
}

void lam_rpc_server_shutdown(struct lam_rpc_server *server, uint64_t grace_ns)
{
    if (!server->started)
        return;
    assert(!pthread_equal(pthread_self(), server->thread));
    for (size_t i = 0; i < server->n_health; i++)
        lam_rpc_server_set_serving(server, server->health[i].name, false);
    lam_health_end(server);
    pthread_mutex_lock(&server->lock);
    server->leaving = true;
    pthread_mutex_unlock(&server->lock);
    (void)wait_for_none(
        server, &server->n_service_calls, grace_ns < GRACE_NS_MAX ? grace_ns : GRACE_NS_MAX);
    close_core(server);
    pthread_join(server->thread, NULL);
    server->started = false;
    destroy_core(server);
    remove_files(server);
}

void lam_rpc_server_destroy(struct lam_rpc_server *server)
{
    if (!server)
        return;
    assert(!server->started);
    for (size_t i = 0; server->listen && i < server->config.n_listen; i++)
        lam_free(server->listen[i]);
    for (size_t i = 0; i < server->n_health; i++)
        lam_free(server->health[i].name);
    lam_free(server->listen);
    lam_free(server->ports);
    lam_free(server->files);
    lam_free(server->routes);
    lam_free(server->health);
    lam_buf_done(&server->scratch);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    pthread_mutex_destroy(&server->health_lock);
    lam_free(server);
}
