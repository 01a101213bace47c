/*
 * dequant, rms_norm, rope and swiglu on the GPU against the reference, over widths with tails.
 *
 * Bounds: dequant: the same bits. rms_norm 2^-20 * |result|; rope 2^-22 * (|x| + |y|) of the pair,
 * its table to the last bit of f32; swiglu 2^-20 * |result| plus 1e-36 where exp underflows.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/kernels/cuda_twins/gpu.h"

static const uint32_t row_counts[] = {1, 2, 3, 5, 17, 64};
static const uint32_t widths[] = {1, 7, 31, 64, 576, 1000, 8192};

/* Largest |fast - exact| / (|exact| + floor); 1 when a result is no number. */
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

void test_dequant(void **state)
{
    enum { N_ROWS = 300 };
    struct gpu *gpu = *state;
    const void *rows[N_ROWS], *gpu_rows[N_ROWS];

    for (size_t d = 0; d < twin_n_dtypes; d++) {
        const struct lam_dtype_info *info = lam_dtype_info(twin_dtypes[d]);
        for (uint32_t i = 0; i < 2; i++) {
            struct twin_rng rng = {.state = 51 + i};
            uint32_t n_cols = i == 0 ? 768 : info->block_elems * 3;
            uint64_t row_bytes;
            assert_true(lam_dtype_row_bytes(twin_dtypes[d], n_cols, &row_bytes));
            uint8_t *matrix = twin_weights(&rng, twin_dtypes[d], 7, n_cols);
            uint8_t *on_gpu = gpu_put(gpu, matrix, 7 * row_bytes, 2);
            size_t n = (size_t)N_ROWS * n_cols;
            float *exact = twin_floats(n), *fast = twin_floats(n);
            for (uint32_t t = 0; t < N_ROWS; t++) {
                rows[t] = matrix + t * t % 7 * row_bytes;
                gpu_rows[t] = on_gpu + t * t % 7 * row_bytes;
            }
            struct lam_dequant_args args = {rows, twin_dtypes[d], N_ROWS, n_cols, exact};
            gpu->ref->dequant(gpu->ref_kernels, &args);
            args.rows = gpu_rows;
            args.out = gpu_floats(gpu, n);
            gpu->ops->dequant(gpu->kernels, &args);
            gpu_get(gpu, fast, args.out, n * sizeof(*fast));
            assert_memory_equal(exact, fast, n * sizeof(*fast));
            gpu_reset(gpu);
            twin_free(exact);
            twin_free(fast);
            twin_weights_free(matrix);
        }
    }
}

void test_rms_norm(void **state)
{
    struct gpu *gpu = *state;
    struct twin_rng rng = {.state = 31};

    for (size_t i = 0; i < 6 * 7; i++) {
        uint32_t n_rows = row_counts[i / 7], n_cols = widths[i % 7];
        size_t n = (size_t)n_rows * n_cols;
        float *x = twin_random_floats(&rng, n, 0.1f);
        float *weight = twin_random_floats(&rng, n_cols, 2.0f);
        float *exact = twin_floats(n), *other_eps = twin_floats(n), *fast = twin_floats(n);
        struct lam_rms_norm_args args = {x, weight, other_eps, n_rows, n_cols, 1.1e-5f, false};
        gpu->ref->rms_norm(gpu->ref_kernels, &args);
        args.eps = 1e-5f;
        args.out = exact;
        gpu->ref->rms_norm(gpu->ref_kernels, &args);
        assert_true(worst_ratio(other_eps, exact, n, 1e-30) > 0x1p-20);
        args.x = gpu_put(gpu, x, n * sizeof(*x), 0);
        args.weight = gpu_put(gpu, weight, n_cols * sizeof(*weight), 0);
        args.out = gpu_floats(gpu, n);
        gpu->ops->rms_norm(gpu->kernels, &args);
        gpu_get(gpu, fast, args.out, n * sizeof(*fast));
        assert_true(worst_ratio(exact, fast, n, 1e-30) <= 0x1p-20);
        args.out = gpu_put(gpu, x, n * sizeof(*x), 0); /* in place */
        args.x = args.out;
        gpu->ops->rms_norm(gpu->kernels, &args);
        gpu_get(gpu, other_eps, args.out, n * sizeof(*fast));
        assert_memory_equal(fast, other_eps, n * sizeof(*fast));
        gpu_reset(gpu);
        twin_free(x);
        twin_free(weight);
        twin_free(exact);
        twin_free(other_eps);
        twin_free(fast);
    }
}

struct rope_shape {
    uint32_t n_rows, n_heads, head_dim, rope_dim;
};

static const struct rope_shape rope_shapes[] = {{1, 9, 64, 64}, {2, 1, 2, 2}, {3, 3, 80, 20},
    {17, 5, 128, 128}, {64, 4, 36, 34}, {5, 2, 256, 256}};

/* Worst error of the rotated pairs; values beyond rope_dim must be what they were. */
static double rope_error(const struct rope_shape *shape, enum lam_rope_pairing pairing,
    const float *x, const float *exact, const float *fast)
{
    double worst = 0;
    uint32_t half = shape->rope_dim / 2;

    for (uint32_t v = 0; v < shape->n_rows * shape->n_heads; v++) {
        size_t at = (size_t)v * shape->head_dim;
        for (uint32_t i = 0; i < half; i++) {
            size_t a = at + (pairing == LAM_ROPE_ADJACENT ? 2 * i : i);
            size_t b = at + (pairing == LAM_ROPE_ADJACENT ? 2 * i + 1 : i + half);
            double sum = fabs((double)x[a]) + fabs((double)x[b]) + 1e-30;
            double error =
                fabs((double)exact[a] - (double)fast[a]) + fabs((double)exact[b] - (double)fast[b]);
            worst = isnan(error) ? 1 : fmax(worst, error / sum);
        }
        assert_memory_equal(x + at + shape->rope_dim, fast + at + shape->rope_dim,
            (shape->head_dim - shape->rope_dim) * sizeof(*x));
    }
    return worst;
}

/* Angles up to position 130,000, then a rotation by them. late: the angles of the next position,
 * which must break the bound. */
static void check_rope(struct gpu *gpu, const struct rope_shape *shape, bool with_factors)
{
    struct twin_rng rng = {.state = 41};
    size_t n = (size_t)shape->n_rows * shape->n_heads * shape->head_dim;
    size_t n_table = (size_t)shape->n_rows * shape->rope_dim;
    float *x = twin_random_floats(&rng, n, 2.0f);
    float *exact = twin_floats(n), *fast = twin_floats(n);
    float *table = twin_floats(n_table), *late = twin_floats(n_table), *got = twin_floats(n_table);
    float *factors = twin_random_floats(&rng, shape->rope_dim / 2, 4.0f);
    int32_t positions[64], next[64];
    struct lam_rope_table_args table_args = {
        next, shape->n_rows, shape->rope_dim, 10000.0f, 2.0f, with_factors ? factors : NULL, late};

    for (int32_t t = 0; t < 64; t++) {
        positions[t] = t * 2063;
        next[t] = positions[t] + 1;
    }
    gpu->ref->rope_table(gpu->ref_kernels, &table_args);
    table_args.positions = positions;
    table_args.table = table;
    gpu->ref->rope_table(gpu->ref_kernels, &table_args);
    table_args.positions = gpu_put(gpu, positions, sizeof(positions), 0);
    table_args.factors =
        with_factors ? gpu_put(gpu, factors, shape->rope_dim / 2 * sizeof(float), 0) : NULL;
    table_args.table = gpu_floats(gpu, n_table);
    gpu->ops->rope_table(gpu->kernels, &table_args);
    gpu_get(gpu, got, table_args.table, n_table * sizeof(*got));
    for (size_t i = 0; i < n_table; i++)
        assert_true(fabs((double)table[i] - (double)got[i]) <= 0x1p-24);
    for (uint32_t i = 0; i < 2; i++) {
        enum lam_rope_pairing pairing = i == 0 ? LAM_ROPE_ADJACENT : LAM_ROPE_HALVES;
        struct lam_rope_args args = {
            exact, table, shape->n_rows, shape->n_heads, shape->head_dim, shape->rope_dim, pairing};
        memcpy(exact, x, n * sizeof(*x));
        gpu->ref->rope(gpu->ref_kernels, &args);
        args.table = table_args.table;
        args.x = gpu_put(gpu, x, n * sizeof(*x), 0);
        gpu->ops->rope(gpu->kernels, &args);
        gpu_get(gpu, fast, args.x, n * sizeof(*x));
        assert_true(rope_error(shape, pairing, x, exact, fast) <= 0x1p-22);
        args.table = late;
        args.x = exact;
        memcpy(exact, x, n * sizeof(*x));
        gpu->ref->rope(gpu->ref_kernels, &args);
        assert_true(rope_error(shape, pairing, x, exact, fast) > 0x1p-22);
    }
    gpu_reset(gpu);
    twin_free(x);
    twin_free(exact);
    twin_free(fast);
    twin_free(table);
    twin_free(late);
    twin_free(got);
    twin_free(factors);
}

void test_rope(void **state)
{
    for (size_t i = 0; i < sizeof(rope_shapes) / sizeof(rope_shapes[0]); i++) {
        check_rope(*state, &rope_shapes[i], false);
        check_rope(*state, &rope_shapes[i], true);
    }
}

void test_swiglu(void **state)
{
    static const float extremes[] = {0, -0.0f, 88, -88, 104, -104, 1e30f, -1e30f};
    struct gpu *gpu = *state;
    struct twin_rng rng = {.state = 91};

    for (size_t i = 0; i < 7; i++) {
        size_t n = widths[i] * 3;
        float *gate = twin_random_floats(&rng, n, 20.0f);
        float *up = twin_random_floats(&rng, n, 3.0f);
        float *exact = twin_floats(n), *fast = twin_floats(n);
        memcpy(gate, extremes, (n < 8 ? n : 8) * sizeof(*gate));
        struct lam_swiglu_args args = {gate, up, exact, n, 0};
        gpu->ref->swiglu(gpu->ref_kernels, &args);
        args.gate = gpu_put(gpu, gate, n * sizeof(*gate), 0);
        args.up = gpu_put(gpu, up, n * sizeof(*up), 0);
        args.out = (float *)(uintptr_t)args.gate;
        gpu->ops->swiglu(gpu->kernels, &args);
        gpu_get(gpu, fast, args.out, n * sizeof(*fast));
        assert_true(worst_ratio(exact, fast, n, 1e-36 * 0x1p20) <= 0x1p-20);
        fast[n / 2] *= 1 + 0x1p-16f;
        fast[n / 2] += 1e-30f;
        assert_true(worst_ratio(exact, fast, n, 1e-36 * 0x1p20) > 0x1p-20);
        gpu_reset(gpu);
        twin_free(gate);
        twin_free(up);
        twin_free(exact);
        twin_free(fast);
    }
}

/* rms_norm, rope and swiglu: all rows at once, and one row at a time: the same bits. */
void test_elementwise_rows(void **state)
{
    enum { N_ROWS = 64, HEADS = 3, HEAD = 100, WIDTH = HEADS * HEAD };
    struct gpu *gpu = *state;
    struct twin_rng rng = {.state = 71};
    size_t bytes = (size_t)N_ROWS * WIDTH * sizeof(float);
    float *x = twin_random_floats(&rng, (size_t)N_ROWS * WIDTH, 1.0f);
    float *y = twin_floats((size_t)N_ROWS * WIDTH);
    float *host_weight = twin_random_floats(&rng, WIDTH, 1.0f);
    float *host_table = twin_random_floats(&rng, (size_t)N_ROWS * HEAD, 1.0f);
    float *weight = gpu_put(gpu, host_weight, WIDTH * sizeof(float), 0);
    float *table = gpu_put(gpu, host_table, (size_t)N_ROWS * HEAD * sizeof(float), 0);
    float *values[2] = {gpu_put(gpu, x, bytes, 0), gpu_put(gpu, x, bytes, 0)};

    for (uint32_t i = 0; i < 2; i++) {
        uint32_t step = i == 0 ? 1 : N_ROWS;
        for (uint32_t t = 0; t < N_ROWS; t += step) {
            float *at = values[i] + (size_t)t * WIDTH;
            struct lam_rms_norm_args norm = {at, weight, at, step, WIDTH, 1e-6f, false};
            struct lam_rope_args rope = {
                at, table + (size_t)t * HEAD, step, HEADS, HEAD, HEAD, LAM_ROPE_ADJACENT};
            struct lam_swiglu_args swiglu = {at, at, at, (uint64_t)step * WIDTH, 0};
            gpu->ops->rms_norm(gpu->kernels, &norm);
            gpu->ops->rope(gpu->kernels, &rope);
            gpu->ops->swiglu(gpu->kernels, &swiglu);
        }
    }
    gpu_get(gpu, x, values[0], bytes);
    gpu_get(gpu, y, values[1], bytes);
    assert_memory_equal(x, y, bytes);
    gpu_reset(gpu);
    twin_free(x);
    twin_free(y);
    twin_free(host_weight);
    twin_free(host_table);
}
