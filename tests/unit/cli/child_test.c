/* child_test: one child process: how its end is told, what of its log is kept, who dies with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/child.h"

static struct lam_child spawn_shell(const char *script)
{
    static char shell[] = "sh";
    static char flag[] = "-c";
    char text[2048];
    char *argv[] = {shell, flag, text, NULL};
    struct lam_child child = lam_child_none("worker");
    struct lam_err err = {0};

    snprintf(text, sizeof text, "%s", script);
    assert_int_equal(lam_child_spawn(&child, "/bin/sh", argv, &err), LAM_OK);
    return child;
}

static void wait_for_end(struct lam_child *child)
{
    struct pollfd fd = {.fd = child->pidfd, .events = POLLIN};

    assert_int_equal(poll(&fd, 1, 60000), 1);
    assert_true(lam_child_ended(child));
    lam_child_read_log(child, false);
}

/* Runs the script and checks how its end is told. */
static void expect_end(const char *script, enum lam_status status, const char *text)
{
    struct lam_child child = spawn_shell(script);
    struct lam_err err = {0};

    wait_for_end(&child);
    assert_int_equal(lam_child_explain(&child, &err), status);
    assert_string_equal(err.text, text);
    lam_child_done(&child);
}

static void test_ends(void **state)
{
    (void)state;
    expect_end("echo one; echo two >&2; exit 1", LAM_UNAVAILABLE, "the worker ended: two");
    expect_end("printf 'no newline'; exit 1", LAM_UNAVAILABLE, "the worker ended: no newline");
    expect_end(
        "echo laminar-worker: bad flag; exit 2", LAM_UNAVAILABLE, "the worker ended: bad flag");
    expect_end("echo too big; exit 3", LAM_RESOURCE_EXHAUSTED, "the worker ended: too big");
    expect_end("exit 5", LAM_UNAVAILABLE,
        "the worker ended with exit code 5 and said nothing; --verbose shows its log");
    expect_end(
        "echo hello; kill -9 $$", LAM_UNAVAILABLE, "the worker was killed by signal 9 (Killed)");
}

/* The last error counts, not the last line; lines that are no JSON are taken as they are. */
static void test_json_lines(void **state)
{
    (void)state;
    expect_end("echo '{\"level\":\"error\",\"message\":\"no disk\"}';"
               "echo '{\"level\":\"info\",\"message\":\"stopped\"}'; exit 1",
        LAM_UNAVAILABLE, "the worker ended: no disk");
    expect_end("echo '{\"level\":\"info\",\"message\":\"stopped\"}'; exit 1", LAM_UNAVAILABLE,
        "the worker ended: stopped");
    expect_end("echo '{\"level\":\"error\",\"message\":\"no disk\"}'; kill -15 $$", LAM_UNAVAILABLE,
        "the worker was killed by signal 15 (Terminated); its last error: no disk");
    expect_end("echo '{\"message\":'; exit 1", LAM_UNAVAILABLE, "the worker ended: {\"message\":");
}

static void test_long_line_is_cut(void **state)
{
    struct lam_child child = spawn_shell("head -c 300000 /dev/zero | tr '\\0' x; exit 1");

    (void)state;
    while (!lam_child_ended(&child))
        lam_child_read_log(&child, false); /* the pipe holds less than that */
    lam_child_read_log(&child, false);
    assert_int_equal(strlen(child.last_line), LAM_CHILD_LINE_BYTES - 1);
    lam_child_done(&child);
}

static void count_line(void *arg, const char *message)
{
    int *n = arg;

    assert_string_equal(message, "line");
    ++*n;
}

static void test_each_line_is_told(void **state)
{
    struct lam_child child = spawn_shell("echo line; echo line; echo; echo line");
    int n = 0;

    (void)state;
    child.on_line = count_line;
    child.on_line_arg = &n;
    wait_for_end(&child);
    assert_int_equal(n, 3);
    lam_child_done(&child);
}

static void test_stdin_is_empty_and_group_its_own(void **state)
{
    struct lam_child child =
        spawn_shell("read x; echo \"read $?, $(cut -d' ' -f5 /proc/$$/stat)\"");
    char expected[64];

    (void)state;
    snprintf(expected, sizeof expected, "read 1, %d", child.pid);
    wait_for_end(&child);
    assert_string_equal(child.last_line, expected);
    lam_child_done(&child);
}

static void test_missing_binary_is_named(void **state)
{
    static char name[] = "x";
    char *argv[] = {name, NULL};
    struct lam_child child = lam_child_none("loader");
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_child_spawn(&child, "/nonexistent/x", argv, &err), LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, "loader"));
    assert_non_null(strstr(err.text, "/nonexistent/x"));
    assert_true(lam_child_ended(&child));
    lam_child_done(&child);
}

/* A process between us and the child is killed: the kernel ends the child. */
static void test_dies_with_its_parent(void **state)
{
    int ends[2];
    pid_t middle;
    pid_t grandchild = 0;
    struct pollfd fd;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    middle = fork();
    if (middle == 0) {
        /* It keeps the pipe's writing end open for as long as it lives. */
        struct lam_child child = spawn_shell("exec sleep 60");
        if (write(ends[1], &child.pid, sizeof child.pid) == (ssize_t)sizeof child.pid)
            pause();
        _exit(1);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &grandchild, sizeof grandchild), sizeof grandchild);
    assert_int_equal(kill(grandchild, 0), 0);
    assert_int_equal(kill(middle, SIGKILL), 0);
    assert_int_equal(waitpid(middle, NULL, 0), middle);
    fd = (struct pollfd){.fd = ends[0], .events = POLLIN};
    assert_int_equal(poll(&fd, 1, 60000), 1);
    assert_true(fd.revents & POLLHUP);
    close(ends[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_json_lines),
        cmocka_unit_test(test_long_line_is_cut),
        cmocka_unit_test(test_each_line_is_told),
        cmocka_unit_test(test_stdin_is_empty_and_group_its_own),
        cmocka_unit_test(test_missing_binary_is_named),
        cmocka_unit_test(test_dies_with_its_parent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
