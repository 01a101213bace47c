/*
 * The promise of ops.h that a row's bits depend on nothing but the row: matmul alone, among any
 * number of other rows, with 1, 2 or 3 threads, in every weight format. (attention_test.c has the
 * same for attention.) If it did not hold, a text would change with who shares the batch.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/kernels/twin.h"

enum { N_ROWS = 64, N_COLS = 1280, N_OUT = 83 };

static void run(const struct twin_backend *backend, enum lam_dtype dtype, const uint8_t *weights,
    const float *x, uint32_t n_rows, bool accumulate, float *out)
{
    struct lam_matmul_args args = {.x = x,
        .n_rows = n_rows,
        .n_cols = N_COLS,
        .accumulate = accumulate,
        .n_mats = 1,
        .mats = {
            {.weight = weights, .dtype = dtype, .n_out = N_OUT, .out = out, .out_stride = N_OUT}}};

    backend->ops->matmul(backend->kernels, &args);
}

/* Rows [0, N_ROWS) in calls of n_rows. */
static void run_cut(const struct twin_backend *backend, enum lam_dtype dtype,
    const uint8_t *weights, const float *x, uint32_t n_rows, bool accumulate, float *out)
{
    for (size_t begin = 0; begin < N_ROWS; begin += n_rows) {
        uint32_t n = N_ROWS - begin < n_rows ? (uint32_t)(N_ROWS - begin) : n_rows;
        run(backend, dtype, weights, x + begin * N_COLS, n, accumulate, out + begin * N_OUT);
    }
}

static void check_dtype(struct twin_set sets[3], enum lam_dtype dtype, bool accumulate)
{
    static const uint32_t cuts[] = {1, 2, 3, 4, 5, 17, 64};
    struct twin_rng rng = {.state = 61};
    float *x = twin_random_floats(&rng, (size_t)N_ROWS * N_COLS, 1.0f);
    float *before = twin_random_floats(&rng, (size_t)N_ROWS * N_OUT, 1.0f);
    float *alone = twin_floats((size_t)N_ROWS * N_OUT);
    float *together = twin_floats((size_t)N_ROWS * N_OUT);
    uint8_t *weights = twin_weights(&rng, dtype, N_OUT, N_COLS);

    for (uint32_t b = 0; b < sets[0].n_fast; b++) {
        memcpy(alone, before, (size_t)N_ROWS * N_OUT * sizeof(*alone));
        run_cut(&sets[0].fast[b], dtype, weights, x, 1, accumulate, alone);
        for (uint32_t i = 0; i < 7 * 3; i++) {
            memcpy(together, before, (size_t)N_ROWS * N_OUT * sizeof(*together));
            run_cut(&sets[i % 3].fast[b], dtype, weights, x, cuts[i / 3], accumulate, together);
            assert_memory_equal(alone, together, (size_t)N_ROWS * N_OUT * sizeof(*alone));
        }
    }
    twin_weights_free(weights);
    twin_free(x);
    twin_free(before);
    twin_free(alone);
    twin_free(together);
}

static void test_matmul_rows(void **state)
{
    struct twin_set sets[3];

    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        twin_set_init(&sets[i], i + 1);
    for (size_t d = 0; d < twin_n_dtypes; d++)
        check_dtype(sets, twin_dtypes[d], d % 2 == 0);
    for (uint32_t i = 0; i < 3; i++)
        twin_set_done(&sets[i]);
}

/* rms_norm, rope and swiglu: all rows at once on 3 threads, and one row at a time. */
static void test_elementwise_rows(void **state)
{
    enum { HEADS = 3, HEAD = 100, WIDTH = HEADS * HEAD };
    struct twin_set set;
    struct twin_rng rng = {.state = 71};

    (void)state;
    twin_set_init(&set, 3);
    for (uint32_t b = 0; b < set.n_fast; b++) {
        const struct lam_kernel_ops *ops = set.fast[b].ops;
        float *x = twin_random_floats(&rng, (size_t)N_ROWS * WIDTH, 1.0f);
        float *y = twin_floats((size_t)N_ROWS * WIDTH);
        float *weight = twin_random_floats(&rng, WIDTH, 1.0f);
        float *table = twin_random_floats(&rng, (size_t)N_ROWS * HEAD, 1.0f);
        memcpy(y, x, (size_t)N_ROWS * WIDTH * sizeof(*x));
        for (uint32_t step = 1; step <= N_ROWS; step += N_ROWS - 1) {
            float *values = step == 1 ? x : y;
            for (uint32_t t = 0; t < N_ROWS; t += step) {
                float *at = values + (size_t)t * WIDTH;
                struct lam_rms_norm_args norm = {at, weight, at, step, WIDTH, 1e-6f, false};
                struct lam_rope_args rope = {
                    at, table + (size_t)t * HEAD, step, HEADS, HEAD, HEAD, LAM_ROPE_ADJACENT};
                struct lam_swiglu_args swiglu = {at, at, at, (uint64_t)step * WIDTH, 0};
                ops->rms_norm(set.fast[b].kernels, &norm);
                ops->rope(set.fast[b].kernels, &rope);
                ops->swiglu(set.fast[b].kernels, &swiglu);
            }
        }
        assert_memory_equal(x, y, (size_t)N_ROWS * WIDTH * sizeof(*x));
        twin_free(x);
        twin_free(y);
        twin_free(weight);
        twin_free(table);
    }
    twin_set_done(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul_rows),
        cmocka_unit_test(test_elementwise_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
