/*
 * matmul on the GPU against a sum in double, for every weight format.
 *
 * Bounds, for few rows (exact weights, activations of 16 bits):
 *     |gpu - exact| <= 2^-18 * sum |x w|         for float weights
 *     |gpu - exact| <= 2^-17 * sum |m w|         for packed ones, m: the largest |x| of 32 columns
 * (each rounding is at most 2^-16 m; sums are far from adding up the worst). For more rows, where
 * activations and most weights are rounded to f16 once, 2^-18 * sum |x w| of the numbers rounded
 * so, and 2^-10 * sum |x w| against the unrounded. Up to 64 rows weights in blocks of 256 are
 * exact; of Q6_K the larger integers are rounded, 2^-14.
 * test_matmul_bound_has_teeth: one quantum of one weight breaks the first.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "kernels/half.h"
#include "kernels/ref/dequant.h"
#include "tests/kernels/cuda_twins/gpu.h"

enum { FEW_ROWS = 8, FEW_FLOAT_ROWS = 16, BATCH_ROWS = 64, BATCH_COLS = 64 };

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
    {1, 1024, 65},
    {4, 2048, 31},
    {7, 512, 64},
    {8, 4096, 40},
    {9, 768, 100},
    {16, 1280, 35},
    {1, 4096, 257},
    {2, 14336, 24},
    {8, 14336, 12},
    {17, 256, 48},
    {33, 4096, 130},
    {40, 768, 257},
    {64, 14336, 24},
    {64, 544, 35},
    {80, 576, 130},
    {65, 4096, 128},
    {130, 1024, 200},
    {256, 256, 4352},
};
static const struct shape float_shapes[] = {
    {1, 1, 1}, {2, 3, 5}, {3, 13, 17}, {5, 131, 33}, {20, 13, 17}, {17, 1, 3}};

/* One product and what it needs on both sides. */
struct scene {
    enum lam_dtype dtype;
    struct shape shape;
    uint64_t row_bytes;
    float *x;
    float *before; /* what out holds before an accumulating call */
    uint8_t *weights;
};

static uint64_t work_of(struct shape shape)
{
    return (uint64_t)shape.n_rows * shape.n_cols * shape.n_out;
}

static void scene_init(struct scene *scene, enum lam_dtype dtype, struct shape shape)
{
    struct twin_rng rng = {.state = 88172645463325252u + shape.n_cols};

    scene->dtype = dtype;
    scene->shape = shape;
    assert_true(lam_dtype_row_bytes(dtype, shape.n_cols, &scene->row_bytes));
    scene->x = twin_random_floats(&rng, (size_t)shape.n_rows * shape.n_cols, 1.0f);
    scene->before = twin_random_floats(&rng, (size_t)shape.n_rows * shape.n_out, 1.0f);
    scene->weights = twin_weights(&rng, dtype, shape.n_out, shape.n_cols);
}

static void scene_done(struct scene *scene)
{
    twin_free(scene->x);
    twin_free(scene->before);
    twin_weights_free(scene->weights);
}

/* Rows [begin, end) of the scene in one call; skew: of the weights' address. */
static void run_rows(struct gpu *gpu, const struct scene *scene, uint32_t begin, uint32_t end,
    bool accumulate, uint32_t skew, float *out)
{
    struct shape shape = scene->shape;
    size_t n = (size_t)(end - begin) * shape.n_out;
    const float *x = scene->x + (size_t)begin * shape.n_cols;
    struct lam_matmul_args args = {
        .x = gpu_put(gpu, x, (uint64_t)(end - begin) * shape.n_cols * sizeof(float), 0),
        .n_rows = end - begin,
        .n_cols = shape.n_cols,
        .accumulate = accumulate,
        .n_mats = 1,
        .mats = {{.weight = gpu_put(gpu, scene->weights, shape.n_out * scene->row_bytes, skew),
            .dtype = scene->dtype,
            .n_out = shape.n_out,
            .out = gpu_floats(gpu, n),
            .out_stride = shape.n_out}},
    };

    if (accumulate)
        gpu->device->upload(gpu->kernels, args.mats[0].out,
            scene->before + (size_t)begin * shape.n_out, n * sizeof(float));
    gpu->ops->matmul(gpu->kernels, &args);
    gpu_get(gpu, out, args.mats[0].out, n * sizeof(float));
    gpu_reset(gpu);
}

static void run(struct gpu *gpu, const struct scene *scene, bool accumulate, float *out)
{
    run_rows(gpu, scene, 0, scene->shape.n_rows, accumulate, 0, out);
}

/* As the backend rounds for many rows: activations are scaled by 2^-4 first. */
static void round_all(float *values, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        values[i] = lam_f32_from_f16(lam_f16_from_f32(values[i] * scale)) / scale;
}

static bool is_packed(enum lam_dtype dtype)
{
    return lam_dtype_info(dtype)->block_elems > 1;
}

/* Whether it is in the class of few rows: up to 8, or up to 16 of what the next class refuses. */
static bool is_of_few(const struct scene *scene)
{
    bool refused = scene->dtype == LAM_F32 || scene->shape.n_cols % BATCH_COLS != 0;

    return scene->shape.n_rows <= (refused ? FEW_FLOAT_ROWS : FEW_ROWS);
}

/* Whether weights of more rows than few are multiplied as they are, not rounded to f16. */
static bool has_exact_weights(const struct scene *scene)
{
    return scene->shape.n_rows <= BATCH_ROWS && lam_dtype_info(scene->dtype)->block_elems == 256;
}

static double bound_of(const struct scene *scene)
{
    if (!is_of_few(scene) && has_exact_weights(scene) && scene->dtype == LAM_Q6_K)
        return 0x1p-14;
    return is_packed(scene->dtype) && is_of_few(scene) ? 0x1p-17 : 0x1p-18;
}

/* What an error is measured by: |x|, or the largest of 32 columns. */
static float *measures_of(const struct scene *scene, const float *x)
{
    size_t n = (size_t)scene->shape.n_rows * scene->shape.n_cols;
    size_t group = is_packed(scene->dtype) && is_of_few(scene) ? 32 : 1;
    float *measures = twin_floats(n);

    for (size_t at = 0; at < n; at += group) {
        float largest = 0;
        for (size_t i = at; i < at + group; i++)
            largest = fmaxf(largest, fabsf(x[i]));
        for (size_t i = at; i < at + group; i++)
            measures[i] = largest;
    }
    return measures;
}

/* Largest |out - exact| / sum |m w| of the call; 1 when a result is no number. */
static double worst_error(
    const struct scene *scene, bool rounded, bool accumulate, const float *out)
{
    struct shape shape = scene->shape;
    float *row = twin_floats(shape.n_cols);
    float *x = twin_floats((size_t)shape.n_rows * shape.n_cols);
    double worst = 0;

    memcpy(x, scene->x, (size_t)shape.n_rows * shape.n_cols * sizeof(*x));
    if (rounded)
        round_all(x, (size_t)shape.n_rows * shape.n_cols, 0.0625f);
    float *measures = measures_of(scene, x);
    for (uint32_t n = 0; n < shape.n_out; n++) {
        lam_dequant_row(scene->dtype, scene->weights + n * scene->row_bytes, shape.n_cols, row);
        if (rounded && !has_exact_weights(scene))
            round_all(row, shape.n_cols, 1.0f);
        for (uint32_t t = 0; t < shape.n_rows; t++) {
            size_t at = (size_t)t * shape.n_out + n;
            double exact = accumulate ? (double)scene->before[at] : 0;
            double sum = fabs(exact);
            for (uint32_t k = 0; k < shape.n_cols; k++) {
                size_t i = (size_t)t * shape.n_cols + k;
                exact += (double)x[i] * (double)row[k];
                sum += (double)measures[i] * fabs((double)row[k]);
            }
            double error = fabs((double)out[at] - exact);
            if (isnan(error))
                worst = 1;
            worst = fmax(worst, sum > 0 ? error / sum : 0);
        }
    }
    twin_free(row);
    twin_free(x);
    twin_free(measures);
    return worst;
}

static void check(struct gpu *gpu, enum lam_dtype dtype, struct shape shape, bool accumulate)
{
    struct scene scene;
    size_t n = (size_t)shape.n_rows * shape.n_out;
    float *out = twin_floats(n);
    float *again = twin_floats(n);
    bool many;

    scene_init(&scene, dtype, shape);
    many = !is_of_few(&scene);
    run(gpu, &scene, accumulate, out);
    run(gpu, &scene, accumulate, again);
    assert_memory_equal(out, again, n * sizeof(*out));
    double error = worst_error(&scene, many, accumulate, out);
    if (error > bound_of(&scene))
        fail_msg("%s %u x %u x %u: error %g", lam_dtype_info(dtype)->name, shape.n_rows,
            shape.n_cols, shape.n_out, error);
    if (many && shape.n_cols >= 256) /* of a few numbers, one may be below what F16 holds well */
        assert_true(worst_error(&scene, false, accumulate, out) <= 0x1p-10);
    scene_done(&scene);
    twin_free(out);
    twin_free(again);
}

void test_matmul_twins(void **state)
{
    for (size_t d = 0; d < twin_n_dtypes; d++) {
        for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
            if (shapes[s].n_cols % lam_dtype_info(twin_dtypes[d])->block_elems == 0 &&
                gpu_takes(work_of(shapes[s])))
                check(*state, twin_dtypes[d], shapes[s], s % 2 == 1);
        }
    }
}

void test_matmul_float_tails(void **state)
{
    for (size_t d = 0; d < 3; d++) {
        assert_int_equal(lam_dtype_info(twin_dtypes[d])->block_elems, 1);
        for (size_t s = 0; s < sizeof(float_shapes) / sizeof(float_shapes[0]); s++)
            check(*state, twin_dtypes[d], float_shapes[s], s % 2 == 0);
    }
}

/* More weights than a tile of the workspace holds, of a width that is not for gemm64. */
void test_matmul_tiles(void **state)
{
    check(*state, LAM_Q4_0, (struct shape){17, 14304, 2400}, true);
}

/* The least defect of a weight of the first block: its lowest bit, of floats the lowest of BF16. */
static void damage(struct scene *scene)
{
    switch (scene->dtype) {
    case LAM_F32:
        scene->weights[2] ^= 1;
        return;
    case LAM_F16:
        scene->weights[0] ^= 8;
        return;
    case LAM_BF16:
        scene->weights[0] ^= 1;
        return;
    case LAM_Q6_K:
        scene->weights[5] ^= 1;
        return;
    default:
        scene->weights[lam_dtype_info(scene->dtype)->block_bytes - 3u] ^= 1;
    }
}

void test_matmul_bound_has_teeth(void **state)
{
    struct shape shape = {4, 256, 1};

    for (size_t d = 0; d < twin_n_dtypes; d++) {
        struct scene scene;
        float *out = twin_floats((size_t)shape.n_rows * shape.n_out);
        scene_init(&scene, twin_dtypes[d], shape);
        run(*state, &scene, false, out);
        damage(&scene);
        assert_true(worst_error(&scene, false, false, out) > bound_of(&scene));
        scene_done(&scene);
        twin_free(out);
    }
}

/* Weights at any even address: the same bits as at an aligned one. */
void test_matmul_alignment(void **state)
{
    static const uint32_t skews[] = {2, 4, 6, 8, 14, 32};
    static const struct shape all[] = {{3, 1280, 37}, {20, 512, 37}, {70, 512, 37}};

    for (size_t d = 0; d < twin_n_dtypes; d++) {
        for (size_t s = 0; s < 3; s++) {
            struct scene scene;
            size_t n = (size_t)all[s].n_rows * all[s].n_out;
            float *aligned = twin_floats(n);
            float *skewed = twin_floats(n);
            scene_init(&scene, twin_dtypes[d], all[s]);
            run(*state, &scene, false, aligned);
            for (size_t i = 0; i < sizeof(skews) / sizeof(skews[0]); i++) {
                run_rows(*state, &scene, 0, all[s].n_rows, false, skews[i], skewed);
                assert_memory_equal(aligned, skewed, n * sizeof(*aligned));
            }
            scene_done(&scene);
            twin_free(aligned);
            twin_free(skewed);
        }
    }
}

/* A row's bits in calls of n_rows rows are those of the call with all rows. */
static void check_cuts(
    struct gpu *gpu, const struct scene *scene, const uint32_t *cuts, uint32_t n_cuts)
{
    struct shape shape = scene->shape;
    size_t n = (size_t)shape.n_rows * shape.n_out;
    float *whole = twin_floats(n);
    float *pieces = twin_floats(n);

    run(gpu, scene, true, whole);
    for (uint32_t i = 0; i < n_cuts; i++) {
        for (uint32_t begin = 0; begin + cuts[i] <= shape.n_rows; begin += cuts[i])
            run_rows(
                gpu, scene, begin, begin + cuts[i], true, 0, pieces + (size_t)begin * shape.n_out);
        size_t n_whole = shape.n_rows / cuts[i] * cuts[i];
        if (memcmp(whole, pieces, n_whole * shape.n_out * sizeof(*whole)) != 0)
            fail_msg("%s: calls of %u rows differ from one of %u",
                lam_dtype_info(scene->dtype)->name, cuts[i], shape.n_rows);
    }
    twin_free(whole);
    twin_free(pieces);
}

void test_matmul_rows(void **state)
{
    /* The calls of a case are all in one class, for some only if they are of F32, or are not; some
     * are wide enough for several tiles, or narrow enough to be cut into parts. */
    enum whose { ALL, F32_ONLY, NOT_F32 };
    static const struct {
        struct shape shape;
        uint32_t cuts[10];
        uint32_t n_cuts;
        enum whose whose;
    } cases[] = {
        {{8, 4096, 83}, {1, 2, 3, 4, 5, 7}, 6, ALL},
        {{16, 4096, 83}, {1, 8, 9, 15}, 4, F32_ONLY},
        {{64, 4096, 83}, {9, 15, 16, 17, 20, 31, 32, 33, 48, 63}, 10, NOT_F32},
        {{64, 4096, 83}, {17, 31, 63}, 3, F32_ONLY},
        {{64, 512, 4480}, {17, 32}, 2, ALL},
        {{64, 512, 300}, {17, 32}, 2, ALL},
        {{260, 512, 4480}, {65, 128, 130}, 3, ALL},
        {{132, 512, 200}, {65, 66}, 2, ALL},
    };

    for (size_t d = 0; d < twin_n_dtypes; d++) {
        for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
            struct scene scene;
            bool is_f32 = twin_dtypes[d] == LAM_F32;
            if (!gpu_takes(work_of(cases[c].shape)) ||
                cases[c].whose == (is_f32 ? NOT_F32 : F32_ONLY))
                continue;
            scene_init(&scene, twin_dtypes[d], cases[c].shape);
            check_cuts(*state, &scene, cases[c].cuts, cases[c].n_cuts);
            scene_done(&scene);
        }
    }
}

/* Three matrices of one call, of equal or different formats, with strides: each equals its own
 * call, and what lies between the columns is left alone. */
void test_matmul_three(void **state)
{
    static const enum lam_dtype dtypes[4][3] = {{LAM_Q4_K, LAM_Q6_K, LAM_Q4_K},
        {LAM_BF16, LAM_BF16, LAM_BF16}, {LAM_F16, LAM_F16, LAM_F16}, {LAM_Q8_0, LAM_Q5_0, LAM_F32}};
    static const uint32_t all_widths[2][3] = {
        {40, 17, 64}, {40, 64, 64}}; /* the last two at once */
    static const uint32_t row_counts[4] = {1, 6, 20, 70};
    enum { STRIDE = 72 };
    struct gpu *gpu = *state;

    for (uint32_t i = 0; i < 16; i++) {
        const uint32_t *widths = all_widths[i / 8];
        struct scene scenes[3];
        uint32_t n_rows = row_counts[i % 4];
        float *alone[3];
        float *out = twin_floats((size_t)n_rows * STRIDE);
        struct lam_matmul_args args = {.n_rows = n_rows, .n_cols = 1024, .n_mats = 3};
        for (uint32_t m = 0; m < 3; m++) {
            scene_init(&scenes[m], dtypes[i / 4][m], (struct shape){n_rows, 1024, widths[m]});
            alone[m] = twin_floats((size_t)n_rows * widths[m]);
            run(gpu, &scenes[m], false, alone[m]);
        }
        args.x = gpu_put(gpu, scenes[0].x, (uint64_t)n_rows * 1024 * sizeof(float), 0);
        for (uint32_t m = 0; m < 3; m++)
            args.mats[m] = (struct lam_matmul_mat){
                gpu_put(gpu, scenes[m].weights, widths[m] * scenes[m].row_bytes, 0),
                scenes[m].dtype, widths[m], gpu_floats(gpu, (size_t)n_rows * STRIDE), STRIDE,
                false};
        gpu->ops->matmul(gpu->kernels, &args);
        for (uint32_t m = 0; m < 3; m++) {
            gpu_get(gpu, out, args.mats[m].out, (uint64_t)n_rows * STRIDE * sizeof(float));
            for (size_t t = 0; t < n_rows; t++) {
                assert_memory_equal(
                    out + t * STRIDE, alone[m] + t * widths[m], widths[m] * sizeof(float));
                for (size_t n = widths[m]; n < STRIDE; n++)
                    assert_true(isnan(out[t * STRIDE + n]));
            }
        }
        gpu_reset(gpu);
        for (uint32_t m = 0; m < 3; m++) {
            twin_free(alone[m]);
            scene_done(&scenes[m]);
        }
        twin_free(out);
    }
}

/* A NaN or infinity in a row must come out as one, and stay in its row. So must a number that f16
 * cannot hold. */
void test_matmul_nan(void **state)
{
    static const float poisons[] = {NAN, INFINITY, -INFINITY, 1e30f};
    static const uint32_t row_counts[] = {3, 20, 70};

    for (size_t d = 0; d < twin_n_dtypes; d++) {
        for (uint32_t i = 0; i < 12; i++) {
            struct scene scene;
            uint32_t n_rows = row_counts[i % 3];
            float *out = twin_floats((size_t)n_rows * 20);
            scene_init(&scene, twin_dtypes[d], (struct shape){n_rows, 256, 20});
            scene.x[256 + 77] = poisons[i / 3];
            run(*state, &scene, false, out);
            for (size_t t = 0; t < n_rows; t++) {
                for (size_t n = 0; n < 20; n++) {
                    bool finite = isfinite(out[t * 20 + n]);
                    assert_true(finite == (t != 1 || (i / 3 == 3 && n_rows <= FEW_ROWS)));
                }
            }
            scene_done(&scene);
            twin_free(out);
        }
    }
}

/* One of the operations that may be told of their product, of n_rows by WIDTH values, and the
 * product of what it made. */
enum { WIDTH = 256, N_OUT = 100 };

static void run_chain(
    struct gpu *gpu, const struct scene *scene, uint32_t which, bool told, float *ret)
{
    uint32_t n_rows = scene->shape.n_rows;
    uint64_t bytes = (uint64_t)n_rows * WIDTH * sizeof(float);
    const float *x = gpu_put(gpu, scene->x, bytes, 0);
    float *made = gpu_put(gpu, scene->x, bytes, 0);
    uint16_t cache[2 * 128 * WIDTH]; /* keys and values of 128 positions, all some number */
    uint32_t page = 0;

    for (size_t i = 0; i < sizeof(cache) / sizeof(cache[0]); i++)
        cache[i] = (uint16_t)(0x3000 + i * 7 % 0x0C00);
    uint8_t *kv = gpu_put(gpu, cache, sizeof(cache), 0);
    struct lam_seq_rows seq = {0, n_rows, 0, gpu_put(gpu, &page, sizeof(page), 0)};
    struct lam_attention_args attention = {x, made, 4, 0.125f,
        {kv, kv + sizeof(cache) / 2, LAM_F16, 4, WIDTH / 4, 128}, &seq, 1, told};
    struct lam_rms_norm_args norm = {x, x, made, n_rows, WIDTH, 1e-5f, told};
    struct lam_swiglu_args swiglu = {
        x, made, made, (uint64_t)n_rows * WIDTH, told ? (uint32_t)WIDTH : 0};
    struct lam_matmul_args product = {
        .x = made,
        .n_rows = n_rows,
        .n_cols = WIDTH,
        .n_mats = 1,
        .mats = {{.weight = gpu_put(gpu, scene->weights, N_OUT * scene->row_bytes, 0),
            .dtype = scene->dtype,
            .n_out = N_OUT,
            .out = gpu_floats(gpu, (size_t)n_rows * N_OUT),
            .out_stride = N_OUT}},
    };
    if (which == 0)
        gpu->ops->rms_norm(gpu->kernels, &norm);
    else if (which == 1)
        gpu->ops->swiglu(gpu->kernels, &swiglu);
    else
        gpu->ops->attention(gpu->kernels, &attention);
    gpu->ops->matmul(gpu->kernels, &product);
    gpu_get(gpu, ret, product.mats[0].out, (uint64_t)n_rows * N_OUT * sizeof(float));
    gpu_reset(gpu);
}

/* An operation that knows of its product changes no bit of it. */
void test_product_only(void **state)
{
    static const uint32_t row_counts[] = {3, 40, 70, 100};

    for (uint32_t i = 0; i < 12; i++) {
        struct scene scene;
        scene_init(&scene, LAM_Q8_0, (struct shape){row_counts[i / 3], WIDTH, N_OUT});
        size_t n = (size_t)scene.shape.n_rows * N_OUT;
        float *alone = twin_floats(n);
        float *told = twin_floats(n);
        run_chain(*state, &scene, i % 3, false, alone);
        run_chain(*state, &scene, i % 3, true, told);
        assert_memory_equal(alone, told, n * sizeof(*alone));
        assert_true(isfinite(alone[n - 1]));
        scene_done(&scene);
        twin_free(alone);
        twin_free(told);
    }
}

/* Nothing is read or written. */
void test_no_rows(void **state)
{
    struct gpu *gpu = *state;
    struct lam_matmul_args matmul = {
        .n_cols = 64, .n_mats = 1, .mats = {{.dtype = LAM_Q4_0, .n_out = 4}}};
    struct lam_rms_norm_args norm = {.n_cols = 8};
    struct lam_dequant_args dequant = {.dtype = LAM_F32, .n_cols = 8};
    struct lam_rope_args rope = {.n_heads = 1, .head_dim = 8, .rope_dim = 8};
    struct lam_attention_args attention = {
        .n_heads = 2, .kv = {.dtype = LAM_F16, .n_kv_heads = 1, .head_dim = 64, .page_tokens = 16}};
    struct lam_argmax_args argmax = {.n_cols = 8};
    uint32_t zero = 0;

    gpu->ops->matmul(gpu->kernels, &matmul);
    gpu->ops->rms_norm(gpu->kernels, &norm);
    gpu->ops->dequant(gpu->kernels, &dequant);
    gpu->ops->rope(gpu->kernels, &rope);
    gpu->ops->attention(gpu->kernels, &attention);
    gpu->ops->argmax(gpu->kernels, &argmax);
    gpu_get(gpu, &zero, gpu->arena, sizeof(zero));
}
