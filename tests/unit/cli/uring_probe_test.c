/* uring_probe_test: the probe says what a plain attempt says, and names what it could not read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/uring_probe.h"

static void test_agrees_with_the_kernel(void **state)
{
    struct io_uring_params params = {0};
    int fd = (int)syscall(SYS_io_uring_setup, 1, &params);
    struct lam_err err = {0};
    enum lam_status status = lam_uring_probe("/proc/self/exe", &err);

    (void)state;
    if (fd >= 0)
        assert_int_equal(status, LAM_OK);
    else
        assert_int_not_equal(status, LAM_OK);
    if (fd >= 0)
        close(fd);
}

static void test_absent_file_is_named(void **state)
{
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_uring_probe("/proc/nonexistent", &err), LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, "/proc/nonexistent"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agrees_with_the_kernel),
        cmocka_unit_test(test_absent_file_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
