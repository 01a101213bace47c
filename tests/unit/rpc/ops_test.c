/* ops: a real HTTP client in a few lines asks the real port. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/ops.h"

static const char *reason;

static bool write_metrics(void *arg, struct lam_buf *out)
{
    return lam_buf_text(out, arg);
}

static const char *unhealthy(void *arg)
{
    (void)arg;
    return reason;
}

static struct lam_ops *start(void)
{
    struct lam_ops_config config = {
        .listen = "127.0.0.1:0",
        .arg = (void *)(uintptr_t) "x 1\n",
        .write_metrics = write_metrics,
        .unhealthy = unhealthy,
    };
    struct lam_ops *ops = NULL;
    struct lam_err err = {0};

    assert_int_equal(lam_ops_start(&config, &ops, &err), LAM_OK);
    return ops;
}

/* Sends `request`, reads to the end of the connection. */
static void ask(int port, const char *request, char *answer, size_t answer_bytes)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr = {htonl(INADDR_LOOPBACK)},
    };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    size_t used = 0;
    ssize_t got;

    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(write(fd, request, strlen(request)), (ssize_t)strlen(request));
    while ((got = read(fd, answer + used, answer_bytes - used - 1)) > 0)
        used += (size_t)got;
    answer[used] = '\0';
    close(fd);
}

static void answers_metrics_health_and_nothing_else(void **state)
{
    static const struct {
        const char *request;
        const char *expected;
    } cases[] = {
        {"GET /metrics HTTP/1.0\r\n\r\n", "\r\n\r\nx 1\n"},
        {"GET /healthz HTTP/1.0\r\n\r\n", " 200 "},
        {"GET /etc/passwd HTTP/1.0\r\n\r\n", " 404 "},
        {"POST /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n", " 405 "},
    };
    struct lam_ops *ops = start();
    char answer[2048];

    (void)state;
    reason = NULL;
    ask(lam_ops_port(ops), "\x01\x02garbage\r\n\r\n", answer, sizeof answer); /* hurts nobody */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ask(lam_ops_port(ops), cases[i].request, answer, sizeof answer);
        if (!strstr(answer, cases[i].expected))
            fail_msg("'%s' was answered by '%s'", cases[i].request, answer);
    }
    reason = "no worker";
    ask(lam_ops_port(ops), cases[1].request, answer, sizeof answer);
    assert_non_null(strstr(answer, " 503 "));
    assert_non_null(strstr(answer, "no worker"));
    lam_ops_stop(ops);
}

static void refuses_bad_and_taken_addresses(void **state)
{
    static const char *const bad[] = {"", ":", "127.0.0.1", "127.0.0.1:", ":9000", "127.0.0.1:x"};
    struct lam_ops *ops = start();
    struct lam_ops *second = NULL;
    char taken[32];
    struct lam_ops_config config = {.write_metrics = write_metrics, .unhealthy = unhealthy};
    struct lam_err err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        config.listen = bad[i];
        assert_int_equal(lam_ops_start(&config, &second, &err), LAM_INVALID_ARGUMENT);
    }
    snprintf(taken, sizeof taken, "127.0.0.1:%d", lam_ops_port(ops));
    config.listen = taken;
    assert_int_equal(lam_ops_start(&config, &second, &err), LAM_ALREADY_EXISTS);
    assert_non_null(strstr(err.text, taken));
    assert_null(second);
    lam_ops_stop(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_metrics_health_and_nothing_else),
        cmocka_unit_test(refuses_bad_and_taken_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
