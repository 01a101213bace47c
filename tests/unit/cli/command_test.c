/* command_test: the text check in front of every service call, and how a command line begins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "cli/command.h"

static void check(const char *text, size_t n, const char *expected)
{
    struct lam_err err = {0};
    enum lam_status status = lam_command_check_text("--flag", text, n, &err);

    if (!expected) {
        assert_int_equal(status, LAM_OK);
        return;
    }
    assert_int_equal(status, LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "--flag"));
    assert_non_null(strstr(err.text, expected));
}

static void test_text(void **state)
{
    (void)state;
    check("", 0, NULL);
    check("plain", 5, NULL);
    check("w\xc3\xb6rld \xf0\x9f\x8d\x95", 11, NULL);
    check("ab\xff", 3, "byte 2");
    check("\xc0\x80", 2, "byte 0");
    check("\xed\xa0\x80", 3, "byte 0");
    check("abc\xe4\xbd", 5, "byte 3");
    check("a\0b", 3, "zero byte at byte 1");
}

static bool begin(int argc, char **argv, const char **operands, int *ret_exit)
{
    static int64_t number;
    const struct lam_flag flags[] = {
        {"number", 'n', LAM_FLAG_INT, &number, "N", "A number.", 0, 9, NULL, NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar test ONE TWO", .summary = "Nothing.", .flags = flags};

    return lam_command_begin(&program, argc, argv, operands, 2, ret_exit);
}

static void test_begin(void **state)
{
    char name[] = "test";
    char one[] = "one";
    char two[] = "two";
    char three[] = "three";
    char help[] = "--help";
    const char *operands[2] = {NULL, NULL};
    int exit_code = -1;

    (void)state;
    assert_true(begin(3, (char *[]){name, one, two, NULL}, operands, &exit_code));
    assert_string_equal(operands[0], "one");
    assert_string_equal(operands[1], "two");
    assert_int_equal(exit_code, -1);
    assert_false(begin(2, (char *[]){name, one, NULL}, operands, &exit_code));
    assert_int_equal(exit_code, LAM_EXIT_USAGE);
    assert_false(begin(4, (char *[]){name, one, two, three, NULL}, operands, &exit_code));
    assert_int_equal(exit_code, LAM_EXIT_USAGE);
    assert_false(begin(2, (char *[]){name, help, NULL}, operands, &exit_code));
    assert_int_equal(exit_code, LAM_EXIT_OK);
}

/* nohup and shells with background jobs ignore signals for their children: that stays so. */
static void test_ignored_signals_stay_ignored(void **state)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, end = {.sa_handler = SIG_DFL};
    struct sigaction before[2];
    sigset_t signals;

    (void)state;
    assert_int_equal(sigaction(SIGINT, &end, &before[0]), 0);
    assert_int_equal(sigaction(SIGTERM, &end, &before[1]), 0);
    lam_command_end_signals(&signals);
    assert_true(sigismember(&signals, SIGINT) == 1 && sigismember(&signals, SIGTERM) == 1);
    assert_int_equal(sigaction(SIGINT, &ignore, NULL), 0);
    lam_command_end_signals(&signals);
    assert_int_equal(sigaction(SIGINT, &before[0], NULL), 0);
    assert_int_equal(sigaction(SIGTERM, &before[1], NULL), 0);
    assert_true(sigismember(&signals, SIGINT) == 0 && sigismember(&signals, SIGTERM) == 1);
    assert_int_equal(sigismember(&signals, SIGCHLD), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_begin),
        cmocka_unit_test(test_ignored_signals_stay_ignored),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
