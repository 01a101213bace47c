/* program: how a command line begins, the error line, a service's signals, log and end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/program.h"
#include "tests/unit/common/capture.h"

struct flags {
    const char *log_level;
    const char *run_dir;
};

static const char *caught; /* by the last capture */

/* Parses "prog" and up to three more arguments. */
static bool begin(struct flags *flags, size_t n_operands, const char **operands, int *ret_exit,
    const char *first, const char *second, const char *third)
{
    const struct lam_flag table[] = {
        LAM_PROGRAM_LOG_LEVEL(&flags->log_level),
        LAM_PROGRAM_RUN_DIR(&flags->run_dir),
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "prog FILE", .summary = "A program.", .flags = table};
    char *argv[] = {"prog", (char *)(uintptr_t)first, (char *)(uintptr_t)second,
        (char *)(uintptr_t)third, NULL};
    int argc = 1;

    while (argv[argc])
        argc++;
    return lam_program_begin("prog", &program, argc, argv, operands, n_operands, ret_exit);
}

static void test_begin(void **state)
{
    struct flags flags = {0};
    const char *operand = NULL;
    int exit_code = -1;

    (void)state;
    assert_true(begin(&flags, 1, &operand, &exit_code, "--run-dir=/r", "--log-level=off", "f"));
    assert_string_equal(flags.run_dir, "/r");
    assert_string_equal(flags.log_level, "off");
    assert_string_equal(operand, "f");
    assert_int_equal(exit_code, -1);
}

static void test_help(void **state)
{
    struct flags flags = {.log_level = "info"};
    int exit_code = -1;
    bool go_on;

    (void)state;
    capture_begin(STDOUT_FILENO);
    go_on = begin(&flags, 0, NULL, &exit_code, "--help", NULL, NULL);
    caught = capture_end();
    assert_false(go_on);
    assert_int_equal(exit_code, LAM_EXIT_OK);
    assert_non_null(strstr(caught, "--log-level"));
    assert_non_null(strstr(caught, "debug|info|warn|error|off"));
    assert_non_null(strstr(caught, "--run-dir"));
}

static void test_version(void **state)
{
    struct flags flags = {.log_level = "info"};
    int exit_code = -1;
    bool go_on;

    (void)state;
    capture_begin(STDOUT_FILENO);
    go_on = begin(&flags, 0, NULL, &exit_code, "--version", NULL, NULL);
    caught = capture_end();
    assert_false(go_on);
    assert_int_equal(exit_code, LAM_EXIT_OK);
    assert_string_equal(caught, "prog " LAM_VERSION "\n");
}

static void test_bad_lines(void **state)
{
    static const struct {
        const char *argument;
        const char *said;
    } cases[] = {
        {"--log-level=loud", "loud"},
        {"--frob\x1b[2J", "prog: "},
        {NULL, "prog: FILE is missing; usage: prog FILE"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct flags flags = {.log_level = "info"};
        const char *operand = NULL;
        int exit_code = -1;
        bool go_on;

        capture_begin(STDERR_FILENO);
        go_on = begin(&flags, 1, &operand, &exit_code, cases[i].argument, NULL, NULL);
        caught = capture_end();
        assert_false(go_on);
        assert_int_equal(exit_code, LAM_EXIT_USAGE);
        assert_memory_equal(caught, "prog: ", 6);
        assert_non_null(strstr(caught, cases[i].said));
        assert_null(strchr(caught, 0x1b));
        assert_ptr_equal(strchr(caught, '\n'), caught + strlen(caught) - 1);
        assert_string_equal(flags.log_level, "info");
    }
}

static void test_error_line(void **state)
{
    struct lam_err err = {0};
    int code;

    (void)state;
    lam_fail(&err, LAM_NOT_FOUND, "no 'a\x1b[1m\nb\x7f' here");
    capture_begin(STDERR_FILENO);
    code = lam_program_fail("prog", &err, LAM_EXIT_NO_FIT);
    caught = capture_end();
    assert_int_equal(code, 3);
    assert_string_equal(caught, "prog: no 'a?[1m?b?' here\n");
}

/* Another thread, as any that the service starts. */
static void *look_at_mask(void *arg)
{
    pthread_sigmask(SIG_SETMASK, NULL, arg);
    return NULL;
}

static void test_start(void **state)
{
    struct sigaction pipe_action;
    sigset_t stop, before, inherited;
    pthread_t thread;
    int signal_number = 0;

    (void)state;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    capture_begin(STDERR_FILENO);
    lam_program_start("tester", "warn", &stop);
    lam_info("quiet");
    lam_warn("loud");
    caught = capture_end();
    assert_null(strstr(caught, "quiet"));
    assert_non_null(strstr(caught, "\"component\":\"tester\",\"message\":\"loud\""));

    assert_int_equal(sigismember(&stop, SIGTERM), 1);
    assert_int_equal(sigismember(&stop, SIGINT), 1);
    assert_int_equal(pthread_create(&thread, NULL, look_at_mask, &inherited), 0);
    pthread_join(thread, NULL);
    assert_int_equal(sigismember(&inherited, SIGTERM), 1);
    assert_int_equal(sigismember(&inherited, SIGINT), 1);
    assert_int_equal(sigismember(&inherited, SIGHUP), sigismember(&before, SIGHUP));
    assert_int_equal(kill(getpid(), SIGTERM), 0);
    assert_int_equal(sigwait(&stop, &signal_number), 0);
    assert_int_equal(signal_number, SIGTERM);

    assert_int_equal(sigaction(SIGPIPE, NULL, &pipe_action), 0);
    assert_true(pipe_action.sa_handler == SIG_IGN);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    signal(SIGPIPE, SIG_DFL);
}

static void end(const char *run_dir, enum lam_status status, const struct lam_err *err)
{
    capture_begin(STDERR_FILENO);
    lam_log_init("tester", LAM_LOG_INFO);
    lam_program_end(run_dir, status, err);
    caught = capture_end();
}

static void test_end(void **state)
{
    char dir[] = "/tmp/program_test.XXXXXX";
    char file[64];
    struct lam_err err = {0};
    struct stat seen;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/socket", dir);
    fclose(fopen(file, "w"));

    /* Somebody's socket is still there: the directory stays, and that is fine. */
    end(dir, LAM_OK, &err);
    assert_string_equal(caught, "");
    assert_int_equal(stat(file, &seen), 0);

    /* A loader whose model did not fit once removed the directory from under a gateway that was
     * about to listen in it. */
    unlink(file);
    lam_fail(&err, LAM_DATA_LOSS, "the model changed");
    end(dir, LAM_DATA_LOSS, &err);
    assert_int_equal(stat(dir, &seen), 0);
    assert_non_null(strstr(caught,
        "\"level\":\"error\",\"component\":\"tester\",\"message\":\"the model changed\"}\n"));

    end(dir, LAM_OK, &err);
    assert_string_equal(caught, "");
    assert_int_equal(stat(dir, &seen), -1);

    /* It is gone already; there was none. */
    end(dir, LAM_OK, &err);
    end(NULL, LAM_OK, &err);
    assert_string_equal(caught, "");

    end("/dev/null/x", LAM_OK, &err);
    assert_non_null(strstr(caught, "cannot remove /dev/null/x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begin),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_error_line),
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
