/* ops: see ops.h. */
#include "rpc/ops.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/flag.h"
#include "common/mem.h"
#include "rpc/address.h"
#include "rpc/recording.h"

#define PAGE_BYTES_MAX ((size_t)4 << 20)
#define TRACE_BYTES_MAX ((size_t)64 << 20) /* about 200 for each of LAM_TRACE_SPANS */
#define CONTENT_TEXT "text/plain; version=0.0.4"
#define CONTENT_JSON "application/json"

struct lam_ops {
    struct lam_ops_config config;
    struct MHD_Daemon *daemon;
    int port;
    struct lam_address_file file; /* of a Unix socket */
    struct lam_recording recording;
};

static enum MHD_Result reply(struct MHD_Connection *connection, unsigned code, const char *type,
    const char *text, size_t n_bytes)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(n_bytes, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result result;

    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result reply_text(
    struct MHD_Connection *connection, unsigned code, const char *text)
{
    return reply(connection, code, CONTENT_TEXT, text, strlen(text));
}

static enum MHD_Result reply_metrics(struct lam_ops *ops, struct MHD_Connection *connection)
{
    struct lam_buf page = LAM_BUF(PAGE_BYTES_MAX);
    enum MHD_Result result;

    if (ops->config.write_metrics(ops->config.arg, &page))
        result =
            reply(connection, MHD_HTTP_OK, CONTENT_TEXT, page.data ? page.data : "", page.size);
    else
        result = reply_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory\n");
    lam_buf_done(&page);
    return result;
}

static enum MHD_Result reply_trace(
    struct lam_ops *ops, struct MHD_Connection *connection, const struct lam_trace_mark *mark)
{
    struct lam_trace_span *spans = lam_calloc(LAM_TRACE_SPANS, sizeof *spans);
    struct lam_trace_source source = {.process = ops->config.process, .pid = (int)getpid()};
    struct lam_buf page = LAM_BUF(TRACE_BYTES_MAX);
    enum MHD_Result result;
    size_t n = 0;

    if (spans)
        n = lam_trace_read(mark, spans, LAM_TRACE_SPANS, &source.lost);
    if (spans && lam_trace_write(&source, spans, n, &page))
        result = reply(connection, MHD_HTTP_OK, CONTENT_JSON, page.data, page.size);
    else
        result = reply_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory\n");
    lam_buf_done(&page);
    lam_free(spans);
    return result;
}

static void suspend(void *connection)
{
    MHD_suspend_connection(connection);
}

static void resume(void *connection)
{
    MHD_resume_connection(connection);
}

/*
 * Records, with the connection suspended meanwhile; then this is called again, with *state set.
 * on_completed ends the recording, however the connection ends.
 */
static enum MHD_Result answer_trace(
    struct lam_ops *ops, struct MHD_Connection *connection, void **state)
{
    const char *text = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "seconds");
    struct lam_err err = {0};
    enum lam_status status;
    int64_t seconds;

    if (*state)
        return reply_trace(ops, connection, &ops->recording.mark);
    if (!text && ops->config.record)
        return reply_trace(ops, connection, ops->config.record);
    if (!text || !lam_int_parse(text, 1, LAM_RECORDING_SECONDS_MAX, &seconds))
        return reply_text(
            connection, MHD_HTTP_BAD_REQUEST, "say for how long: /trace?seconds=N, 1 to 60\n");
    status =
        lam_recording_begin(&ops->recording, (uint64_t)seconds * LAM_NS_PER_S, connection, &err);
    if (status == LAM_OK) {
        *state = ops;
        return MHD_YES;
    }
    return reply_text(connection,
        status == LAM_ALREADY_EXISTS ? MHD_HTTP_CONFLICT : MHD_HTTP_SERVICE_UNAVAILABLE, err.text);
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
    enum MHD_RequestTerminationCode code)
{
    struct lam_ops *ops = arg;

    (void)connection;
    (void)code;
    if (*state)
        lam_recording_end(&ops->recording);
    *state = NULL;
}

static enum MHD_Result answer(void *arg, struct MHD_Connection *connection, const char *url,
    const char *method, const char *version, const char *upload, size_t *upload_bytes, void **state)
{
    struct lam_ops *ops = arg;
    const char *reason;

    (void)version;
    (void)upload;
    if (*upload_bytes > 0 || strcmp(method, MHD_HTTP_METHOD_GET) != 0)
        return reply_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET only\n");
    if (strcmp(url, "/metrics") == 0)
        return reply_metrics(ops, connection);
    if (strcmp(url, "/trace") == 0)
        return answer_trace(ops, connection, state);
    if (strcmp(url, "/healthz") != 0)
        return reply_text(
            connection, MHD_HTTP_NOT_FOUND, "try /metrics, /healthz or /trace?seconds=2\n");
    reason = ops->config.unhealthy(ops->config.arg);
    return reason ? reply_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, reason)
                  : reply_text(connection, MHD_HTTP_OK, "ok\n");
}

static enum lam_status bind_unix(const char *listen_at, int *ret_fd, struct lam_err *err)
{
    struct sockaddr_un native = {.sun_family = AF_UNIX};
    const char *path = lam_address_unix_path(listen_at);
    enum lam_status status = lam_address_claim(listen_at, err);
    int fd;

    if (status != LAM_OK)
        return status;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    memcpy(native.sun_path, path, strlen(path) + 1); /* the claim has checked its length */
    if (fd < 0 || bind(fd, (struct sockaddr *)&native, sizeof native) != 0 || listen(fd, 16) != 0) {
        status = lam_fail_errno(
            err, errno, "cannot listen on %.200s for /metrics; choose another --ops", listen_at);
        if (fd >= 0)
            close(fd);
        return status;
    }
    *ret_fd = fd;
    return LAM_OK;
}

static enum lam_status bind_tcp(const char *listen_at, int *ret_fd, struct lam_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *found = NULL;
    char host[LAM_ADDRESS_HOST_BYTES];
    const char *port;
    int one = 1;
    int fd;

    if (!lam_address_split(listen_at, host, &port) || getaddrinfo(host, port, &hints, &found) != 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "'%.200s' is no address for the ops port; write for example 127.0.0.1:9464", listen_at);
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 16) != 0) {
        enum lam_status status = lam_fail_errno(
            err, errno, "cannot listen on %.200s for /metrics; choose another --ops", listen_at);
        if (fd >= 0)
            close(fd);
        freeaddrinfo(found);
        return status;
    }
    freeaddrinfo(found);
    *ret_fd = fd;
    return LAM_OK;
}

static int bound_port(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t length = sizeof address;

    if (getsockname(fd, &address.any, &length) != 0 || address.any.sa_family == AF_UNIX)
        return 0;
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

enum lam_status lam_ops_start(
    const struct lam_ops_config *config, struct lam_ops **ret_ops, struct lam_err *err)
{
    struct lam_ops *ops = lam_calloc(1, sizeof *ops);
    enum lam_status status;
    int fd = -1;

    if (!ops)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the ops port");
    ops->config = *config;
    status = lam_address_unix_path(config->listen) ? bind_unix(config->listen, &fd, err)
                                                   : bind_tcp(config->listen, &fd, err);
    if (status != LAM_OK) {
        lam_free(ops);
        return status;
    }
    ops->port = bound_port(fd);
    lam_address_remember(config->listen, &ops->file);
    lam_recording_init(&ops->recording, suspend, resume);
    ops->daemon =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_ALLOW_SUSPEND_RESUME,
            0, NULL, NULL, &answer, ops, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
            32u, MHD_OPTION_CONNECTION_TIMEOUT, 10u, MHD_OPTION_NOTIFY_COMPLETED, &on_completed,
            ops, MHD_OPTION_END);
    if (!ops->daemon) {
        close(fd);
        lam_address_remove(config->listen, &ops->file);
        lam_recording_done(&ops->recording);
        lam_free(ops);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "cannot start the thread of the ops port");
    }
    *ret_ops = ops;
    return LAM_OK;
}

int lam_ops_port(const struct lam_ops *ops)
{
    return ops->port;
}

void lam_ops_stop(struct lam_ops *ops)
{
    if (!ops)
        return;
    lam_recording_close(&ops->recording); /* no connection may be suspended from here on */
    MHD_stop_daemon(ops->daemon);
    lam_address_remove(ops->config.listen, &ops->file);
    lam_recording_done(&ops->recording);
    lam_free(ops);
}
