/* handover: a descriptor and a token for each peer, and the truth about who is still there. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "loader/handover.h"

static char dir[32];
static char path[64];
static int pool_fd;
static atomic_uint n_gone;

static int set_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/lam-handover-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/pool.sock", dir);
    pool_fd = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(ftruncate(pool_fd, 8192), 0);
    assert_int_equal(pwrite(pool_fd, "hello", 5, 0), 5);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(pool_fd);
    return rmdir(dir);
}

static void on_gone(void *arg, const unsigned char *token, int pid)
{
    (void)arg;
    (void)token;
    assert_int_equal(pid, getpid());
    atomic_fetch_add(&n_gone, 1);
}

static enum lam_status start(struct lam_handover **ret_handover, struct lam_err *err)
{
    struct lam_handover_config config = {
        .path = path, .pool_fd = pool_fd, .pool_bytes = 8192, .on_gone = on_gone};

    atomic_store(&n_gone, 0);
    return lam_handover_start(&config, ret_handover, err);
}

static struct sockaddr_un address_of(const char *where)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", where);
    return address;
}

/* Connects and takes the greeting; the descriptor is checked and closed. False: no greeting. */
static bool take(int *ret_fd, struct lam_pool_greeting *greeting)
{
    struct sockaddr_un address = address_of(path);
    struct iovec part = {.iov_base = greeting, .iov_len = sizeof(*greeting)};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control)};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int given;
    char text[5];

    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    *ret_fd = fd;
    if (recvmsg(fd, &message, 0) <= 0)
        return false;
    memcpy(&given, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(given));
    assert_int_equal(pread(given, text, 5, 0), 5);
    assert_memory_equal(text, "hello", 5);
    close(given);
    return true;
}

static bool are_gone(unsigned n)
{
    uint64_t until = lam_now_ns() + 60 * LAM_NS_PER_S;

    while (atomic_load(&n_gone) < n && lam_now_ns() < until)
        lam_sleep_ns(LAM_NS_PER_MS);
    return atomic_load(&n_gone) == n;
}

static void a_peer_is_known_until_it_goes(void **state)
{
    struct lam_handover *handover = NULL;
    struct lam_pool_greeting a, b;
    int fd_a, fd_b;

    (void)state;
    assert_int_equal(start(&handover, NULL), LAM_OK);
    assert_true(take(&fd_a, &a));
    assert_true(take(&fd_b, &b));
    assert_int_equal(a.magic, LAM_POOL_MAGIC);
    assert_int_equal(a.pool_bytes, 8192);
    assert_memory_not_equal(a.token, b.token, sizeof(a.token));
    assert_true(lam_handover_knows(handover, a.token, sizeof(a.token)));
    assert_true(lam_handover_knows(handover, b.token, sizeof(b.token)));
    assert_false(lam_handover_knows(handover, a.token, sizeof(a.token) - 1));
    close(fd_a);
    assert_true(are_gone(1));
    assert_false(lam_handover_knows(handover, a.token, sizeof(a.token)));
    assert_true(lam_handover_knows(handover, b.token, sizeof(b.token)));
    /* A peer that speaks does not know the protocol. */
    assert_int_equal(send(fd_b, "x", 1, 0), 1);
    assert_true(are_gone(2));
    assert_false(lam_handover_knows(handover, b.token, sizeof(b.token)));
    close(fd_b);
    lam_handover_stop(handover);
}

static void more_peers_than_places_are_turned_away(void **state)
{
    struct lam_handover *handover = NULL;
    struct lam_pool_greeting greeting;
    int fds[LAM_HANDOVER_PEERS_MAX + 1];

    (void)state;
    assert_int_equal(start(&handover, NULL), LAM_OK);
    for (uint32_t i = 0; i < LAM_HANDOVER_PEERS_MAX; i++)
        assert_true(take(&fds[i], &greeting));
    assert_false(take(&fds[LAM_HANDOVER_PEERS_MAX], &greeting));
    close(fds[7]);
    assert_true(are_gone(1));
    assert_true(take(&fds[7], &greeting));
    for (uint32_t i = 0; i <= LAM_HANDOVER_PEERS_MAX; i++)
        close(fds[i]);
    lam_handover_stop(handover);
}

static void the_socket_of_a_dead_loader_is_replaced_and_of_a_live_one_not(void **state)
{
    struct sockaddr_un address = address_of(path);
    struct lam_handover *handover = NULL, *second = NULL;
    struct lam_err err = {0};
    struct stat info;
    int dead = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    (void)state;
    assert_int_equal(bind(dead, (struct sockaddr *)&address, sizeof(address)), 0);
    close(dead);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(start(&handover, &err), LAM_OK);
    assert_int_equal(start(&second, &err), LAM_ALREADY_EXISTS);
    assert_non_null(strstr(err.text, path));
    lam_handover_stop(handover);
    assert_int_equal(stat(path, &info), -1);
}

static void what_is_no_socket_is_left_alone(void **state)
{
    struct lam_handover *handover = NULL;
    struct lam_err err = {0};
    FILE *file = fopen(path, "w");

    (void)state;
    assert_non_null(file);
    fclose(file);
    assert_int_equal(start(&handover, &err), LAM_ALREADY_EXISTS);
    assert_int_equal(unlink(path), 0);
}

static void bad_paths_are_named(void **state)
{
    struct lam_handover *handover = NULL;
    struct lam_err err = {0};
    char saved[sizeof(path)];
    char endless[200];
    struct lam_handover_config config = {.path = endless, .pool_fd = pool_fd, .on_gone = on_gone};

    (void)state;
    memcpy(saved, path, sizeof(path));
    memset(endless, 'a', sizeof(endless));
    endless[sizeof(endless) - 1] = '\0';
    assert_int_equal(lam_handover_start(&config, &handover, &err), LAM_INVALID_ARGUMENT);
    snprintf(path, sizeof(path), "%s/nowhere/pool.sock", dir);
    assert_int_equal(start(&handover, &err), LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, "nowhere"));
    memcpy(path, saved, sizeof(path));
}

/* Without a descriptor left nobody new is served, and all else goes on; poll must not be asked for
 * more entries than the limit, or its thread would spin and never end. */
static void no_descriptors_are_only_a_delay(void **state)
{
    struct sockaddr_un address = address_of(path);
    struct lam_handover *handover = NULL;
    struct lam_pool_greeting greeting;
    struct rlimit old, none;
    int first, second = -1;
    char byte;

    (void)state;
    assert_int_equal(start(&handover, NULL), LAM_OK);
    assert_true(take(&first, &greeting));
    second = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = (rlim_t)second + 1;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(connect(second, (struct sockaddr *)&address, sizeof(address)), 0);
    lam_sleep_ns(50 * LAM_NS_PER_MS);
    assert_int_equal(recv(second, &byte, 1, 0), -1); /* not greeted */
    assert_true(lam_handover_knows(handover, greeting.token, sizeof(greeting.token)));
    close(first); /* gone, and known to be, and its descriptors are free for the other one */
    assert_true(are_gone(1));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(poll(&(struct pollfd){.fd = second, .events = POLLIN}, 1, 60000), 1);
    close(second);
    assert_true(are_gone(2));

    none.rlim_cur = 24;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_true(take(&first, &greeting)); /* wakes the thread, which then waits again */
    lam_handover_stop(handover);
    close(first);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_peer_is_known_until_it_goes),
        cmocka_unit_test(more_peers_than_places_are_turned_away),
        cmocka_unit_test(the_socket_of_a_dead_loader_is_replaced_and_of_a_live_one_not),
        cmocka_unit_test(what_is_no_socket_is_left_alone),
        cmocka_unit_test(bad_paths_are_named),
        cmocka_unit_test(no_descriptors_are_only_a_delay),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
