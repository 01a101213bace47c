/* argmax on the GPU: the column of the reference, for rows at every alignment that floats have. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/kernels/cuda_twins/gpu.h"

enum { ROWS_MAX = 64 };

static void check(struct gpu *gpu, uint32_t kind, uint32_t n_rows, uint32_t n_cols, uint32_t skew)
{
    struct twin_rng rng = {.state = 171 + kind};
    float *x = twin_peaks(&rng, kind, n_rows, n_cols);
    int32_t exact[ROWS_MAX], fast[ROWS_MAX];
    struct lam_argmax_args args = {x, exact, n_rows, n_cols};

    gpu->ref->argmax(gpu->ref_kernels, &args);
    memset(fast, 0xff, sizeof(fast));
    args.x = gpu_put(gpu, x, (uint64_t)n_rows * n_cols * sizeof(*x), skew);
    args.out = gpu_put(gpu, fast, n_rows * sizeof(*fast), 0);
    gpu->ops->argmax(gpu->kernels, &args);
    gpu_get(gpu, fast, args.out, n_rows * sizeof(*fast));
    for (uint32_t t = 0; t < n_rows; t++) {
        if (fast[t] != exact[t])
            fail_msg("row %u of %u, %u columns, kind %u: %d, expected %d", t, n_rows, n_cols,
                (kind + t) % TWIN_PEAK_KINDS, fast[t], exact[t]);
    }
    gpu_reset(gpu);
    twin_free(x);
}

/* Fewer columns than a 16-byte load has, than a warp and a block have threads; a block's loads in
 * one round, in several; vocabularies. */
void test_argmax_twins(void **state)
{
    static const uint32_t row_counts[] = {2, 3, 17, ROWS_MAX};
    static const uint32_t widths[] = {1, 2, 3, 5, 31, 127, 1000, 4099, 32768, 32771, 49152, 128256};

    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        for (uint32_t kind = 0; kind < TWIN_PEAK_KINDS; kind++)
            check(*state, kind, 1, widths[i], kind % 4 * sizeof(float));
        for (size_t r = 0; r < sizeof(row_counts) / sizeof(row_counts[0]); r++) {
            uint32_t n_rows = row_counts[r];
            if (gpu_takes((uint64_t)n_rows * widths[i] * 100))
                check(*state, n_rows, n_rows, widths[i], 0);
        }
    }
}

/* A product makes the row, and the next one overwrites it. */
void test_argmax_waits(void **state)
{
    enum { N_COLS = 256, N_OUT = 5000 };
    struct gpu *gpu = *state;
    struct twin_rng rng = {.state = 191};
    float *x = twin_random_floats(&rng, N_COLS, 1.0f);
    float *logits = twin_floats(N_OUT);
    uint8_t *weights = twin_weights(&rng, LAM_F16, N_OUT, N_COLS);
    int32_t exact = -1, fast = -1;
    struct lam_argmax_args args = {logits, &exact, 1, N_OUT};
    struct lam_matmul_args product = {.n_rows = 1, .n_cols = N_COLS, .n_mats = 1};

    product.x = gpu_put(gpu, x, N_COLS * sizeof(*x), 0);
    product.mats[0] =
        (struct lam_matmul_mat){.weight = gpu_put(gpu, weights, (uint64_t)N_OUT * N_COLS * 2, 0),
            .dtype = LAM_F16,
            .n_out = N_OUT,
            .out = gpu_floats(gpu, N_OUT),
            .out_stride = N_OUT};
    args.x = product.mats[0].out;
    args.out = gpu_put(gpu, &fast, sizeof(fast), 0);
    gpu->ops->matmul(gpu->kernels, &product);
    gpu->ops->argmax(gpu->kernels, &args);
    product.mats[0].weight = (const uint8_t *)product.mats[0].weight + N_COLS * 2;
    product.mats[0].n_out = N_OUT - 1;
    gpu->ops->matmul(gpu->kernels, &product);
    gpu_get(gpu, &fast, args.out, sizeof(fast));
    product.mats[0].weight = (const uint8_t *)product.mats[0].weight - N_COLS * 2;
    product.mats[0].n_out = N_OUT;
    gpu->ops->matmul(gpu->kernels, &product);
    gpu_get(gpu, logits, product.mats[0].out, N_OUT * sizeof(*logits));
    args.x = logits;
    args.out = &exact;
    gpu->ref->argmax(gpu->ref_kernels, &args);
    assert_true(exact > 0);
    assert_int_equal(fast, exact);
    gpu_reset(gpu);
    twin_free(x);
    twin_free(logits);
    twin_weights_free(weights);
}
