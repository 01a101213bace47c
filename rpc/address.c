/* address: see address.h. */
#include "rpc/address.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/flag.h"

#define PORT_MAX 65535

const char *lam_address_unix_path(const char *address)
{
    return strncmp(address, "unix:", 5) == 0 ? address + 5 : NULL;
}

bool lam_address_split(
    const char *address, char host[LAM_ADDRESS_HOST_BYTES], const char **ret_port)
{
    const char *colon = strrchr(address, ':');
    const char *begin = address;
    const char *end = colon;
    int64_t port;

    if (!colon || colon == address || !lam_int_parse(colon + 1, 0, PORT_MAX, &port))
        return false;
    if (*begin == '[') {
        begin++;
        end--;
        if (*end != ']')
            return false;
    } else if (memchr(begin, ':', (size_t)(end - begin))) {
        return false;
    }
    if (end <= begin || end - begin >= LAM_ADDRESS_HOST_BYTES)
        return false;
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    *ret_port = colon + 1;
    return strpbrk(host, "/ ,%") == NULL;
}

static enum lam_status check_unix_path(const char *path, struct lam_err *err)
{
    struct sockaddr_un native;

    if (path[0] == '\0')
        return lam_fail(
            err, LAM_INVALID_ARGUMENT, "'unix:' needs a path: for example unix:/run/l.sock");
    if (strlen(path) >= sizeof native.sun_path)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "the socket path '%.120s' has %zu bytes, the system takes %zu: choose a shorter folder",
            path, strlen(path), sizeof native.sun_path - 1);
    return LAM_OK;
}

enum lam_status lam_address_check(const char *address, bool listening, struct lam_err *err)
{
    const char *path = lam_address_unix_path(address);
    char host[LAM_ADDRESS_HOST_BYTES];
    const char *port;

    if (path)
        return check_unix_path(path, err);
    if (!lam_address_split(address, host, &port) ||
        (!listening && strspn(port, "0") == strlen(port)))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "'%.200s' is no address: write for example 127.0.0.1:50051, [::1]:50051 or "
            "unix:/run/laminar.sock",
            address);
    return LAM_OK;
}

/* A socket file is in the way. A connection tells whether anybody lives behind it. */
static enum lam_status probe_socket_file(const char *path, struct lam_err *err)
{
    struct sockaddr_un native = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int native_errno = 0;

    if (fd < 0)
        return lam_fail_errno(err, errno, "cannot make a socket to look at %s", path);
    memcpy(native.sun_path, path, strlen(path) + 1);
    if (connect(fd, (struct sockaddr *)&native, sizeof native) != 0)
        native_errno = errno;
    close(fd);
    switch (native_errno) {
    case ENOENT:
        return LAM_OK;
    case ECONNREFUSED:
        break;
    case EACCES:
        return lam_fail(err, LAM_PERMISSION_DENIED,
            "the socket %s belongs to somebody else: choose another path", path);
    default: /* connected, a full backlog (EAGAIN), another kind of socket (EPROTOTYPE) */
        return lam_fail(err, LAM_ALREADY_EXISTS,
            "a running server listens on %s: stop it or choose another path", path);
    }
    if (unlink(path) != 0 && errno != ENOENT)
        return lam_fail_errno(err, errno, "cannot remove the abandoned socket %s", path);
    return LAM_OK;
}

static enum lam_status claim_unix(const char *path, struct lam_err *err)
{
    struct sockaddr_un native = {.sun_family = AF_UNIX};
    struct stat file;
    int native_errno = 0;
    int fd;

    if (lstat(path, &file) == 0) {
        enum lam_status status;
        if (!S_ISSOCK(file.st_mode))
            return lam_fail(
                err, LAM_ALREADY_EXISTS, "%s is there and is no socket: choose another path", path);
        status = probe_socket_file(path, err);
        if (status != LAM_OK)
            return status;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return lam_fail_errno(err, errno, "cannot make a socket for %s", path);
    memcpy(native.sun_path, path, strlen(path) + 1);
    if (bind(fd, (struct sockaddr *)&native, sizeof native) != 0)
        native_errno = errno;
    else
        unlink(path);
    close(fd);
    if (native_errno != 0)
        return lam_fail_errno(err, native_errno,
            "cannot listen on unix:%s (its directory has to be there and writable; or choose "
            "another path)",
            path);
    return LAM_OK;
}

static enum lam_status explain_bind(const char *address, int native_errno, struct lam_err *err)
{
    switch (native_errno) {
    case EADDRINUSE:
        return lam_fail(err, LAM_ALREADY_EXISTS,
            "%s is in use by another program: stop it or choose another port", address);
    case EACCES:
        return lam_fail(err, LAM_PERMISSION_DENIED,
            "no permission to listen on %s: choose a port above 1023", address);
    case EADDRNOTAVAIL:
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "no network interface of this machine has the address %s: try 0.0.0.0 with the same "
            "port",
            address);
    default:
        return lam_fail_errno(err, native_errno, "cannot listen on %s", address);
    }
}

static enum lam_status claim_tcp(const char *address, struct lam_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char host[LAM_ADDRESS_HOST_BYTES];
    const char *port;
    const int on = 1;
    int native_errno = 0;
    int fd;
    int code;

    if (!lam_address_split(address, host, &port))
        return lam_address_check(address, true, err);
    code = getaddrinfo(host, port, &hints, &found);
    if (code != 0)
        return lam_fail(
            err, LAM_INVALID_ARGUMENT, "cannot listen on %.200s: %s", address, gai_strerror(code));
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        native_errno = errno;
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0)
        native_errno = errno;
    if (native_errno == 0 && bind(fd, found->ai_addr, found->ai_addrlen) != 0)
        native_errno = errno;
    if (fd >= 0)
        close(fd);
    freeaddrinfo(found);
    return native_errno == 0 ? LAM_OK : explain_bind(address, native_errno, err);
}

enum lam_status lam_address_claim(const char *address, struct lam_err *err)
{
    const char *path = lam_address_unix_path(address);
    enum lam_status status = lam_address_check(address, true, err);

    if (status != LAM_OK)
        return status;
    return path ? claim_unix(path, err) : claim_tcp(address, err);
}

void lam_address_remember(const char *address, struct lam_address_file *ret_file)
{
    const char *path = lam_address_unix_path(address);
    struct stat file;

    *ret_file = (struct lam_address_file){0};
    if (path && lstat(path, &file) == 0)
        *ret_file = (struct lam_address_file){file.st_dev, file.st_ino, true};
}

void lam_address_remove(const char *address, const struct lam_address_file *file)
{
    const char *path = lam_address_unix_path(address);
    struct stat now;

    if (path && file->known && lstat(path, &now) == 0 && now.st_dev == file->device &&
        now.st_ino == file->inode)
        unlink(path);
}
