/* ops_get: the client of the operations port: one GET by HTTP/1.0, which ends with the connection.
 */
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/flag.h"
#include "rpc/address.h"
#include "rpc/ops.h"

#define HEAD_BYTES_MAX 8192u
#define READ_BYTES 65536u

/* One conversation. */
struct ask {
    const char *address;
    uint64_t end_ns;
    int fd;
    struct lam_buf *out;
    size_t begin; /* of the answer in *out */
};

/* Waits until the socket is ready. */
static enum lam_status await(const struct ask *ask, short events, struct lam_err *err)
{
    struct pollfd ready = {.fd = ask->fd, .events = events};
    uint64_t now_ns;
    int n;

    do {
        uint64_t left_ns;

        now_ns = lam_now_ns();
        left_ns = now_ns < ask->end_ns ? ask->end_ns - now_ns : 0;
        n = poll(&ready, 1, (int)((left_ns + LAM_NS_PER_MS - 1) / LAM_NS_PER_MS));
    } while (n < 0 && errno == EINTR);
    if (n > 0)
        return LAM_OK;
    return lam_fail(err, LAM_DEADLINE_EXCEEDED, "%.200s does not answer in time", ask->address);
}

static enum lam_status finish_connect(const struct ask *ask, int native_errno, struct lam_err *err)
{
    socklen_t length = sizeof native_errno;
    enum lam_status status;

    if (native_errno == EINPROGRESS) {
        status = await(ask, POLLOUT, err);
        if (status != LAM_OK)
            return status;
        if (getsockopt(ask->fd, SOL_SOCKET, SO_ERROR, &native_errno, &length) != 0)
            native_errno = errno;
    }
    if (native_errno == 0)
        return LAM_OK;
    return lam_fail(err, LAM_UNAVAILABLE,
        "nobody answers on %.200s (%s): give the service --ops with this address", ask->address,
        strerror(native_errno));
}

static enum lam_status connect_unix(struct ask *ask, const char *path, struct lam_err *err)
{
    struct sockaddr_un native = {.sun_family = AF_UNIX};

    ask->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (ask->fd < 0)
        return lam_fail_errno(err, errno, "cannot make a socket");
    memcpy(native.sun_path, path, strlen(path) + 1); /* its length was checked */
    if (connect(ask->fd, (struct sockaddr *)&native, sizeof native) != 0)
        return finish_connect(ask, errno, err);
    return LAM_OK;
}

static enum lam_status connect_tcp(struct ask *ask, struct lam_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char host[LAM_ADDRESS_HOST_BYTES];
    enum lam_status status = LAM_OK;
    const char *port;
    int code;

    if (!lam_address_split(ask->address, host, &port))
        return lam_address_check(ask->address, false, err);
    code = getaddrinfo(host, port, &hints, &found);
    if (code != 0)
        return lam_fail(err, LAM_UNAVAILABLE, "cannot find the host of %.200s: %s", ask->address,
            gai_strerror(code));
    ask->fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (ask->fd < 0)
        status = lam_fail_errno(err, errno, "cannot make a socket");
    else if (connect(ask->fd, found->ai_addr, found->ai_addrlen) != 0)
        status = finish_connect(ask, errno, err);
    freeaddrinfo(found);
    return status;
}

static enum lam_status send_all(
    const struct ask *ask, const char *bytes, size_t n_bytes, struct lam_err *err)
{
    size_t sent = 0;

    while (sent < n_bytes) {
        ssize_t n = send(ask->fd, bytes + sent, n_bytes - sent, MSG_NOSIGNAL);
        enum lam_status status = LAM_OK;

        if (n >= 0)
            sent += (size_t)n;
        else if (errno == EAGAIN)
            status = await(ask, POLLOUT, err);
        else if (errno != EINTR)
            status = lam_fail(err, LAM_UNAVAILABLE, "%.200s: %s", ask->address, strerror(errno));
        if (status != LAM_OK)
            return status;
    }
    return LAM_OK;
}

/* To the end of the connection. */
static enum lam_status read_all(const struct ask *ask, struct lam_err *err)
{
    char bytes[READ_BYTES];

    for (;;) {
        ssize_t n = recv(ask->fd, bytes, sizeof bytes, 0);
        enum lam_status status = LAM_OK;

        if (n == 0)
            return LAM_OK;
        if (n > 0 && !lam_buf_append(ask->out, bytes, (size_t)n))
            status = lam_fail(err, LAM_RESOURCE_EXHAUSTED,
                "the answer of %.200s is too long, or there is no memory", ask->address);
        else if (n < 0 && errno == EAGAIN)
            status = await(ask, POLLIN, err);
        else if (n < 0 && errno != EINTR)
            status = lam_fail(err, LAM_UNAVAILABLE, "%.200s: %s", ask->address, strerror(errno));
        if (status != LAM_OK)
            return status;
    }
}

/* The value of Content-Length in head, or -1. */
static int64_t content_length(const char *head)
{
    static const char name[] = "\r\ncontent-length:";
    const char *at = strcasestr(head, name);
    int64_t length = -1;
    char digits[24];
    size_t n;

    if (at == NULL)
        return -1;
    at += strlen(name);
    at += strspn(at, " ");
    n = strspn(at, "0123456789");
    if (n == 0 || n >= sizeof digits)
        return -1;
    memcpy(digits, at, n);
    digits[n] = '\0';
    return lam_int_parse(digits, 0, INT64_MAX, &length) ? length : -1;
}

/* The code of "HTTP/1.1 200 OK", or 0. */
static int status_code(const char *answer)
{
    int code = 0;

    if (strncmp(answer, "HTTP/1.", 7) != 0 || answer[7] == '\0' || answer[8] != ' ')
        return 0;
    for (int i = 9; i < 12; i++) {
        if (answer[i] < '0' || answer[i] > '9')
            return 0;
        code = 10 * code + answer[i] - '0';
    }
    return code;
}

/* Checks the head of the answer and takes it off. */
static enum lam_status take_head(const struct ask *ask, struct lam_err *err)
{
    char *answer = ask->out->data == NULL ? NULL : ask->out->data + ask->begin;
    char *end = answer == NULL ? NULL : strstr(answer, "\r\n\r\n");
    size_t head_bytes, body_bytes;
    int code = end == NULL || end - answer > HEAD_BYTES_MAX ? 0 : status_code(answer);

    if (code == 0)
        return lam_fail(err, LAM_DATA_LOSS,
            "what listens on %.200s is no operations port: it does not speak HTTP", ask->address);
    *end = '\0';
    head_bytes = (size_t)(end + 4 - answer);
    body_bytes = ask->out->size - ask->begin - head_bytes;
    if (content_length(answer) != (int64_t)body_bytes)
        return lam_fail(
            err, LAM_DATA_LOSS, "%.200s has sent half an answer: ask again", ask->address);
    memmove(answer, answer + head_bytes, body_bytes + 1);
    ask->out->size -= head_bytes;
    if (code == 200)
        return LAM_OK;
    return lam_fail(err, LAM_FAILED_PRECONDITION, "%.200s answers with status %d: %.*s",
        ask->address, code, (int)strcspn(answer, "\r\n"), answer);
}

enum lam_status lam_ops_get(const char *address, const char *path, uint64_t timeout_ns,
    struct lam_buf *out, struct lam_err *err)
{
    struct ask ask = {.address = address,
        .end_ns = lam_now_ns() + timeout_ns,
        .fd = -1,
        .out = out,
        .begin = out->size};
    char request[256];
    int length = snprintf(request, sizeof request,
        "GET %s HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    enum lam_status status = lam_address_check(address, false, err);

    if (status != LAM_OK)
        return status;
    if (length < 0 || (size_t)length >= sizeof request)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "the path is too long");
    status = lam_address_unix_path(address) != NULL
                 ? connect_unix(&ask, lam_address_unix_path(address), err)
                 : connect_tcp(&ask, err);
    if (status == LAM_OK)
        status = send_all(&ask, request, (size_t)length, err);
    if (status == LAM_OK)
        status = read_all(&ask, err);
    if (ask.fd >= 0)
        close(ask.fd);
    return status == LAM_OK ? take_head(&ask, err) : status;
}
