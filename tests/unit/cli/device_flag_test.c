/* device_flag: names of devices, and what is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cli/device_flag.h"

static void names_are_read(void **state)
{
    struct lam_device_flag flag;

    (void)state;
    assert_int_equal(lam_device_flag_parse("auto", &flag, NULL), LAM_OK);
    assert_true(flag.is_auto && !flag.is_cpu && flag.n_gpus == 0);
    assert_int_equal(lam_device_flag_parse("cpu", &flag, NULL), LAM_OK);
    assert_true(!flag.is_auto && flag.is_cpu && flag.n_gpus == 0);
    assert_int_equal(lam_device_flag_parse("cuda:15,cuda:0,cuda:3", &flag, NULL), LAM_OK);
    assert_true(!flag.is_auto && !flag.is_cpu && flag.n_gpus == 3);
    assert_true(flag.gpus[0] == 15 && flag.gpus[1] == 0 && flag.gpus[2] == 3);
    assert_int_equal(lam_device_flag_parse("cuda:0,2", &flag, NULL), LAM_OK);
    assert_true(flag.n_gpus == 2 && flag.gpus[1] == 2);
}

static void what_is_no_name_is_named(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "--device: '' is none of auto, cpu and cuda:0 to cuda:15"},
        {"gpu", "--device: 'gpu' is none of auto, cpu and cuda:0 to cuda:15"},
        {"cuda", "--device: 'cuda' is none of auto, cpu and cuda:0 to cuda:15"},
        {"cuda:", "--device: 'cuda:' is none of auto, cpu and cuda:0 to cuda:15"},
        {"cuda:16", "--device: 'cuda:16' is none of auto, cpu and cuda:0 to cuda:15"},
        {"cuda:-1", "--device: 'cuda:-1' is none of auto, cpu and cuda:0 to cuda:15"},
        {"cuda:0x1", "--device: 'cuda:0x1' is none of auto, cpu and cuda:0 to cuda:15"},
        {"1", "--device: '1' is none of auto, cpu and cuda:0 to cuda:15"},
        {"cuda:0,x", "--device: 'x' is none of auto, cpu and cuda:0 to cuda:15"},
        {"cuda:0,016", "--device: '016' is none of auto, cpu and cuda:0 to cuda:15"},
        {"cuda:1,1", "--device: cuda:1 stands there twice; keep one"},
        {"cuda:0,", "--device: '' is none of auto, cpu and cuda:0 to cuda:15"},
        {"cuda:0,cpu", "--device: 'cpu' is none of auto, cpu and cuda:0 to cuda:15"},
        {"cuda:1,cuda:2,cuda:1", "--device: cuda:1 stands there twice; keep one"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lam_device_flag flag;
        struct lam_err err = {0};
        assert_int_equal(lam_device_flag_parse(cases[i].text, &flag, &err), LAM_INVALID_ARGUMENT);
        assert_string_equal(err.text, cases[i].message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_read),
        cmocka_unit_test(what_is_no_name_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
