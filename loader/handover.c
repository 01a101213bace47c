/* handover: see the header. The peers' table is guarded by a lock; the thread alone changes it. */
#include "loader/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

struct peer {
    int fd; /* -1: free */
    int pid_fd;
    int pid;
    unsigned char token[LAM_POOL_TOKEN_BYTES];
};

struct lam_handover {
    struct lam_handover_config config;
    struct sockaddr_un address;
    int listen_fd;
    int stop_fd;
    dev_t socket_dev; /* of the socket file, so that only our own is removed */
    ino_t socket_ino;
    pthread_t thread;
    pthread_mutex_t lock;
    struct peer peers[LAM_HANDOVER_PEERS_MAX];
};

/* ---- one peer ---- */

static bool send_greeting(const struct lam_handover *handover, const struct peer *peer)
{
    struct lam_pool_greeting greeting = {
        .magic = LAM_POOL_MAGIC, .pool_bytes = handover->config.pool_bytes};
    struct iovec part = {.iov_base = &greeting, .iov_len = sizeof(greeting)};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *header;

    memset(&control, 0, sizeof(control));
    memcpy(greeting.token, peer->token, sizeof(greeting.token));
    header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &handover->config.pool_fd, sizeof(int));
    return sendmsg(peer->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(greeting);
}

/* A descriptor that becomes readable when the process ends, or -1. */
static int open_pid_fd(int fd, int *ret_pid)
{
    struct ucred who;
    socklen_t n_bytes = sizeof(who);
    int pid_fd;

    *ret_pid = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n_bytes) != 0 || who.pid <= 0)
        return -1;
    *ret_pid = who.pid;
    n_bytes = sizeof(pid_fd);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pid_fd, &n_bytes) == 0)
        return pid_fd;
    return (int)syscall(SYS_pidfd_open, who.pid, 0);
}

static void close_peer(struct peer *peer)
{
    if (peer->pid_fd >= 0)
        close(peer->pid_fd);
    close(peer->fd);
    *peer = (struct peer){.fd = -1, .pid_fd = -1};
}

static void accept_peer(struct lam_handover *handover)
{
    struct peer peer = {.pid_fd = -1};
    struct peer *place = NULL;

    peer.fd = accept4(handover->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (peer.fd < 0) {
        /* Out of descriptors, or the peer left. In the first case poll would return at once. */
        lam_sleep_ns(10 * LAM_NS_PER_MS);
        return;
    }
    for (uint32_t i = 0; i < LAM_HANDOVER_PEERS_MAX && place == NULL; i++) {
        if (handover->peers[i].fd < 0)
            place = &handover->peers[i];
    }
    if (place == NULL ||
        getrandom(peer.token, sizeof(peer.token), 0) != (ssize_t)sizeof(peer.token)) {
        close(peer.fd);
        return;
    }
    peer.pid_fd = open_pid_fd(peer.fd, &peer.pid);
    /* Known before it is greeted: the token may come back at once. */
    pthread_mutex_lock(&handover->lock);
    *place = peer;
    pthread_mutex_unlock(&handover->lock);
    if (send_greeting(handover, &peer))
        return;
    pthread_mutex_lock(&handover->lock);
    close_peer(place);
    pthread_mutex_unlock(&handover->lock);
}

static void drop_peer(struct lam_handover *handover, struct peer *peer)
{
    struct peer gone = *peer;

    pthread_mutex_lock(&handover->lock);
    close_peer(peer);
    pthread_mutex_unlock(&handover->lock);
    handover->config.on_gone(handover->config.arg, gone.token, gone.pid);
}

/* ---- the thread ---- */

/* What to wait for, without gaps: poll refuses more entries than a process may have descriptors,
 * used or not. waits, peers: [2 + 2 * LAM_HANDOVER_PEERS_MAX]. Returns how many. */
static nfds_t gather(struct lam_handover *handover, struct pollfd *waits, struct peer **peers)
{
    nfds_t n = 0;

    waits[n++] = (struct pollfd){.fd = handover->stop_fd, .events = POLLIN};
    waits[n++] = (struct pollfd){.fd = handover->listen_fd, .events = POLLIN};
    for (uint32_t i = 0; i < LAM_HANDOVER_PEERS_MAX; i++) {
        struct peer *peer = &handover->peers[i];

        if (peer->fd < 0)
            continue;
        peers[n] = peer;
        waits[n++] = (struct pollfd){.fd = peer->fd, .events = POLLIN};
        if (peer->pid_fd < 0)
            continue;
        peers[n] = peer;
        waits[n++] = (struct pollfd){.fd = peer->pid_fd, .events = POLLIN};
    }
    return n;
}

static void *run(void *arg)
{
    struct lam_handover *handover = arg;
    struct pollfd waits[2 + 2 * LAM_HANDOVER_PEERS_MAX];
    struct peer *peers[2 + 2 * LAM_HANDOVER_PEERS_MAX];

    for (;;) {
        nfds_t n = gather(handover, waits, peers);

        if (poll(waits, n, -1) < 0)
            continue; /* EINTR */
        if (waits[0].revents != 0)
            return NULL;
        for (nfds_t i = 2; i < n; i++) {
            /* Peers have nothing to say: whatever comes on the connection is its end. */
            if (waits[i].revents != 0 && peers[i]->fd >= 0)
                drop_peer(handover, peers[i]);
        }
        if (waits[1].revents != 0)
            accept_peer(handover);
    }
}

bool lam_handover_knows(struct lam_handover *handover, const void *token, size_t token_bytes)
{
    bool known = false;

    if (token_bytes != LAM_POOL_TOKEN_BYTES)
        return false;
    pthread_mutex_lock(&handover->lock);
    for (uint32_t i = 0; i < LAM_HANDOVER_PEERS_MAX; i++)
        known = known || (handover->peers[i].fd >= 0 &&
                             memcmp(handover->peers[i].token, token, token_bytes) == 0);
    pthread_mutex_unlock(&handover->lock);
    return known;
}

/* ---- life ---- */

/* A socket on which nobody listens is what a killed loader left. Any other file refuses a
 * connection too, and is somebody's. */
static bool is_leftover(const struct sockaddr_un *address)
{
    struct stat info;
    bool refused = false;
    int fd;

    if (stat(address->sun_path, &info) != 0 || !S_ISSOCK(info.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0)
        refused = errno == ECONNREFUSED;
    close(fd);
    return refused;
}

/* bind, after the removal of a leftover. Returns 0 or an errno. */
static int bind_to(int fd, const struct sockaddr_un *address)
{
    const struct sockaddr *generic = (const struct sockaddr *)address;
    int error = bind(fd, generic, sizeof(*address)) == 0 ? 0 : errno;

    if (error != EADDRINUSE || !is_leftover(address))
        return error;
    unlink(address->sun_path);
    return bind(fd, generic, sizeof(*address)) == 0 ? 0 : errno;
}

static enum lam_status listen_on(struct lam_handover *handover, struct lam_err *err)
{
    const char *path = handover->config.path;
    struct stat made;
    int error;

    handover->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (handover->listen_fd < 0)
        return lam_fail_errno(err, errno, "cannot make the pool socket");
    error = bind_to(handover->listen_fd, &handover->address);
    if (error == EADDRINUSE)
        return lam_fail(err, LAM_ALREADY_EXISTS,
            "the pool socket %s is in use: stop the other loader, or give another --pool-socket",
            path);
    if (error == 0 && stat(path, &made) != 0)
        error = errno;
    if (error != 0)
        return lam_fail_errno(err, error,
            "cannot make the pool socket %s (its directory has to be there and writable; or give "
            "another --pool-socket)",
            path);
    handover->socket_dev = made.st_dev;
    handover->socket_ino = made.st_ino;
    if (listen(handover->listen_fd, LAM_HANDOVER_PEERS_MAX) != 0)
        return lam_fail_errno(err, errno, "cannot listen on the pool socket %s", path);
    return LAM_OK;
}

static void free_handover(struct lam_handover *handover)
{
    struct stat now;

    for (uint32_t i = 0; i < LAM_HANDOVER_PEERS_MAX; i++) {
        if (handover->peers[i].fd >= 0)
            close_peer(&handover->peers[i]);
    }
    if (handover->listen_fd >= 0)
        close(handover->listen_fd);
    if (handover->stop_fd >= 0)
        close(handover->stop_fd);
    if (handover->socket_ino != 0 && stat(handover->address.sun_path, &now) == 0 &&
        now.st_dev == handover->socket_dev && now.st_ino == handover->socket_ino)
        unlink(handover->address.sun_path);
    pthread_mutex_destroy(&handover->lock);
    lam_free(handover);
}

enum lam_status lam_handover_start(const struct lam_handover_config *config,
    struct lam_handover **ret_handover, struct lam_err *err)
{
    struct lam_handover *handover;
    enum lam_status status;
    int error;

    if (strlen(config->path) >= sizeof(handover->address.sun_path))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the pool socket's path %s is longer than the %zu bytes of a Unix socket: give a "
            "shorter one",
            config->path, sizeof(handover->address.sun_path) - 1);
    handover = lam_calloc(1, sizeof(*handover));
    if (handover == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the pool socket");
    handover->config = *config;
    handover->address.sun_family = AF_UNIX;
    memcpy(handover->address.sun_path, config->path, strlen(config->path) + 1);
    handover->listen_fd = -1;
    for (uint32_t i = 0; i < LAM_HANDOVER_PEERS_MAX; i++)
        handover->peers[i] = (struct peer){.fd = -1, .pid_fd = -1};
    pthread_mutex_init(&handover->lock, NULL);
    handover->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (handover->stop_fd < 0) {
        status = lam_fail_errno(err, errno, "cannot make an eventfd for the pool socket");
        goto fail;
    }
    status = listen_on(handover, err);
    if (status != LAM_OK)
        goto fail;
    error = pthread_create(&handover->thread, NULL, run, handover);
    if (error != 0) {
        status = lam_fail_errno(err, error, "cannot start the thread of the pool socket");
        goto fail;
    }
    *ret_handover = handover;
    return LAM_OK;

fail:
    free_handover(handover);
    return status;
}

void lam_handover_stop(struct lam_handover *handover)
{
    uint64_t one = 1;

    if (handover == NULL)
        return;
    lam_ignore(write(handover->stop_fd, &one, sizeof(one)) < 0, "an empty eventfd takes 1");
    pthread_join(handover->thread, NULL);
    free_handover(handover);
}
