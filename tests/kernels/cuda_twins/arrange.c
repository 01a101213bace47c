/*
 * arrange: products of matrices in the GPU's own order against the same products in the file's
 * order, which test_matmul_twins holds against the reference: the same bits. What cannot be
 * arranged must stay as it was to the last byte.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/size.h"
#include "kernels/half.h"
#include "tests/kernels/cuda_twins/gpu.h"

enum { MATS = 3 };

/* A call: matrices of one width. arranged: bits of those that are. */
struct call {
    uint32_t n_rows;
    uint32_t n_cols;
    uint32_t n_mats;
    enum lam_dtype dtypes[MATS];
    uint32_t n_outs[MATS];
    uint32_t arranged;
    bool accumulate;
};

static uint64_t weight_bytes(enum lam_dtype dtype, uint32_t n_out, uint32_t n_cols)
{
    uint64_t row_bytes;

    assert_true(lam_dtype_row_bytes(dtype, n_cols, &row_bytes));
    return row_bytes * n_out;
}

/* BF16 numbers that F16 does not hold as they are: none but 0 below 2^-17. */
static void make_halves_exact(uint8_t *weights, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, weights + 2 * i, sizeof(bits));
        if (fabsf(lam_f32_from_bf16(bits)) < 0x1p-17f)
            memset(weights + 2 * i, 0, sizeof(bits));
    }
}

static uint8_t *make_weights(enum lam_dtype dtype, uint32_t n_out, uint32_t n_cols, uint32_t seed)
{
    struct twin_rng rng = {.state = 88172645463325252u + seed};
    uint8_t *weights = twin_weights(&rng, dtype, n_out, n_cols);

    if (dtype == LAM_BF16)
        make_halves_exact(weights, (uint64_t)n_out * n_cols);
    return weights;
}

/* Results of the matrices one behind the other, [matrix][row][n_out]. */
static void run_call(struct gpu *gpu, const struct call *call, float *ret)
{
    struct twin_rng rng = {.state = 1234567 + call->n_cols};
    size_t n_x = (size_t)call->n_rows * call->n_cols;
    float *x = twin_random_floats(&rng, n_x, 1.0f);
    struct lam_matmul_args args = {
        .x = gpu_put(gpu, x, n_x * sizeof(*x), 0),
        .n_rows = call->n_rows,
        .n_cols = call->n_cols,
        .accumulate = call->accumulate,
        .n_mats = call->n_mats,
    };

    for (uint32_t m = 0; m < call->n_mats; m++) {
        uint32_t n_out = call->n_outs[m];
        size_t n = (size_t)call->n_rows * n_out;
        uint8_t *weights = make_weights(call->dtypes[m], n_out, call->n_cols, m);
        float *before = twin_random_floats(&rng, n, 1.0f);
        struct lam_arrange_args arrange = {
            .weight = gpu_put(gpu, weights, weight_bytes(call->dtypes[m], n_out, call->n_cols), 0),
            .dtype = call->dtypes[m],
            .n_out = n_out,
            .n_cols = call->n_cols,
        };
        bool arranged = (call->arranged >> m & 1) != 0;
        if (arranged)
            assert_true(gpu->ops->arrange(gpu->kernels, &arrange));
        args.mats[m] = (struct lam_matmul_mat){
            arrange.weight, call->dtypes[m], n_out, gpu_floats(gpu, n), n_out, arranged};
        if (call->accumulate)
            gpu->device->upload(gpu->kernels, args.mats[m].out, before, n * sizeof(float));
        twin_weights_free(weights);
        twin_free(before);
    }
    gpu->ops->matmul(gpu->kernels, &args);
    for (uint32_t m = 0; m < call->n_mats; m++) {
        size_t n = (size_t)call->n_rows * call->n_outs[m];
        gpu_get(gpu, ret, args.mats[m].out, n * sizeof(float));
        ret += n;
    }
    gpu_reset(gpu);
    twin_free(x);
}

static void check_same(struct gpu *gpu, struct call call)
{
    size_t n = 0;

    for (uint32_t m = 0; m < call.n_mats; m++)
        n += (size_t)call.n_rows * call.n_outs[m];
    float *arranged = twin_floats(n);
    float *plain = twin_floats(n);
    run_call(gpu, &call, arranged);
    call.arranged = 0;
    run_call(gpu, &call, plain);
    for (size_t i = 0; i < n; i++) {
        if (memcmp(arranged + i, plain + i, sizeof(*plain)) != 0 || !isfinite(plain[i]))
            fail_msg("%s, %u rows, %u columns: result %zu of %zu is %g, in the file's order %g",
                lam_dtype_info(call.dtypes[0])->name, call.n_rows, call.n_cols, i, n,
                (double)arranged[i], (double)plain[i]);
    }
    twin_free(arranged);
    twin_free(plain);
}

static bool has_order(enum lam_dtype dtype)
{
    return dtype != LAM_F32 && dtype != LAM_F16;
}

void test_arrange_twins(void **state)
{
    /* One step and many, fewer slices than warps, odd numbers of steps for a warp; tiles that
     * leave blocks with nothing to do; all numbers of column tiles. */
    static const struct {
        uint32_t n_rows, n_cols, n_out;
    } shapes[] = {
        {1, 256, 16},
        {1, 512, 48},
        {1, 1280, 32},
        {1, 4096, 48},
        {1, 2304, 16},
        {2, 768, 32},
        {3, 256, 144},
        {4, 2048, 32},
        {5, 512, 64},
        {8, 1792, 16},
        {9, 256, 48},
        {16, 2560, 32},
        {17, 512, 48},
        {33, 256, 144},
        {64, 768, 80},
        {65, 256, 48},
        {80, 1280, 144},
    };

    for (size_t d = 0; d < twin_n_dtypes; d++) {
        for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
            if (has_order(twin_dtypes[d]))
                check_same(*state, (struct call){shapes[s].n_rows, shapes[s].n_cols, 1,
                                       {twin_dtypes[d]}, {shapes[s].n_out}, 1, s % 2 == 1});
        }
    }
}

/* Matrices of one call in different formats and orders. */
void test_arrange_three(void **state)
{
    static const enum lam_dtype dtypes[][MATS] = {{LAM_Q4_K, LAM_Q6_K, LAM_Q4_K},
        {LAM_Q8_0, LAM_Q8_0, LAM_Q8_0}, {LAM_BF16, LAM_F16, LAM_BF16}};
    static const uint32_t row_counts[] = {1, 6, 20, 70};

    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t arranged = 1; arranged < 8; arranged += 2) {
            struct call call = {row_counts[arranged / 2], 512, MATS,
                {dtypes[i][0], dtypes[i][1], dtypes[i][2]}, {64, 16, 48}, arranged, false};
            if (!has_order(dtypes[i][1]))
                call.arranged &= 5;
            check_same(*state, call);
        }
    }
}

/* More rows than the workspace's tile holds at once. */
void test_arrange_tiles(void **state)
{
    if (!gpu_takes(UINT64_C(14336) * 4480))
        skip();
    check_same(*state, (struct call){1, 14336, 1, {LAM_Q8_0}, {4480}, 1, false});
}

/* Offers a matrix; fails the test if it is taken, or changed. */
static void check_refused(struct gpu *gpu, enum lam_dtype dtype, uint32_t n_out, uint32_t n_cols,
    uint32_t skew, const uint8_t *weights)
{
    uint64_t bytes = weight_bytes(dtype, n_out, n_cols);
    uint8_t *after = lam_calloc(bytes, 1);
    struct lam_arrange_args arrange = {gpu_put(gpu, weights, bytes, skew), dtype, n_out, n_cols};

    assert_non_null(after);
    if (gpu->ops->arrange(gpu->kernels, &arrange))
        fail_msg("%s %u x %u at %u was arranged", lam_dtype_info(dtype)->name, n_out, n_cols, skew);
    gpu_get(gpu, after, arrange.weight, bytes);
    assert_memory_equal(after, weights, bytes);
    gpu_reset(gpu);
    lam_free(after);
}

/* No whole tiles, no whole chunks, not aligned; formats that are read best as they are. */
void test_arrange_refuses(void **state)
{
    static const struct {
        enum lam_dtype dtype;
        uint32_t n_out, n_cols, skew;
    } cases[] = {
        {LAM_Q8_0, 24, 256, 0},
        {LAM_Q8_0, 16, 288, 0},
        {LAM_Q4_0, 16, 256, 2},
        {LAM_Q4_K, 8, 256, 0},
        {LAM_Q4_K, 16, 256, 8},
        {LAM_BF16, 16, 96, 0},
        {LAM_BF16, 16, 256, 2},
        {LAM_F16, 16, 256, 0},
        {LAM_F32, 16, 256, 0},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t *weights = make_weights(cases[i].dtype, cases[i].n_out, cases[i].n_cols, 0);
        check_refused(
            *state, cases[i].dtype, cases[i].n_out, cases[i].n_cols, cases[i].skew, weights);
        twin_weights_free(weights);
    }
}

static uint16_t bf16_of(float x)
{
    return (uint16_t)(lam_f32_to_bits(x) >> 16);
}

/* BF16 that F16 cannot hold: too large, not finite, or a row of small numbers. A few small numbers
 * among others do not matter. */
void test_arrange_bf16(void **state)
{
    enum { ROWS = 3, COLS = 256 };
    static const float misfits[] = {65536.0f, -1e30f, INFINITY, NAN};
    uint8_t *weights = make_weights(LAM_BF16, ROWS, COLS, 0);
    uint8_t *last_row = weights + (uint64_t)(ROWS - 1) * COLS * 2;
    struct gpu *gpu = *state;
    uint16_t bits, kept;

    memcpy(&kept, last_row, sizeof(kept));
    for (size_t i = 0; i < sizeof(misfits) / sizeof(misfits[0]); i++) {
        bits = bf16_of(misfits[i]);
        memcpy(last_row, &bits, sizeof(bits));
        check_refused(gpu, LAM_BF16, ROWS, COLS, 0, weights);
    }
    bits = bf16_of(0x1.02p-20f);
    memcpy(last_row, &bits, sizeof(bits));
    struct lam_arrange_args arrange = {
        gpu_put(gpu, weights, (uint64_t)ROWS * COLS * 2, 0), LAM_BF16, ROWS, COLS};
    assert_true(gpu->ops->arrange(gpu->kernels, &arrange));
    for (uint32_t at = 0; at < ROWS * COLS; at += COLS - 1) { /* F16 with their values now */
        uint16_t half;
        gpu_get(gpu, &half, (uint8_t *)arrange.weight + 2 * at, sizeof(half));
        memcpy(&bits, weights + 2 * at, sizeof(bits));
        assert_true(fabsf(lam_f32_from_f16(half) - lam_f32_from_bf16(bits)) <= 0x1p-25f);
    }
    gpu_reset(gpu);
    memcpy(last_row, &kept, sizeof(kept));
    bits = bf16_of(0x1.02p-20f);
    for (uint32_t k = 0; k < COLS; k++)
        memcpy(last_row + 2 * k, &bits, sizeof(bits));
    check_refused(gpu, LAM_BF16, ROWS, COLS, 0, weights);
    twin_weights_free(weights);
}
