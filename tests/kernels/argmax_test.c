/*
 * argmax: the reference and the fast backends give what the sampler calls greedy (model/sample.h),
 * which is an implementation of its own.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "model/sample.h"
#include "tests/kernels/twin.h"

enum { ROWS_MAX = 64, COLS_MAX = 128256 };

static void check(
    const struct twin_backend *backend, float *x, uint32_t n_rows, uint32_t n_cols, void *scratch)
{
    const struct lam_sample_params greedy = {.top_p = 1, .repetition_penalty = 1};
    int32_t ids[ROWS_MAX + 1];
    struct lam_argmax_args args = {x, ids, n_rows, n_cols};

    memset(ids, 0xff, sizeof(ids));
    backend->ops->argmax(backend->kernels, &args);
    for (uint32_t t = 0; t < n_rows; t++)
        assert_int_equal(
            ids[t], lam_sample(&greedy, x + (size_t)t * n_cols, n_cols, NULL, 0, 0, 0, scratch));
    assert_int_equal(ids[n_rows], -1);
}

static void test_argmax(void **state)
{
    static const uint32_t row_counts[] = {1, 2, 3, 17, ROWS_MAX};
    static const uint32_t widths[] = {1, 2, 7, 31, 256, 1001, COLS_MAX};
    struct twin_set set;
    struct twin_rng rng = {.state = 131};
    void *scratch = lam_aligned_calloc(16, lam_sample_scratch_bytes(COLS_MAX));

    (void)state;
    assert_non_null(scratch);
    twin_set_init(&set, 3);
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        for (size_t r = 0; r < sizeof(row_counts) / sizeof(row_counts[0]); r++) {
            uint32_t n_rows = row_counts[r];
            for (uint32_t kind = 0; kind < (n_rows == 1 ? TWIN_PEAK_KINDS : 1); kind++) {
                float *x = twin_peaks(&rng, kind, n_rows, widths[i]);
                check(&set.ref, x, n_rows, widths[i], scratch);
                for (uint32_t b = 0; b < set.n_fast; b++)
                    check(&set.fast[b], x, n_rows, widths[i], scratch);
                twin_free(x);
            }
        }
    }
    twin_set_done(&set);
    lam_free(scratch);
}

static void test_no_rows(void **state)
{
    struct twin_set set;
    struct lam_argmax_args args = {.n_cols = 8};

    (void)state;
    twin_set_init(&set, 2);
    set.ref.ops->argmax(set.ref.kernels, &args);
    for (uint32_t b = 0; b < set.n_fast; b++)
        set.fast[b].ops->argmax(set.fast[b].kernels, &args);
    twin_set_done(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_no_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
