/*
 * rms_norm, rope and swiglu against their twins, over widths with tails.
 *
 * Bounds, relative to what the formula adds up: rms_norm 2^-20 * |result|; rope 2^-22 * (|x| + |y|)
 * of the pair; swiglu 2^-20 * |result| plus 1e-36 where exp underflows. Each test also shows a near
 * miss (another eps, the next position's angles, one result off by 2^-16) breaking its bound.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/kernels/twin.h"

static const uint32_t row_counts[] = {1, 2, 3, 5, 17, 64};
static const uint32_t widths[] = {1, 7, 16, 31, 64, 576, 1000};

/* Largest |fast - exact| / (|exact| + floor); huge when a result is no number. */
static double worst_ratio(const float *exact, const float *fast, size_t n, double floor)
{
    double worst = 0;

    for (size_t i = 0; i < n; i++) {
        double ratio = fabs((double)fast[i] - (double)exact[i]) / (fabs((double)exact[i]) + floor);
        if (isnan(ratio))
            return 1;
        worst = fmax(worst, ratio);
    }
    return worst;
}

static void norm(const struct twin_backend *backend, const float *x, const float *weight,
    uint32_t n_rows, uint32_t n_cols, float eps, float *out)
{
    struct lam_rms_norm_args args = {x, weight, out, n_rows, n_cols, eps, false};

    backend->ops->rms_norm(backend->kernels, &args);
}

static void test_rms_norm(void **state)
{
    struct twin_set set;
    struct twin_rng rng = {.state = 31};

    (void)state;
    twin_set_init(&set, 2);
    for (size_t i = 0; i < 6 * 7; i++) {
        uint32_t n_rows = row_counts[i / 7], n_cols = widths[i % 7];
        size_t n = (size_t)n_rows * n_cols;
        float *x = twin_random_floats(&rng, n, 0.1f);
        float *weight = twin_random_floats(&rng, n_cols, 2.0f);
        float *exact = twin_floats(n), *other_eps = twin_floats(n), *fast = twin_floats(n);
        norm(&set.ref, x, weight, n_rows, n_cols, 1e-5f, exact);
        norm(&set.ref, x, weight, n_rows, n_cols, 1.1e-5f, other_eps);
        assert_true(worst_ratio(other_eps, exact, n, 1e-30) > 0x1p-20);
        for (uint32_t b = 0; b < set.n_fast; b++) {
            norm(&set.fast[b], x, weight, n_rows, n_cols, 1e-5f, fast);
            assert_true(worst_ratio(exact, fast, n, 1e-30) <= 0x1p-20);
            memcpy(fast, x, n * sizeof(*x)); /* in place */
            norm(&set.fast[b], fast, weight, n_rows, n_cols, 1e-5f, fast);
            assert_true(worst_ratio(exact, fast, n, 1e-30) <= 0x1p-20);
        }
        twin_free(x);
        twin_free(weight);
        twin_free(exact);
        twin_free(other_eps);
        twin_free(fast);
    }
    twin_set_done(&set);
}

struct rope_shape {
    uint32_t n_rows, n_heads, head_dim, rope_dim;
};

static const struct rope_shape rope_shapes[] = {{1, 9, 64, 64}, {2, 1, 2, 2}, {3, 3, 80, 20},
    {17, 5, 128, 128}, {64, 4, 36, 34}, {5, 2, 256, 256}};

static double pair_error(
    const float *x, const float *exact, const float *fast, uint32_t i, uint32_t j)
{
    double sum = fabs((double)x[i]) + fabs((double)x[j]);
    double error =
        fabs((double)exact[i] - (double)fast[i]) + fabs((double)exact[j] - (double)fast[j]);

    return isnan(error) ? 1 : error / (sum + 1e-30);
}

/* Worst error of the rotated pairs; values beyond rope_dim must be what they were. */
static double rope_error(const struct rope_shape *shape, enum lam_rope_pairing pairing,
    const float *x, const float *exact, const float *fast)
{
    double worst = 0;
    uint32_t half = shape->rope_dim / 2;

    for (uint32_t v = 0; v < shape->n_rows * shape->n_heads; v++) {
        size_t at = (size_t)v * shape->head_dim;
        for (uint32_t i = 0; i < half; i++) {
            uint32_t a = pairing == LAM_ROPE_ADJACENT ? 2 * i : i;
            uint32_t b = pairing == LAM_ROPE_ADJACENT ? 2 * i + 1 : i + half;
            worst = fmax(worst, pair_error(x + at, exact + at, fast + at, a, b));
        }
        assert_memory_equal(x + at + shape->rope_dim, fast + at + shape->rope_dim,
            (shape->head_dim - shape->rope_dim) * sizeof(*x));
    }
    return worst;
}

static void check_rope(struct twin_set *set, const struct rope_shape *shape, bool with_factors)
{
    struct twin_rng rng = {.state = 41};
    size_t n = (size_t)shape->n_rows * shape->n_heads * shape->head_dim;
    size_t n_table = (size_t)shape->n_rows * shape->rope_dim;
    float *x = twin_random_floats(&rng, n, 2.0f);
    float *exact = twin_floats(n), *fast = twin_floats(n);
    float *table = twin_floats(n_table), *late = twin_floats(n_table),
          *fast_table = twin_floats(n_table);
    float *factors = twin_random_floats(&rng, shape->rope_dim / 2, 4.0f);
    int32_t positions[64], next[64];
    struct lam_rope_table_args table_args = {positions, shape->n_rows, shape->rope_dim, 10000.0f,
        2.0f, with_factors ? factors : NULL, table};

    for (int32_t t = 0; t < 64; t++) {
        positions[t] = t * 997;
        next[t] = positions[t] + 1;
    }
    set->ref.ops->rope_table(set->ref.kernels, &table_args);
    for (uint32_t i = 0; i < set->n_fast * 2; i++) {
        const struct twin_backend *backend = &set->fast[i / 2];
        enum lam_rope_pairing pairing = i % 2 == 0 ? LAM_ROPE_ADJACENT : LAM_ROPE_HALVES;
        struct lam_rope_args args = {
            exact, table, shape->n_rows, shape->n_heads, shape->head_dim, shape->rope_dim, pairing};
        table_args.table = fast_table;
        backend->ops->rope_table(backend->kernels, &table_args);
        assert_memory_equal(table, fast_table, n_table * sizeof(*table));
        memcpy(exact, x, n * sizeof(*x));
        memcpy(fast, x, n * sizeof(*x));
        set->ref.ops->rope(set->ref.kernels, &args);
        args.x = fast;
        backend->ops->rope(backend->kernels, &args);
        assert_true(rope_error(shape, pairing, x, exact, fast) <= 0x1p-22);
        /* Teeth: the next position's angles. */
        struct lam_rope_table_args late_args = table_args;
        late_args.positions = next;
        late_args.table = late;
        set->ref.ops->rope_table(set->ref.kernels, &late_args);
        memcpy(fast, x, n * sizeof(*x));
        args.table = late;
        backend->ops->rope(backend->kernels, &args);
        assert_true(rope_error(shape, pairing, x, exact, fast) > 0x1p-22);
    }
    twin_free(x);
    twin_free(exact);
    twin_free(fast);
    twin_free(table);
    twin_free(late);
    twin_free(fast_table);
    twin_free(factors);
}

static void test_rope(void **state)
{
    struct twin_set set;

    (void)state;
    twin_set_init(&set, 2);
    for (size_t i = 0; i < sizeof(rope_shapes) / sizeof(rope_shapes[0]); i++)
        check_rope(&set, &rope_shapes[i], i % 2 == 1);
    twin_set_done(&set);
}

static void swiglu(
    const struct twin_backend *backend, const float *gate, const float *up, size_t n, float *out)
{
    struct lam_swiglu_args args = {gate, up, out, n, 0};

    backend->ops->swiglu(backend->kernels, &args);
}

static void test_swiglu(void **state)
{
    struct twin_set set;
    struct twin_rng rng = {.state = 51};

    (void)state;
    twin_set_init(&set, 2);
    for (size_t i = 0; i < 8; i++) {
        size_t n = i < 7 ? widths[i] : 20011;
        float *gate = twin_random_floats(&rng, n, i % 2 == 0 ? 8.0f : 95.0f);
        float *up = twin_random_floats(&rng, n, 2.0f);
        float *exact = twin_floats(n), *fast = twin_floats(n);
        swiglu(&set.ref, gate, up, n, exact);
        for (uint32_t b = 0; b < set.n_fast; b++) {
            swiglu(&set.fast[b], gate, up, n, fast);
            assert_true(worst_ratio(exact, fast, n, 1e-30) <= 0x1p-20);
            memcpy(fast, gate, n * sizeof(*gate)); /* in place */
            swiglu(&set.fast[b], fast, up, n, fast);
            assert_true(worst_ratio(exact, fast, n, 1e-30) <= 0x1p-20);
            fast[n / 2] *= 1 + 0x1p-16f; /* teeth */
            assert_true(worst_ratio(exact, fast, n, 1e-30) > 0x1p-20);
        }
        twin_free(gate);
        twin_free(up);
        twin_free(exact);
        twin_free(fast);
    }
    twin_set_done(&set);
}

/* Ends of the number line: the right limit, or a NaN that shows, and no trap. */
static void test_swiglu_extremes(void **state)
{
    static const float gates[] = {
        INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 1e30f, -1e30f, 88.5f, -88.5f};
    struct twin_set set;
    float up[9], out[9];

    (void)state;
    twin_set_init(&set, 1);
    for (size_t i = 0; i < 9; i++)
        up[i] = 1;
    for (uint32_t b = 0; b < set.n_fast; b++) {
        swiglu(&set.fast[b], gates, up, 9, out);
        assert_true(isinf(out[0]) && out[0] > 0);
        assert_true(!isfinite(out[1]));
        assert_true(isnan(out[2]));
        assert_true(out[3] == 0 && out[4] == 0);
        assert_true(out[5] == 1e30f);
        assert_true(fabsf(out[6]) < 1e-6f);
        assert_true(out[7] == 88.5f);
        assert_true(fabsf(out[8]) < 1e-35f);
    }
    twin_set_done(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_swiglu_extremes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
