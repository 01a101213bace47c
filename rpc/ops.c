/* ops: see ops.h. */
#include "rpc/ops.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/mem.h"
#include "rpc/address.h"

#define PAGE_BYTES_MAX ((size_t)4 << 20)

struct lam_ops {
    struct lam_ops_config config;
    struct MHD_Daemon *daemon;
    int port;
};

static enum MHD_Result reply(
    struct MHD_Connection *connection, unsigned code, const char *text, size_t n_bytes)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(n_bytes, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    enum MHD_Result result;

    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; version=0.0.4");
    result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result reply_text(
    struct MHD_Connection *connection, unsigned code, const char *text)
{
    return reply(connection, code, text, strlen(text));
}

static enum MHD_Result reply_metrics(struct lam_ops *ops, struct MHD_Connection *connection)
{
    struct lam_buf page = LAM_BUF(PAGE_BYTES_MAX);
    enum MHD_Result result;

    if (ops->config.write_metrics(ops->config.arg, &page))
        result = reply(connection, MHD_HTTP_OK, page.data ? page.data : "", page.size);
    else
        result = reply_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory\n");
    lam_buf_done(&page);
    return result;
}

static enum MHD_Result answer(void *arg, struct MHD_Connection *connection, const char *url,
    const char *method, const char *version, const char *upload, size_t *upload_bytes, void **state)
{
    struct lam_ops *ops = arg;
    const char *reason;

    (void)version;
    (void)upload;
    (void)state;
    if (*upload_bytes > 0 || strcmp(method, MHD_HTTP_METHOD_GET) != 0)
        return reply_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET only\n");
    if (strcmp(url, "/metrics") == 0)
        return reply_metrics(ops, connection);
    if (strcmp(url, "/healthz") != 0)
        return reply_text(connection, MHD_HTTP_NOT_FOUND, "try /metrics or /healthz\n");
    reason = ops->config.unhealthy(ops->config.arg);
    return reason ? reply_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, reason)
                  : reply_text(connection, MHD_HTTP_OK, "ok\n");
}

static enum lam_status bind_socket(const char *listen_at, int *ret_fd, struct lam_err *err)
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

    if (getsockname(fd, &address.any, &length) != 0)
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
    status = bind_socket(config->listen, &fd, err);
    if (status != LAM_OK) {
        lam_free(ops);
        return status;
    }
    ops->port = bound_port(fd);
    ops->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, 0, NULL, NULL,
        &answer, ops, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, 32u,
        MHD_OPTION_CONNECTION_TIMEOUT, 10u, MHD_OPTION_END);
    if (!ops->daemon) {
        close(fd);
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
    MHD_stop_daemon(ops->daemon);
    lam_free(ops);
}
