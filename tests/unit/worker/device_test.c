/* What --device means: names, ways out, and the emulated device opened as a library. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "worker/device.h"

#define EMULATED "tests/kernels/emulated" /* in the runfiles of the test */

static void test_cpu_has_no_device(void **state)
{
    struct lam_device_choice choice;

    (void)state;
    assert_int_equal(lam_device_choose("cpu", "ref", NULL, &choice, NULL), LAM_OK);
    assert_string_equal(choice.name, "cpu");
    assert_ptr_equal(choice.ops, lam_kernels_ref());
    assert_null(choice.device);
}

static void test_bad_names_are_refused(void **state)
{
    static const char *const names[] = {
        "", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x", "cuda:1x", "cuda:64", "CPU"};

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct lam_device_choice choice;
        struct lam_err err = {0};
        assert_int_equal(
            lam_device_choose(names[i], "cpu", EMULATED, &choice, &err), LAM_INVALID_ARGUMENT);
        assert_non_null(strstr(err.text, "cuda:N"));
    }
}

static void test_no_library_says_what_to_do(void **state)
{
    struct lam_device_choice choice;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(
        lam_device_choose("cuda:0", "cpu", "/proc/nonexistent", &choice, &err), LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, "--device cpu"));
    assert_int_equal(lam_device_choose("auto", "ref", "/proc/nonexistent", &choice, &err), LAM_OK);
    assert_string_equal(choice.name, "cpu");
    assert_ptr_equal(choice.ops, lam_kernels_ref());
    assert_non_null(strstr(choice.why, "/proc/nonexistent"));
}

static void test_a_library_is_a_device(void **state)
{
    struct lam_device_choice choice;

    (void)state;
    assert_int_equal(lam_device_choose("cuda:3", "cpu", EMULATED, &choice, NULL), LAM_OK);
    assert_string_equal(choice.name, "cuda:3");
    assert_int_equal(choice.index, 3);
    assert_non_null(choice.device);
    assert_int_equal(lam_device_choose("auto", "cpu", EMULATED, &choice, NULL), LAM_OK);
    assert_string_equal(choice.name, "cuda:0");
    assert_non_null(strstr(choice.why, "auto"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_has_no_device),
        cmocka_unit_test(test_bad_names_are_refused),
        cmocka_unit_test(test_no_library_says_what_to_do),
        cmocka_unit_test(test_a_library_is_a_device),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
