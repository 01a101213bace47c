/* warp: collectives that compute: shuffles, votes, the tensor core. See machine.h. */
#include <string.h>

#include "kernels/half.h"
#include "tests/kernels/simulated/block.h"
#include "tests/kernels/simulated/watch.h"

enum { ALL = -1 };

/* Of a mask, what a lane outside of it brought is NULL. */
static void work_shuffle(void *const *brought)
{
    uint64_t values[SIM_WARP];

    for (uint32_t l = 0; l < SIM_WARP; l++) {
        if (brought[l] != NULL)
            values[l] = ((const struct sim_shuffle *)brought[l])->value;
    }
    for (uint32_t l = 0; l < SIM_WARP; l++) {
        struct sim_shuffle *own = brought[l];
        if (own == NULL)
            continue;
        uint32_t from = own->from < SIM_WARP ? own->from : l;
        if (brought[from] == NULL)
            own->from = ~0u; /* told by the lane itself */
        else
            own->value = values[from];
    }
}

void sim_shuffle(uint32_t mask, struct sim_shuffle *own, const struct sim_site *site)
{
    sim_meet(mask, work_shuffle, own, "a shuffle", site);
    if (own->from == ~0u)
        sim_break("a shuffle (%s:%d) from a lane outside of its mask", site->file, site->line);
}

struct vote {
    bool predicate;
    uint32_t result;
};

static void work_ballot(void *const *brought)
{
    uint32_t result = 0;

    for (uint32_t l = 0; l < SIM_WARP; l++) {
        if (brought[l] != NULL && ((const struct vote *)brought[l])->predicate)
            result |= 1u << l;
    }
    for (uint32_t l = 0; l < SIM_WARP; l++) {
        if (brought[l] != NULL)
            ((struct vote *)brought[l])->result = result;
    }
}

uint32_t sim_ballot(uint32_t mask, bool predicate, const struct sim_site *site)
{
    struct vote own = {predicate, 0};

    sim_meet(mask, work_ballot, &own, "a vote", site);
    return own.result;
}

/* What a lane brings to a product: its part of each operand. */
struct product {
    void *c;
    const uint32_t *a;
    const uint32_t *b;
};

/* f16 to f32: the exponent's bias by a product, which also makes subnormals right. */
static float widen_f16(uint32_t half)
{
    uint32_t bits = (half & 0x7FFFu) << 13;
    float size = lam_f32_from_bits(bits) * 0x1p112f;

    if (bits >= 31u << 23)
        size = lam_f32_from_bits(bits | 0x7F800000u);
    return lam_f32_from_bits(lam_f32_to_bits(size) | (half & 0x8000u) << 16);
}

static void widen_pair(uint32_t pair, bool is_bf16, double *x, double *y)
{
    *x = (double)(is_bf16 ? lam_f32_from_bf16(pair & 0xFFFFu) : widen_f16(pair & 0xFFFFu));
    *y = (double)(is_bf16 ? lam_f32_from_bf16(pair >> 16) : widen_f16(pair >> 16));
}

/* c[16 x 8] += a[16 x 16] * b[16 x 8]; products are exact, their sum is rounded once. */
static void multiply_16bit(void *const *brought, bool is_bf16)
{
    double a[16][16];
    double b[16][8];
    double c[16][8];

    for (uint32_t l = 0; l < SIM_WARP; l++) {
        const struct product *own = brought[l];
        uint32_t g = l / 4;
        uint32_t t = l % 4 * 2;
        double second;
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = g + i % 2 * 8;
            uint32_t column = t + i / 2 * 8;
            widen_pair(own->a[i], is_bf16, &a[row][column], &a[row][column + 1]);
            c[g + i / 2 * 8][t + i % 2] = (double)((const float *)own->c)[i];
        }
        for (uint32_t i = 0; i < 2; i++) {
            widen_pair(own->b[i], is_bf16, &b[t + i * 8][g], &second);
            b[t + i * 8 + 1][g] = second;
        }
    }
    for (uint32_t i = 0; i < 16; i++) {
        for (uint32_t k = 0; k < 16; k++) {
            for (uint32_t j = 0; j < 8; j++)
                c[i][j] += a[i][k] * b[k][j];
        }
    }
    for (uint32_t l = 0; l < SIM_WARP; l++) {
        const struct product *own = brought[l];
        for (uint32_t i = 0; i < 4; i++)
            ((float *)own->c)[i] = (float)c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
    }
}

static void work_mma_f16(void *const *brought)
{
    multiply_16bit(brought, false);
}

static void work_mma_bf16(void *const *brought)
{
    multiply_16bit(brought, true);
}

/* c[16 x 8] += a[16 x 4 * words] * b[4 * words x 8], in words of four signed bytes. */
static void multiply_s8(void *const *brought, uint32_t words)
{
    for (uint32_t l = 0; l < SIM_WARP; l++) {
        const struct product *own = brought[l];
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = l / 4 + i / 2 * 8;
            uint32_t column = l % 4 * 2 + i % 2;
            int32_t sum = ((const int32_t *)own->c)[i];
            for (uint32_t w = 0; w < words; w++) {
                const struct product *of_a = brought[row % 8 * 4 + w % 4];
                const struct product *of_b = brought[column * 4 + w % 4];
                uint32_t a = of_a->a[row / 8 + w / 4 * 2];
                uint32_t b = of_b->b[w / 4];
                for (uint32_t byte = 0; byte < 32; byte += 8)
                    sum += (int8_t)(a >> byte) * (int8_t)(b >> byte);
            }
            ((int32_t *)own->c)[i] = sum;
        }
    }
}

static void work_mma_s8_k16(void *const *brought)
{
    multiply_s8(brought, 4);
}

static void work_mma_s8_k32(void *const *brought)
{
    multiply_s8(brought, 8);
}

static void product(
    sim_work_fn work, const char *name, void *c, const uint32_t *a, const uint32_t *b)
{
    static const struct sim_site site = {"mma.cuh", 0};
    struct product own = {c, a, b};

    sim_meet((uint32_t)ALL, work, &own, name, &site);
}

void sim_mma_f16(float *c, const uint32_t *a, const uint32_t *b)
{
    product(work_mma_f16, "mma.f16", c, a, b);
}

void sim_mma_bf16(float *c, const uint32_t *a, const uint32_t *b)
{
    product(work_mma_bf16, "mma.bf16", c, a, b);
}

void sim_mma_s8_k32(int32_t *c, const uint32_t *a, const uint32_t *b)
{
    product(work_mma_s8_k32, "mma.s8.k32", c, a, b);
}

void sim_mma_s8_k16(int32_t *c, const uint32_t *a, const uint32_t *b)
{
    product(work_mma_s8_k16, "mma.s8.k16", c, a, b);
}

struct matrices {
    const uint16_t *row; /* eight values: the lane's row of matrix lane / 8 */
    uint32_t *to;
    bool turned;
};

static void work_load_matrices(void *const *brought)
{
    for (uint32_t l = 0; l < SIM_WARP; l++) {
        const struct matrices *own = brought[l];
        for (uint32_t m = 0; m < 4; m++) {
            uint32_t low, high;
            if (own->turned) {
                low = ((const struct matrices *)brought[m * 8 + l % 4 * 2])->row[l / 4];
                high = ((const struct matrices *)brought[m * 8 + l % 4 * 2 + 1])->row[l / 4];
            } else {
                const uint16_t *row = ((const struct matrices *)brought[m * 8 + l / 4])->row;
                low = row[l % 4 * 2];
                high = row[l % 4 * 2 + 1];
            }
            own->to[m] = low | high << 16;
        }
    }
}

void sim_load_matrices(uint32_t *to, uint32_t smem_address, bool turned)
{
    static const struct sim_site sites[2] = {{"mma.cuh", 0}, {"mma.cuh", 1}};
    const uint8_t *row = sim_smem_at(smem_address, 16);

    if (row == NULL || smem_address % 16 != 0)
        sim_break("ldmatrix: row at %#x: %s", smem_address,
            row == NULL ? "outside of shared memory" : "not aligned");
    struct matrices own = {(const uint16_t *)(const void *)row, to, turned};
    sim_watch_read(row, 16);
    sim_meet((uint32_t)ALL, work_load_matrices, &own, turned ? "ldmatrix.trans" : "ldmatrix",
        &sites[turned]);
}
