/* reals: sorted is sorted, and nothing is fine too. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "common/reals.h"

static void the_smallest_comes_first(void **state)
{
    static const double sorted[] = {-INFINITY, -1e300, -0.5, 0, 1e-300, 2, 2, INFINITY};
    double values[] = {2, 0, INFINITY, -1e300, 2, -0.5, 1e-300, -INFINITY};

    (void)state;
    lam_reals_sort(values, sizeof values / sizeof *values);
    assert_memory_equal(values, sorted, sizeof sorted);
}

static void few_are_fine(void **state)
{
    double one = 3;

    (void)state;
    lam_reals_sort(&one, 1);
    assert_true(one == 3);
    lam_reals_sort(NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_smallest_comes_first),
        cmocka_unit_test(few_are_fine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
