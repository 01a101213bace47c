/* pool_map: see pool_map.h. */
#include "worker/pool_map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/map.h"

#define POOL_RETRY_NS (20 * LAM_NS_PER_MS)
#define POOL_FDS_MAX 4 /* one is right; room to see, and close, what a wrong peer sends */

/* A connected socket, or -1 with errno. The greeting must come before `timeout_ns`. */
static int dial(const struct sockaddr_un *address, uint64_t timeout_ns)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct timeval timeout = {
        .tv_sec = (time_t)(timeout_ns / LAM_NS_PER_S),
        .tv_usec = (suseconds_t)(timeout_ns % LAM_NS_PER_S / 1000),
    };

    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0 ||
        connect(fd, (const struct sockaddr *)address, sizeof *address) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* The loader may still be starting: its socket is tried until the time is up. */
static enum lam_status dial_until(
    const char *path, uint64_t timeout_ns, int *ret_fd, struct lam_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint64_t begin_ns = lam_now_ns();
    int fd;

    if (strlen(path) >= sizeof address.sun_path)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "pool socket \"%s\": the path is longer than %zu bytes, which no Unix socket can have",
            path, sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    while ((fd = dial(&address, timeout_ns)) < 0) {
        if (errno != ENOENT && errno != ECONNREFUSED && errno != EINTR)
            return lam_fail_errno(err, errno, "cannot use the pool socket \"%s\"", path);
        if (lam_now_ns() - begin_ns > timeout_ns)
            return lam_fail(err, LAM_UNAVAILABLE,
                "no loader at the pool socket \"%s\": start laminar-loader, or check --pool-socket",
                path);
        lam_sleep_ns(POOL_RETRY_NS);
    }
    *ret_fd = fd;
    return LAM_OK;
}

/* Receives the greeting; every descriptor in it goes to fds, also of a greeting that is wrong. */
static ssize_t receive(int connection, struct lam_pool_greeting *greeting, int *fds, int *ret_n_fds)
{
    union {
        char bytes[CMSG_SPACE(POOL_FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = greeting, .iov_len = sizeof *greeting};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    ssize_t n_bytes;

    do {
        n_bytes = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
    } while (n_bytes < 0 && errno == EINTR);
    *ret_n_fds = 0;
    if (n_bytes < 0)
        return n_bytes;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        int n_here;
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        n_here = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds + *ret_n_fds, CMSG_DATA(c), (size_t)n_here * sizeof(int));
        *ret_n_fds += n_here;
    }
    return message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? 0 : n_bytes;
}

/* Why this memfd cannot be the pool that the greeting promises; NULL when it is. */
static const char *defect_of(const struct lam_pool_greeting *greeting, int fd)
{
    struct stat stat;
    int seals;

    if (greeting->magic != LAM_POOL_MAGIC)
        return "it begins with a wrong magic number";
    if (fstat(fd, &stat) != 0 || stat.st_size < 0 || greeting->pool_bytes == 0 ||
        (uint64_t)stat.st_size != greeting->pool_bytes || greeting->pool_bytes > SIZE_MAX)
        return "the memory is not as large as it says";
    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
        return "the memory is not sealed against shrinking";
    return NULL;
}

static enum lam_status map_greeted(const char *path, const struct lam_pool_greeting *greeting,
    int fd, struct lam_pool_map *map, struct lam_err *err)
{
    const char *defect = defect_of(greeting, fd);
    void *base;

    if (defect)
        return lam_fail(err, LAM_DATA_LOSS,
            "the greeting on pool socket \"%s\" is not a loader's: %s (is it another program, or "
            "another version?)",
            path, defect);
    base = lam_map_shared(fd, greeting->pool_bytes, PROT_READ);
    if (base == MAP_FAILED)
        return lam_fail_errno(err, errno, "cannot map the loader's pool of %llu bytes",
            (unsigned long long)greeting->pool_bytes);
    map->base = base;
    map->bytes = greeting->pool_bytes;
    memcpy(map->token, greeting->token, sizeof map->token);
    return LAM_OK;
}

enum lam_status lam_pool_map_open(
    const char *path, uint64_t timeout_ns, struct lam_pool_map *ret_map, struct lam_err *err)
{
    struct lam_pool_map map = {0};
    struct lam_pool_greeting greeting = {0};
    int fds[POOL_FDS_MAX + 1]; /* the kernel may use the padding of the control buffer */
    int n_fds;
    ssize_t n_bytes;
    enum lam_status status = dial_until(path, timeout_ns, &map.connection, err);

    if (status != LAM_OK)
        return status;
    n_bytes = receive(map.connection, &greeting, fds, &n_fds);
    if (n_bytes != (ssize_t)sizeof greeting || n_fds != 1)
        status = lam_fail(err, LAM_UNAVAILABLE,
            "the loader at pool socket \"%s\" sent %zd bytes and %d descriptors instead of %zu "
            "and 1 (did it refuse this process?)",
            path, n_bytes, n_fds, sizeof greeting);
    else
        status = map_greeted(path, &greeting, fds[0], &map, err);
    for (int i = 0; i < n_fds; i++)
        close(fds[i]);
    if (status != LAM_OK) {
        close(map.connection);
        return status;
    }
    *ret_map = map;
    return LAM_OK;
}

void lam_pool_map_close(struct lam_pool_map *map)
{
    if (!map->base)
        return;
    munmap((void *)map->base, map->bytes);
    close(map->connection);
    *map = (struct lam_pool_map){0};
}
