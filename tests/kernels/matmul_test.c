/*
 * matmul against its twin, for every weight format, with tails in rows and columns.
 *
 * Bound: fast kernels may round the activations to 8 bits per 32, nothing else that matters. So the
 * twin gets activations that went through the same rounding, and what remains is f32 arithmetic:
 *     |fast - ref| <= 2^-19 * sum |x w|      (F32, F16, BF16: the same without the rounding)
 * and, against the unrounded reference, the error of a result is at most 1 % of its sum's 2-norm
 * bound |fast - ref| <= 0.01 * |x| |w|. test_bound_has_teeth shows that the smallest possible
 * defect, one quantum of one weight, breaks the first.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/ref/dequant.h"
#include "tests/kernels/twin.h"

struct shape {
    uint32_t n_rows;
    uint32_t n_cols;
    uint32_t n_out;
};

static const struct shape shapes[] = {
    {1, 32, 1},
    {1, 64, 7},
    {2, 96, 17},
    {3, 576, 33},
    {5, 1536, 16},
    {17, 256, 48},
    {64, 544, 35},
    {1, 1024, 65},
    {4, 2048, 31},
    {7, 512, 64},
    {1, 256, 3},
    {9, 768, 100},
};
static const struct shape float_shapes[] = {{1, 1, 1}, {2, 3, 5}, {3, 13, 17}, {5, 131, 33}};

static void run(const struct twin_backend *backend, enum lam_dtype dtype, struct shape shape,
    const float *x, const uint8_t *weights, bool accumulate, float *out)
{
    struct lam_matmul_args args = {
        .x = x,
        .n_rows = shape.n_rows,
        .n_cols = shape.n_cols,
        .accumulate = accumulate,
        .n_mats = 1,
        .mats = {{.weight = weights,
            .dtype = dtype,
            .n_out = shape.n_out,
            .out = out,
            .out_stride = shape.n_out}},
    };

    backend->ops->matmul(backend->kernels, &args);
}

/* Largest |fast - exact| / sum |x w| of the call; 1 when a result is no number. */
static double worst_error(enum lam_dtype dtype, struct shape shape, const float *x,
    const uint8_t *weights, const float *exact, const float *fast)
{
    double worst = 0;
    uint64_t row_bytes;
    float row[2048];

    assert_true(lam_dtype_row_bytes(dtype, shape.n_cols, &row_bytes));
    for (uint32_t n = 0; n < shape.n_out; n++) {
        lam_dequant_row(dtype, weights + n * row_bytes, shape.n_cols, row);
        for (uint32_t t = 0; t < shape.n_rows; t++) {
            size_t at = (size_t)t * shape.n_out + n;
            double sum = 0;
            for (uint32_t k = 0; k < shape.n_cols; k++)
                sum += fabs((double)x[(size_t)t * shape.n_cols + k] * (double)row[k]);
            double error = fabs((double)fast[at] - (double)exact[at]);
            if (isnan(error))
                return 1;
            worst = fmax(worst, sum > 0 ? error / sum : 0);
        }
    }
    return worst;
}

static double norm(const float *x, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* The second bound, against unrounded activations. */
static void check_rounding(enum lam_dtype dtype, struct shape shape, const float *x,
    const uint8_t *weights, const float *exact, const float *fast)
{
    uint64_t row_bytes;
    float row[2048];

    assert_true(lam_dtype_row_bytes(dtype, shape.n_cols, &row_bytes));
    for (uint32_t n = 0; n < shape.n_out; n++) {
        lam_dequant_row(dtype, weights + n * row_bytes, shape.n_cols, row);
        for (uint32_t t = 0; t < shape.n_rows; t++) {
            size_t at = (size_t)t * shape.n_out + n;
            double limit =
                0.01 * norm(row, shape.n_cols) * norm(x + (size_t)t * shape.n_cols, shape.n_cols);
            assert_true(fabs((double)fast[at] - (double)exact[at]) <= limit);
        }
    }
}

static void check_shape(
    struct twin_set *set, enum lam_dtype dtype, struct shape shape, bool accumulate)
{
    struct twin_rng rng = {.state = 88172645463325252u + shape.n_cols};
    size_t n_x = (size_t)shape.n_rows * shape.n_cols;
    size_t n_out = (size_t)shape.n_rows * shape.n_out;
    float *x = twin_random_floats(&rng, n_x, 3.0f);
    float *rounded = twin_floats(n_x);
    float *before = twin_random_floats(&rng, n_out, 0.01f);
    float *unrounded_exact = twin_floats(n_out);
    float *exact = twin_floats(n_out);
    float *fast = twin_floats(n_out);
    uint8_t *weights = twin_weights(&rng, dtype, shape.n_out, shape.n_cols);

    memcpy(rounded, x, n_x * sizeof(*x));
    if (lam_dtype_info(dtype)->block_elems > 1)
        twin_quantise(x, n_x, rounded);
    for (uint32_t i = 0; i < set->n_fast; i++) {
        for (size_t j = 0; accumulate && j < n_out; j++)
            exact[j] = unrounded_exact[j] = fast[j] = before[j];
        run(&set->ref, dtype, shape, x, weights, accumulate, unrounded_exact);
        run(&set->ref, dtype, shape, rounded, weights, accumulate, exact);
        run(&set->fast[i], dtype, shape, x, weights, accumulate, fast);
        double worst = worst_error(dtype, shape, rounded, weights, exact, fast);
        if (worst > 0x1p-19)
            fail_msg("%s %s T=%u cols=%u out=%u: error %g", set->fast[i].name,
                lam_dtype_info(dtype)->name, shape.n_rows, shape.n_cols, shape.n_out, worst);
        check_rounding(dtype, shape, x, weights, unrounded_exact, fast);
    }
    twin_weights_free(weights);
    twin_free(fast);
    twin_free(exact);
    twin_free(unrounded_exact);
    twin_free(before);
    twin_free(rounded);
    twin_free(x);
}

static void test_twins(void **state)
{
    struct twin_set set;

    (void)state;
    twin_set_init(&set, 2);
    for (size_t d = 0; d < twin_n_dtypes; d++) {
        for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
            if (shapes[s].n_cols % lam_dtype_info(twin_dtypes[d])->block_elems == 0)
                check_shape(&set, twin_dtypes[d], shapes[s], s % 2 == 1);
        }
    }
    twin_set_done(&set);
}

/* Float weights come in rows of any length. */
static void test_float_tails(void **state)
{
    struct twin_set set;

    (void)state;
    twin_set_init(&set, 2);
    for (size_t d = 0; d < 3; d++) {
        for (size_t s = 0; s < sizeof(float_shapes) / sizeof(float_shapes[0]); s++)
            check_shape(&set, twin_dtypes[d], float_shapes[s], false);
    }
    twin_set_done(&set);
}

/* The least defect of a weight: its lowest bit. In every format the last quantity byte is that of a
 * weight. */
static size_t a_weight_byte(enum lam_dtype dtype)
{
    switch (dtype) {
    case LAM_F32:
        return 2; /* as small as a bit of BF16 */
    case LAM_F16:
    case LAM_BF16:
        return 0;
    case LAM_Q6_K:
        return 5;
    default:
        return lam_dtype_info(dtype)->block_bytes - 3u;
    }
}

static void test_bound_has_teeth(void **state)
{
    struct shape shape = {2, 512, 5};
    struct twin_set set;
    struct twin_rng rng = {.state = 7};

    (void)state;
    twin_set_init(&set, 1);
    for (size_t d = 0; d < twin_n_dtypes; d++) {
        enum lam_dtype dtype = twin_dtypes[d];
        float *x = twin_random_floats(&rng, (size_t)2 * 512, 1.0f);
        float *rounded = twin_floats((size_t)2 * 512);
        float *exact = twin_floats(10);
        float *fast = twin_floats(10);
        uint8_t *weights = twin_weights(&rng, dtype, 5, 512);
        memcpy(rounded, x, (size_t)2 * 512 * sizeof(*x));
        if (lam_dtype_info(dtype)->block_elems > 1)
            twin_quantise(x, (size_t)2 * 512, rounded);
        for (uint32_t i = 0; i < set.n_fast; i++) {
            run(&set.fast[i], dtype, shape, x, weights, false, fast);
            weights[a_weight_byte(dtype)] ^= 1;
            run(&set.ref, dtype, shape, rounded, weights, false, exact);
            assert_true(worst_error(dtype, shape, rounded, weights, exact, fast) > 0x1p-19);
            weights[a_weight_byte(dtype)] ^= 1;
        }
        twin_weights_free(weights);
        twin_free(fast);
        twin_free(exact);
        twin_free(rounded);
        twin_free(x);
    }
    twin_set_done(&set);
}

/*
 * Three matrices of different formats and widths in one call, with a stride: each equals its own
 * call, and columns between n_out and the stride are left alone.
 */
static void test_three_matrices(void **state)
{
    static const enum lam_dtype dtypes[3] = {LAM_Q4_K, LAM_Q6_K, LAM_F16};
    static const uint32_t widths[3] = {40, 17, 64};
    struct twin_set set;
    struct twin_rng rng = {.state = 99};

    (void)state;
    twin_set_init(&set, 2);
    for (uint32_t i = 0; i < set.n_fast; i++) {
        float *x = twin_random_floats(&rng, (size_t)6 * 512, 1.0f);
        struct lam_matmul_args args = {.x = x, .n_rows = 6, .n_cols = 512, .n_mats = 3};
        uint8_t *weights[3];
        for (int m = 0; m < 3; m++) {
            weights[m] = twin_weights(&rng, dtypes[m], widths[m], 512);
            args.mats[m] = (struct lam_matmul_mat){
                weights[m], dtypes[m], widths[m], twin_floats((size_t)6 * 70), 70, false};
        }
        set.fast[i].ops->matmul(set.fast[i].kernels, &args);
        for (int m = 0; m < 3; m++) {
            struct shape shape = {6, 512, widths[m]};
            float *alone = twin_floats((size_t)6 * widths[m]);
            run(&set.fast[i], dtypes[m], shape, x, weights[m], false, alone);
            for (size_t t = 0; t < 6; t++) {
                assert_memory_equal(
                    args.mats[m].out + t * 70, alone + t * widths[m], widths[m] * sizeof(float));
                for (size_t n = widths[m]; n < 70; n++)
                    assert_true(isnan(args.mats[m].out[t * 70 + n]));
            }
            twin_free(alone);
            twin_free(args.mats[m].out);
            twin_weights_free(weights[m]);
        }
        twin_free(x);
    }
    twin_set_done(&set);
}

/* A NaN or infinity in a row must come out as one (a clean number would hide a broken layer), and
 * stay in its row. */
static void test_nan_stays_in_its_row(void **state)
{
    static const float poisons[] = {NAN, INFINITY, -INFINITY};
    struct shape shape = {3, 256, 20};
    struct twin_set set;
    struct twin_rng rng = {.state = 5};

    (void)state;
    twin_set_init(&set, 2);
    for (size_t d = 0; d < twin_n_dtypes; d++) {
        for (uint32_t i = 0; i < set.n_fast * 3; i++) {
            float *x = twin_random_floats(&rng, (size_t)3 * 256, 1.0f);
            float *out = twin_floats((size_t)3 * 20);
            uint8_t *weights = twin_weights(&rng, twin_dtypes[d], 20, 256);
            x[256 + 77] = poisons[i % 3];
            run(&set.fast[i / 3], twin_dtypes[d], shape, x, weights, false, out);
            for (size_t n = 0; n < 20; n++) {
                assert_true(isfinite(out[n]) && isfinite(out[40 + n]));
                assert_true(!isfinite(out[20 + n]));
            }
            twin_weights_free(weights);
            twin_free(out);
            twin_free(x);
        }
    }
    twin_set_done(&set);
}

/* No rows: nothing is read or written. */
static void test_no_rows(void **state)
{
    struct twin_set set;
    struct lam_matmul_args args = {
        .n_cols = 64, .n_mats = 1, .mats = {{.dtype = LAM_Q4_0, .n_out = 4}}};

    (void)state;
    twin_set_init(&set, 2);
    set.ref.ops->matmul(set.ref.kernels, &args);
    for (uint32_t i = 0; i < set.n_fast; i++)
        set.fast[i].ops->matmul(set.fast[i].kernels, &args);
    twin_set_done(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twins),
        cmocka_unit_test(test_float_tails),
        cmocka_unit_test(test_bound_has_teeth),
        cmocka_unit_test(test_three_matrices),
        cmocka_unit_test(test_nan_stays_in_its_row),
        cmocka_unit_test(test_no_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
