/* synth_pattern: see synth_pattern.h. Layouts of the blocks: common/dtype.h, kernels/ref/dequant.c.
 */
#include "cli/synth_pattern.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "kernels/half.h"

#define PATTERN_BYTES_MIN LAM_MIB
/* The scales of a row differ: a factor between 0.75 and 1.25, of this root mean square. */
#define SPREAD_RMS 1.010363
/* Scales of sub-blocks are 16 to 31, of this root mean square. */
#define SCALE_MIN 16u
#define SCALE_RMS 23.948
#define SUB_BLOCKS 8

uint64_t lam_synth_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void fill_random(uint64_t *state, uint8_t *out, size_t n)
{
    for (size_t at = 0; at < n; at += 8) {
        uint64_t word = lam_synth_random(state);
        memcpy(out + at, &word, n - at < 8 ? n - at : 8);
    }
}

/* Nearly normal, standard deviation 1: the sum of four uniform numbers. */
static float normal(uint64_t *state)
{
    uint64_t word = lam_synth_random(state);
    double sum = (double)(word & 0xffff) + (double)(word >> 16 & 0xffff) +
                 (double)(word >> 32 & 0xffff) + (double)(word >> 48);

    return (float)((sum - 131070.0) / 37837.2);
}

static void store_half(uint8_t *out, double value)
{
    uint16_t half = (uint16_t)lam_f16_from_f32((float)value);

    memcpy(out, &half, sizeof half);
}

/* A block's scale: integers whose root mean square is `rms` become weights of deviation `std`. */
static double draw_scale(uint64_t *state, double std, double rms)
{
    double spread = 0.75 + 0.5 * (double)(lam_synth_random(state) >> 11) * 0x1p-53;

    return std / rms * spread / SPREAD_RMS;
}

/* Types whose integers are not centred have scales of both signs: the mean is 0. */
static double draw_sign(uint64_t *state)
{
    return lam_synth_random(state) & 1 ? 1 : -1;
}

static void fill_float(enum lam_dtype dtype, float std, uint64_t *state, uint8_t *out)
{
    float value = std * normal(state);
    uint16_t half;

    if (dtype == LAM_F32) {
        memcpy(out, &value, sizeof value);
        return;
    }
    half = dtype == LAM_F16 ? lam_f16_from_f32(value) : (uint16_t)(lam_f32_to_bits(value) >> 16);
    memcpy(out, &half, sizeof half);
}

/* Q4_0, Q5_0: scale, integers of `levels` around nearly 0. Q4_1, Q5_1: scale, minimum, integers. */
static void fill_simple(
    double levels, bool has_min, float std, uint64_t *state, uint8_t *block, size_t block_bytes)
{
    double off_centre = has_min ? 0 : 0.25;
    double d = draw_scale(state, (double)std, sqrt((levels * levels - 1) / 12 + off_centre));
    size_t head = has_min ? 4 : 2;

    store_half(block, has_min ? d : d * draw_sign(state));
    if (has_min)
        store_half(block + 2, -d * (levels - 1) / 2);
    fill_random(state, block + head, block_bytes - head);
}

static void fill_q8_0(float std, uint64_t *state, uint8_t *block)
{
    store_half(block, draw_scale(state, (double)std, 73.61));
    fill_random(state, block + 2, 32);
    for (int i = 2; i < 34; i++) /* files have -127 to 127 */
        block[i] = block[i] == 0x80 ? 0x81 : block[i];
}

/* Q4_K, Q5_K: minimum j is as large as scale j, so dmin puts the integers' middle at 0. */
static void fill_k(double levels, float std, uint64_t *state, uint8_t *block, size_t block_bytes)
{
    double rms = sqrt((levels * levels - 1) / 12) * SCALE_RMS;
    double d = draw_scale(state, (double)std, rms);
    uint64_t bits = lam_synth_random(state);
    uint8_t scales[SUB_BLOCKS];

    store_half(block, d);
    store_half(block + 2, d * (levels - 1) / 2);
    for (int j = 0; j < SUB_BLOCKS; j++)
        scales[j] = (uint8_t)(SCALE_MIN + (bits >> 4 * j & 15));
    for (int j = 0; j < 4; j++) {
        uint8_t high = scales[j + 4];
        block[4 + j] = (uint8_t)(scales[j] | high >> 4 << 6);
        block[8 + j] = block[4 + j];
        block[12 + j] = (uint8_t)((high & 15) | (high & 15) << 4);
    }
    fill_random(state, block + 16, block_bytes - 16);
}

static void fill_q6_k(float std, uint64_t *state, uint8_t *block)
{
    double rms = sqrt((64.0 * 64 - 1) / 12 + 0.25) * SCALE_RMS;

    fill_random(state, block, 192);
    for (int i = 0; i < 16; i++) {
        uint64_t bits = lam_synth_random(state);
        int scale = (int)(SCALE_MIN + (bits & 15));
        block[192 + i] = (uint8_t)(int8_t)(bits & 16 ? scale : -scale);
    }
    store_half(block + 208, draw_scale(state, (double)std, rms));
}

static void fill_block(enum lam_dtype dtype, float std, uint64_t *state, uint8_t *block)
{
    size_t block_bytes = lam_dtype_info(dtype)->block_bytes;

    switch (dtype) {
    case LAM_F32:
    case LAM_F16:
    case LAM_BF16:
        fill_float(dtype, std, state, block);
        break;
    case LAM_Q4_0:
    case LAM_Q4_1:
        fill_simple(16, dtype == LAM_Q4_1, std, state, block, block_bytes);
        break;
    case LAM_Q5_0:
    case LAM_Q5_1:
        fill_simple(32, dtype == LAM_Q5_1, std, state, block, block_bytes);
        break;
    case LAM_Q8_0:
        fill_q8_0(std, state, block);
        break;
    case LAM_Q4_K:
    case LAM_Q5_K:
        fill_k(dtype == LAM_Q4_K ? 16 : 32, std, state, block, block_bytes);
        break;
    case LAM_Q6_K:
        fill_q6_k(std, state, block);
        break;
    case LAM_DTYPE_END:
        assert(false);
    }
}

static bool is_prime(uint64_t n)
{
    for (uint64_t i = 2; i * i <= n; i++)
        if (n % i == 0)
            return false;
    return n > 1;
}

enum lam_status lam_synth_pattern_init(struct lam_synth_pattern *pattern, enum lam_dtype dtype,
    float std, uint64_t rows_max, uint64_t seed, struct lam_err *err)
{
    uint64_t block_bytes = lam_dtype_info(dtype)->block_bytes;
    uint64_t n_blocks = PATTERN_BYTES_MIN / block_bytes;
    uint64_t state = seed ^ (uint64_t)dtype << 32 ^ lam_f32_to_bits(std);

    if (n_blocks <= rows_max)
        n_blocks = rows_max + 1;
    while (!is_prime(n_blocks))
        n_blocks++;
    *pattern =
        (struct lam_synth_pattern){.dtype = dtype, .std = std, .bytes = n_blocks * block_bytes};
    pattern->blocks = lam_calloc(n_blocks, block_bytes);
    if (!pattern->blocks)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for random weights");
    for (uint64_t i = 0; i < n_blocks; i++)
        fill_block(dtype, std, &state, pattern->blocks + i * block_bytes);
    return LAM_OK;
}

void lam_synth_pattern_copy(
    const struct lam_synth_pattern *pattern, uint64_t at, uint8_t *out, uint64_t n)
{
    at %= pattern->bytes;
    while (n > 0) {
        uint64_t stretch = pattern->bytes - at;
        if (stretch > n)
            stretch = n;
        memcpy(out, pattern->blocks + at, stretch);
        out += stretch;
        n -= stretch;
        at = 0;
    }
}

void lam_synth_pattern_done(struct lam_synth_pattern *pattern)
{
    lam_free(pattern->blocks);
    *pattern = (struct lam_synth_pattern){0};
}
