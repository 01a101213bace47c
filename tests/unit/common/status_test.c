/* status: codes, names, texts that are cut, errno and wrapping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "common/status.h"

/* The numbers are gRPC's: they go over the wire. */
static void test_names(void **state)
{
    static const char *const names[] = {"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
        "INTERNAL", "UNAVAILABLE", "DATA_LOSS"};

    (void)state;
    for (int code = 0; code < 16; code++) {
        assert_int_equal(lam_status_from_wire(code), code);
        assert_string_equal(lam_status_name((enum lam_status)code), names[code]);
    }
    assert_int_equal(lam_status_from_wire(-1), LAM_UNKNOWN);
    assert_int_equal(lam_status_from_wire(16), LAM_UNKNOWN); /* UNAUTHENTICATED: not ours */
    assert_int_equal(lam_status_from_wire(1 << 30), LAM_UNKNOWN);
}

static void test_fail(void **state)
{
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_fail(&err, LAM_NOT_FOUND, "no %s %d", "file", 7), LAM_NOT_FOUND);
    assert_int_equal(err.status, LAM_NOT_FOUND);
    assert_string_equal(err.text, "no file 7");
    assert_int_equal(lam_fail(NULL, LAM_ABORTED, "nobody listens"), LAM_ABORTED);
}

static void test_long_text_is_cut(void **state)
{
    struct lam_err err = {0};
    char text[2000];

    (void)state;
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    lam_fail(&err, LAM_INTERNAL, "%s", text);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_int_equal(lam_fail_errno(&err, ENOENT, "%s", text), LAM_NOT_FOUND);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    lam_fail(&err, LAM_INTERNAL, "inner");
    assert_int_equal(lam_err_wrap(&err, LAM_INTERNAL, "%s", text), LAM_INTERNAL);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_int_equal(err.text[0], 'x');
}

/* Whether the model fits is told apart from everything else that can run out. */
static void test_no_fit(void **state)
{
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_fail_no_fit(&err, "%d GiB", 3), LAM_RESOURCE_EXHAUSTED);
    assert_true(err.no_fit && err.status == LAM_RESOURCE_EXHAUSTED);
    assert_int_equal(lam_err_wrap(&err, err.status, "--ram"), LAM_RESOURCE_EXHAUSTED);
    assert_true(err.no_fit);
    assert_string_equal(err.text, "--ram: 3 GiB");
    assert_int_equal(lam_fail(&err, LAM_RESOURCE_EXHAUSTED, "no thread"), LAM_RESOURCE_EXHAUSTED);
    assert_false(err.no_fit);
    assert_int_equal(lam_fail_no_fit(NULL, "x"), LAM_RESOURCE_EXHAUSTED);
}

static void test_errno(void **state)
{
    static const struct {
        int native_errno;
        enum lam_status status;
    } cases[] = {
        {ENOENT, LAM_NOT_FOUND},
        {ENOTDIR, LAM_NOT_FOUND},
        {EACCES, LAM_PERMISSION_DENIED},
        {EPERM, LAM_PERMISSION_DENIED},
        {EADDRINUSE, LAM_ALREADY_EXISTS},
        {EEXIST, LAM_ALREADY_EXISTS},
        {ENOMEM, LAM_RESOURCE_EXHAUSTED},
        {EMFILE, LAM_RESOURCE_EXHAUSTED},
        {ENFILE, LAM_RESOURCE_EXHAUSTED},
        {ENOSPC, LAM_RESOURCE_EXHAUSTED},
        {EINVAL, LAM_INVALID_ARGUMENT},
        {EISDIR, LAM_INVALID_ARGUMENT},
        {ENOSYS, LAM_UNIMPLEMENTED},
        {EOPNOTSUPP, LAM_UNIMPLEMENTED},
        {EIO, LAM_UNAVAILABLE},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lam_err err = {0};
        assert_int_equal(
            lam_fail_errno(&err, cases[i].native_errno, "open '%s'", "m.gguf"), cases[i].status);
        assert_int_equal(err.status, cases[i].status);
        assert_memory_equal(err.text, "open 'm.gguf': ", 15);
        assert_memory_equal(err.text + 15, strerror(cases[i].native_errno),
            strlen(strerror(cases[i].native_errno)));
        assert_int_equal(strstr(err.text, "ulimit -n") != NULL, cases[i].native_errno == EMFILE);
        assert_false(err.no_fit);
    }
    assert_int_equal(lam_fail_errno(NULL, EACCES, "x"), LAM_PERMISSION_DENIED);
}

static void test_wrap(void **state)
{
    struct lam_err err = {0};

    (void)state;
    lam_fail(&err, LAM_DATA_LOSS, "inner %d", 1);
    assert_int_equal(lam_err_wrap(&err, LAM_DATA_LOSS, "outer %d", 2), LAM_DATA_LOSS);
    assert_string_equal(err.text, "outer 2: inner 1");
    assert_int_equal(err.status, LAM_DATA_LOSS);
    assert_int_equal(lam_err_wrap(NULL, LAM_ABORTED, "nobody listens"), LAM_ABORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_fail),
        cmocka_unit_test(test_long_text_is_cut),
        cmocka_unit_test(test_no_fit),
        cmocka_unit_test(test_errno),
        cmocka_unit_test(test_wrap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
