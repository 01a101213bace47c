/* log: one line per call, levels, JSON that stays JSON whatever the message is, plain text on a
 * terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/utf8.h"
#include "tests/unit/common/capture.h"

#define N_THREADS 4
#define N_LINES 200

static void test_json(void **state)
{
    char *text;
    const char *message;

    (void)state;
    capture_begin(STDERR_FILENO);
    lam_log_init("loader", LAM_LOG_INFO);
    lam_warn("a \"quoted\\ thing\n\x01 of %d", 7);
    text = capture_end();
    assert_memory_equal(text, "{\"ts\":\"2", 8);
    assert_int_equal(text[7 + 23], 'Z'); /* 2026-01-01T00:00:00.000Z */
    message = strstr(text, "\"level\"");
    assert_non_null(message);
    assert_string_equal(message, "\"level\":\"warn\",\"component\":\"loader\","
                                 "\"message\":\"a \\\"quoted\\\\ thing\\u000a\\u0001 of 7\"}\n");
}

static void test_levels(void **state)
{
    char *text;

    (void)state;
    capture_begin(STDERR_FILENO);
    lam_log_init("t", LAM_LOG_WARN);
    lam_debug("one");
    lam_info("two");
    lam_warn("three");
    lam_error("four");
    lam_log_init("t", LAM_LOG_OFF);
    lam_error("five");
    lam_log_init("t", LAM_LOG_DEBUG);
    lam_debug("six");
    text = capture_end();
    assert_null(strstr(text, "\"one\""));
    assert_null(strstr(text, "\"two\""));
    assert_non_null(strstr(text, "\"three\""));
    assert_non_null(strstr(text, "\"four\""));
    assert_null(strstr(text, "\"five\""));
    assert_non_null(strstr(text, "\"six\""));
}

/* A message that is too long is cut; the line is still whole. */
static void test_long_message(void **state)
{
    static const char fillers[] = {'x', '\n', '"'};
    char message[5000];
    char *text;

    (void)state;
    for (size_t i = 0; i < sizeof fillers; i++) {
        memset(message, fillers[i], sizeof message);
        message[sizeof message - 1] = '\0';
        capture_begin(STDERR_FILENO);
        lam_log_init("t", LAM_LOG_INFO);
        lam_info("%s", message);
        text = capture_end();
        assert_true(strlen(text) > 1000);
        assert_string_equal(text + strlen(text) - 3, "\"}\n");
        assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    }
}

/* The cut falls between characters: at the message's end, and at that of the escaped text. */
static void test_cut_characters(void **state)
{
    static const char *const characters[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    char message[2000];
    char *text;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        for (size_t n_escapes = 0; n_escapes < 300; n_escapes += 3) {
            size_t n = n_escapes;
            memset(message, '\n', n);
            for (; n + 5 < sizeof message; n += strlen(characters[i]))
                memcpy(message + n, characters[i], strlen(characters[i]));
            message[n] = '\0';
            capture_begin(STDERR_FILENO);
            lam_log_init("t", LAM_LOG_INFO);
            lam_info("%s", message);
            text = capture_end();
            assert_true(strlen(text) > 1000);
            assert_true(lam_utf8_valid(text, strlen(text)));
            assert_string_equal(text + strlen(text) - 3, "\"}\n");
        }
    }
}

/* A file's name can be any bytes; a line is text all the same. */
static void test_no_utf8(void **state)
{
    char *text;

    (void)state;
    capture_begin(STDERR_FILENO);
    lam_log_init("t", LAM_LOG_INFO);
    lam_info("a\xff"
             "b\xc3(\xc2\x9b"
             "c\x7f");
    text = capture_end();
    assert_non_null(strstr(text, "\"message\":\"a\xef\xbf\xbd"
                                 "b\xef\xbf\xbd(\\u009bc\\u007f\"}\n"));
}

static void *write_lines(void *argument)
{
    for (int i = 0; i < N_LINES; i++)
        lam_info("thread %c says something of some length", *(char *)argument);
    return NULL;
}

/* Lines of several threads do not mix. */
static void test_threads(void **state)
{
    char *text;
    char names[N_THREADS];
    pthread_t threads[N_THREADS];
    char *rest;
    int n_lines = 0;

    (void)state;
    capture_begin(STDERR_FILENO);
    lam_log_init("t", LAM_LOG_INFO);
    for (int i = 0; i < N_THREADS; i++) {
        names[i] = (char)('a' + i);
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &names[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    text = capture_end();
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        n_lines++;
        assert_memory_equal(line, "{\"ts\":\"", 7);
        assert_non_null(strstr(line, " says something of some length\"}"));
        assert_null(strstr(line + 1, "{\"ts\""));
    }
    assert_int_equal(n_lines, N_THREADS * N_LINES);
}

static void test_terminal(void **state)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    char text[256];
    ssize_t n;
    int slave;

    (void)state;
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0)
        skip();
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    if (slave < 0)
        skip();
    capture_to(STDERR_FILENO, slave);
    lam_log_init("worker", LAM_LOG_INFO);
    lam_error("no \"%s\"\x1b[2J\n", "pool");
    capture_end();
    n = read(master, text, sizeof text - 1);
    close(slave);
    close(master);
    assert_true(n > 9);
    text[n] = '\0';
    assert_true(isdigit((unsigned char)text[0]) && text[2] == ':' && text[5] == ':');
    /* Quotes as they are; no command for the terminal, and no second line. */
    assert_string_equal(text + 8, " error worker: no \"pool\"\\u001b[2J\\u000a\r\n");
}

static void test_level_names(void **state)
{
    static const char *const names[] = {"debug", "info", "warn", "error", "off"};
    enum lam_log_level level = LAM_LOG_WARN;

    (void)state;
    assert_false(lam_log_level_parse("", &level));
    assert_false(lam_log_level_parse("INFO", &level));
    assert_false(lam_log_level_parse("warning", &level));
    assert_int_equal(level, LAM_LOG_WARN);
    for (int i = 0; i < 5; i++) {
        assert_true(lam_log_level_parse(names[i], &level));
        assert_int_equal(level, i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_long_message),
        cmocka_unit_test(test_cut_characters),
        cmocka_unit_test(test_no_utf8),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_terminal),
        cmocka_unit_test(test_level_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
