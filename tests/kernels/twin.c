/* twin: see twin.h. */
#include "tests/kernels/twin.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/half.h"

enum { GUARD_FLOATS = 16 };
static const float GUARD = 1234567.0f;

const enum lam_dtype twin_dtypes[] = {LAM_F32, LAM_F16, LAM_BF16, LAM_Q8_0, LAM_Q4_0, LAM_Q4_1,
    LAM_Q5_0, LAM_Q5_1, LAM_Q4_K, LAM_Q5_K, LAM_Q6_K};
const size_t twin_n_dtypes = sizeof(twin_dtypes) / sizeof(twin_dtypes[0]);

uint32_t twin_random(struct twin_rng *rng)
{
    rng->state ^= rng->state << 13;
    rng->state ^= rng->state >> 7;
    rng->state ^= rng->state << 17;
    return (uint32_t)(rng->state >> 32);
}

float twin_uniform(struct twin_rng *rng)
{
    return (float)(int32_t)twin_random(rng) * 0x1p-31f;
}

float *twin_floats(size_t n)
{
    size_t total = n + 2 * GUARD_FLOATS + 1;
    float *block = lam_calloc(total, sizeof(*block));

    assert_non_null(block);
    block[0] = (float)n;
    assert_true((size_t)block[0] == n);
    for (size_t i = 1; i < total; i++)
        block[i] = i > GUARD_FLOATS && i <= GUARD_FLOATS + n ? NAN : GUARD;
    return block + GUARD_FLOATS + 1;
}

float *twin_random_floats(struct twin_rng *rng, size_t n, float scale)
{
    float *floats = twin_floats(n);

    for (size_t i = 0; i < n; i++)
        floats[i] = twin_uniform(rng) * scale;
    return floats;
}

static float peak_value(struct twin_rng *rng, uint32_t kind, uint32_t i)
{
    bool even = twin_random(rng) % 2 == 0;

    switch (kind) {
    case 0: /* few values: many equals */
        return (float)(twin_random(rng) % 1000);
    case 1:
        return 0.5f;
    case 2:
        return even ? 0.0f : -0.0f;
    case 3:
        return even ? NAN : twin_uniform(rng);
    case 4: /* nothing can be chosen */
        return even ? NAN : -INFINITY;
    case 5: /* infinity is no more than the largest number */
        if (twin_random(rng) % 64 != 0)
            return twin_uniform(rng);
        return even ? INFINITY : FLT_MAX;
    case 6: /* the last one */
        return (float)i - 1e6f;
    default:
        return twin_uniform(rng);
    }
}

float *twin_peaks(struct twin_rng *rng, uint32_t first, uint32_t n_rows, uint32_t n_cols)
{
    float *x = twin_floats((size_t)n_rows * n_cols);

    for (uint32_t t = 0; t < n_rows; t++)
        for (uint32_t i = 0; i < n_cols; i++)
            x[(size_t)t * n_cols + i] = peak_value(rng, (first + t) % TWIN_PEAK_KINDS, i);
    return x;
}

void twin_free(float *floats)
{
    float *block = floats - GUARD_FLOATS - 1;
    size_t n = (size_t)block[0];

    for (size_t i = 1; i <= GUARD_FLOATS; i++) {
        assert_true(block[i] == GUARD);
        assert_true(floats[n + i - 1] == GUARD);
    }
    lam_free(block);
}

static void put_half(uint8_t *at, float value)
{
    uint16_t half = lam_f16_from_f32(value);

    memcpy(at, &half, sizeof(half));
}

/* Random bits are fine for the small integers of a block; scales and floats must be plausible. */
static void plausible_block(struct twin_rng *rng, enum lam_dtype dtype, uint8_t *block)
{
    float value = twin_uniform(rng) * 0.02f;
    uint32_t bits = lam_f32_to_bits(value);

    switch (dtype) {
    case LAM_F32:
        memcpy(block, &value, sizeof(value));
        return;
    case LAM_BF16:
        memcpy(block, (const uint8_t *)&bits + 2, 2);
        return;
    case LAM_Q6_K:
        put_half(block + 208, value * 0.01f);
        return;
    case LAM_Q4_1:
    case LAM_Q5_1:
    case LAM_Q4_K:
    case LAM_Q5_K:
        put_half(block, value);
        put_half(block + 2, twin_uniform(rng) * 0.1f);
        return;
    default:
        put_half(block, value);
    }
}

uint8_t *twin_weights(struct twin_rng *rng, enum lam_dtype dtype, uint32_t n_rows, uint32_t n_cols)
{
    const struct lam_dtype_info *info = lam_dtype_info(dtype);
    uint64_t row_bytes;

    assert_true(lam_dtype_row_bytes(dtype, n_cols, &row_bytes));
    uint8_t *weights = lam_calloc(n_rows * row_bytes + 2, 1);
    assert_non_null(weights);
    weights += 2;
    for (uint64_t i = 0; i < n_rows * row_bytes; i++)
        weights[i] = (uint8_t)twin_random(rng);
    for (uint64_t at = 0; at < n_rows * row_bytes; at += info->block_bytes)
        plausible_block(rng, dtype, weights + at);
    return weights;
}

void twin_weights_free(uint8_t *weights)
{
    lam_free(weights - 2);
}

void twin_quantise(const float *x, size_t n, float *out)
{
    for (size_t begin = 0; begin < n; begin += 32) {
        float max = 0;
        for (size_t i = begin; i < begin + 32; i++)
            max = fmaxf(max, fabsf(x[i]));
        float inverse = max > 0 ? 127 / max : 0;
        for (size_t i = begin; i < begin + 32; i++)
            out[i] = max / 127 * nearbyintf(x[i] * inverse);
    }
}

struct lam_kernel_config twin_config(void)
{
    return (struct lam_kernel_config){
        .max_rows = 80,
        .max_cols = 2048,
        .max_seqs = 4,
        .max_ctx = 512,
        .n_heads = 12,
        .head_dim = 256,
    };
}

static void add_fast(
    struct twin_set *set, const char *name, enum lam_cpu_level level, uint32_t n_threads)
{
    struct twin_backend *backend = &set->fast[set->n_fast];
    struct lam_kernel_config config = twin_config();
    struct lam_err err = {0};

    config.n_threads = n_threads;
    enum lam_status status = lam_cpu_create(&config, level, &backend->kernels, &err);
    if (status == LAM_UNIMPLEMENTED) {
        print_message("not tested here: %s: %s\n", name, err.text);
        return;
    }
    assert_int_equal(status, LAM_OK);
    backend->name = name;
    backend->ops = lam_kernels_cpu();
    set->n_fast++;
}

void twin_set_init(struct twin_set *set, uint32_t n_threads)
{
    struct lam_kernel_config config = twin_config();

    memset(set, 0, sizeof(*set));
    set->ref.name = "ref";
    set->ref.ops = lam_kernels_ref();
    assert_int_equal(set->ref.ops->create(&config, &set->ref.kernels, NULL), LAM_OK);
    add_fast(set, "avx2", LAM_CPU_AVX2, n_threads);
    add_fast(set, "avx512", LAM_CPU_AVX512, n_threads);
}

void twin_set_done(struct twin_set *set)
{
    set->ref.ops->destroy(set->ref.kernels);
    for (uint32_t i = 0; i < set->n_fast; i++)
        set->fast[i].ops->destroy(set->fast[i].kernels);
}
