/* Tests of where a server listens, and of its errors when it cannot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/unit/rpc/echo.h"

#define SOON (60 * LAM_NS_PER_S) /* or it hangs */

/* Starts a second server on `address`; its status. */
static enum lam_status try_listen(const char *address, int *ret_port, struct lam_err *err)
{
    const struct lam_rpc_server_config config = {
        .listen = &address,
        .n_listen = 1,
        .message_bytes_max = 1 << 20,
        .calls_max = 10,
    };
    struct lam_rpc_server *server = NULL;
    enum lam_status status = lam_rpc_server_create(&config, &server, err);

    if (status == LAM_OK)
        status = lam_rpc_server_start(server, err);
    if (status == LAM_OK) {
        if (ret_port)
            *ret_port = lam_rpc_server_port(server, 0);
        lam_rpc_server_shutdown(server, 0);
    }
    lam_rpc_server_destroy(server);
    return status;
}

static void unix_path_of_a_live_server_is_refused(void **state)
{
    struct echo echo;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};

    (void)state;
    echo_start(&echo, "live");
    assert_int_equal(try_listen(echo.address, NULL, &err), LAM_ALREADY_EXISTS);
    assert_non_null(strstr(err.text, echo.address + 5));
    /* The first server still has its socket. */
    assert_int_equal(
        lam_rpc_unary(echo.channel, ECHO_UNARY, "here", 4, SOON, &answer, &err), LAM_OK);
    lam_buf_done(&answer);
    echo_stop(&echo);
}

static void abandoned_socket_is_replaced(void **state)
{
    struct sockaddr_un native = {.sun_family = AF_UNIX};
    struct lam_err err = {0};
    struct stat file;
    char address[128];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)state;
    echo_address(address, "stale");
    memcpy(native.sun_path, address + 5, strlen(address + 5) + 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&native, sizeof native), 0);
    assert_int_equal(listen(fd, 1), 0);
    close(fd); /* as a killed server leaves it */
    assert_int_equal(stat(address + 5, &file), 0);
    assert_int_equal(try_listen(address, NULL, &err), LAM_OK);
    assert_int_not_equal(stat(address + 5, &file), 0);
}

static void bad_unix_paths_are_named(void **state)
{
    struct lam_err err = {0};
    char address[256];
    FILE *file;

    (void)state;
    echo_address(address, "plainfile");
    file = fopen(address + 5, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(try_listen(address, NULL, &err), LAM_ALREADY_EXISTS);
    assert_non_null(strstr(err.text, "no socket"));
    assert_int_equal(unlink(address + 5), 0);

    assert_int_equal(try_listen("unix:/no/such/folder/x", NULL, &err), LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, "directory has to be there"));
    assert_non_null(strstr(err.text, "/no/such/folder/x"));
    assert_int_equal(try_listen("unix:", NULL, &err), LAM_INVALID_ARGUMENT);
    memset(address, 'a', sizeof address);
    memcpy(address, "unix:/tmp/", 10);
    address[5 + 108] = '\0';
    assert_int_equal(try_listen(address, NULL, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "107"));
}

/* With SO_REUSEPORT, the core's default, the second server would get the port as well. */
static void port_in_use_is_refused(void **state)
{
    struct sockaddr_in native = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n_bytes = sizeof native;
    struct lam_err err = {0};
    char address[64];
    int port = 0;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&native, sizeof native), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&native, &n_bytes), 0);
    snprintf(address, sizeof address, "127.0.0.1:%d", ntohs(native.sin_port));
    assert_int_equal(try_listen(address, &port, &err), LAM_ALREADY_EXISTS);
    assert_non_null(strstr(err.text, address));
    close(fd);
    assert_int_equal(try_listen("127.0.0.1:0", &port, &err), LAM_OK);
    assert_in_range(port, 1024, 65535);
}

static void bad_addresses_are_named(void **state)
{
    static const char *const bad[] = {"", "50051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
        "127.0.0.1:80x", "127.0.0.1:-1", ":80", "::1:80", "[::1]80", "[::1:80", "a b:80", "/tmp/x",
        "1.2.3.4:5:6"};
    struct lam_err err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err.text[0] = '\0';
        assert_int_equal(try_listen(bad[i], NULL, &err), LAM_INVALID_ARGUMENT);
        assert_non_null(strstr(err.text, bad[i]));
    }
    /* Of the documentation network: no interface here has it. */
    assert_int_equal(try_listen("192.0.2.1:0", NULL, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "192.0.2.1"));
}

static void too_few_open_files_are_refused(void **state)
{
    struct lam_err err = {0};
    struct rlimit before;
    int status = 0;
    pid_t child;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    /* A hard limit cannot be raised again: a thread of its own would not help, a process does. */
    child = fork();
    if (child == 0) {
        const struct rlimit low = {64, 64};
        int ok = setrlimit(RLIMIT_NOFILE, &low) == 0 &&
                 try_listen("127.0.0.1:0", NULL, &err) == LAM_FAILED_PRECONDITION &&
                 strstr(err.text, "ulimit -n");
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* The first address is bound when the second one fails: all of it is taken back. */
static void a_half_bound_server_leaves_nothing(void **state)
{
    char address[128];
    const char *listen_to[] = {address, "unix:/no/such/folder/x"};
    const struct lam_rpc_server_config config = {
        .listen = listen_to,
        .n_listen = 2,
        .message_bytes_max = 1 << 20,
        .calls_max = 10,
    };
    struct lam_rpc_server *server = NULL;
    struct lam_err err = {0};
    struct stat file;

    (void)state;
    echo_address(address, "half");
    assert_int_equal(lam_rpc_server_create(&config, &server, &err), LAM_OK);
    assert_int_equal(lam_rpc_server_start(server, &err), LAM_NOT_FOUND);
    assert_int_not_equal(stat(address + 5, &file), 0);
    lam_rpc_server_shutdown(server, 0); /* never started: nothing to do */
    lam_rpc_server_destroy(server);
    assert_int_equal(try_listen(address, NULL, &err), LAM_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(too_few_open_files_are_refused), /* forks: before gRPC has threads */
        cmocka_unit_test(unix_path_of_a_live_server_is_refused),
        cmocka_unit_test(abandoned_socket_is_replaced),
        cmocka_unit_test(bad_unix_paths_are_named),
        cmocka_unit_test(port_in_use_is_refused),
        cmocka_unit_test(bad_addresses_are_named),
        cmocka_unit_test(a_half_bound_server_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
