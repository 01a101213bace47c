/*
 * Operations that ride with a product of few rows leave what they leave one by one, bit for bit,
 * also of what lies between them. A mark between two calls keeps the backend from joining them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "tests/kernels/cuda_twins/gpu.h"

enum { N_HEADS = 5, N_KV_HEADS = 2, HEAD = 24, PAGE_TOKENS = 4, N_PAGES = 16 };

enum { QUERY, KEY, VALUE, GATE, UP, N_MATS };

struct half_layer {
    enum lam_dtype dtypes[N_MATS];
    enum lam_dtype cache;
    uint32_t n_rows;
    uint32_t n_cols;
    uint32_t n_ff;
    bool offered; /* to be arranged: those that can be are */
};

static const uint32_t widths[N_MATS] = {N_HEADS * HEAD, N_KV_HEADS *HEAD, N_KV_HEADS *HEAD};

static uint32_t width_of(const struct half_layer *layer, uint32_t mat)
{
    return mat < GATE ? widths[mat] : layer->n_ff;
}

/* What the operations read and write, on the device. */
struct operands {
    float *x, *norm, *table;
    uint32_t *pages;
    void *weights[N_MATS];
    bool arranged[N_MATS];
    float *normed;       /* results from here on, see results_bytes */
    float *outs[N_MATS]; /* q, k, v, gate, up */
    uint8_t *cache;
    uint64_t cache_bytes; /* of the keys; as many for the values */
};

static void put(struct gpu *gpu, const struct half_layer *layer, struct operands *to)
{
    struct twin_rng rng = {.state = 17 + layer->n_cols};
    size_t n_x = (size_t)layer->n_rows * layer->n_cols;
    size_t n_table = (size_t)layer->n_rows * HEAD;
    float *x = twin_random_floats(&rng, n_x, 1.0f);
    float *norm = twin_random_floats(&rng, layer->n_cols, 1.0f);
    float *table = twin_random_floats(&rng, n_table, 1.0f);
    uint32_t pages[N_PAGES];

    for (uint32_t i = 0; i < N_PAGES; i++)
        pages[i] = (i * 5 + 3) % N_PAGES;
    to->x = gpu_put(gpu, x, n_x * sizeof(float), 0);
    to->norm = gpu_put(gpu, norm, layer->n_cols * sizeof(float), 0);
    to->table = gpu_put(gpu, table, n_table * sizeof(float), 0);
    to->pages = gpu_put(gpu, pages, sizeof(pages), 0);
    to->normed = gpu_floats(gpu, n_x);
    for (uint32_t m = 0; m < N_MATS; m++) {
        uint32_t n_out = width_of(layer, m);
        uint64_t row_bytes;
        uint8_t *weights = twin_weights(&rng, layer->dtypes[m], n_out, layer->n_cols);
        assert_true(lam_dtype_row_bytes(layer->dtypes[m], layer->n_cols, &row_bytes));
        to->weights[m] = gpu_put(gpu, weights, n_out * row_bytes, layer->offered ? 0 : m % 2 * 2);
        struct lam_arrange_args arrange = {to->weights[m], layer->dtypes[m], n_out, layer->n_cols};
        to->arranged[m] = layer->offered && gpu->ops->arrange(gpu->kernels, &arrange);
        to->outs[m] = gpu_floats(gpu, (size_t)layer->n_rows * n_out);
        twin_weights_free(weights);
    }
    to->cache_bytes = (uint64_t)N_PAGES * PAGE_TOKENS * widths[KEY] * sizeof(float);
    to->cache = (uint8_t *)gpu_floats(gpu, 2 * to->cache_bytes / sizeof(float));
    twin_free(x);
    twin_free(norm);
    twin_free(table);
}

static struct lam_matmul_mat mat(
    const struct half_layer *layer, const struct operands *operands, uint32_t m)
{
    uint32_t n_out = width_of(layer, m);

    return (struct lam_matmul_mat){operands->weights[m], layer->dtypes[m], n_out, operands->outs[m],
        n_out, operands->arranged[m]};
}

/* All results into `to`, one behind the other. */
static void run(struct gpu *gpu, const struct half_layer *layer, bool apart, uint8_t *to)
{
    struct operands at;
    uint32_t t = layer->n_rows, n_cols = layer->n_cols;

    put(gpu, layer, &at);
    const struct lam_seq_rows seqs[2] = {
        {0, t - t / 2, 7, at.pages}, {t - t / 2, t / 2, 30, at.pages}};
    const struct lam_kv_layer kv = {
        at.cache, at.cache + at.cache_bytes, layer->cache, N_KV_HEADS, HEAD, PAGE_TOKENS};
    const struct lam_rms_norm_args norm = {at.x, at.norm, at.normed, t, n_cols, 1e-5f, false};
    const struct lam_matmul_args qkv = {at.normed, t, n_cols, false, 3,
        {mat(layer, &at, QUERY), mat(layer, &at, KEY), mat(layer, &at, VALUE)}};
    const struct lam_rope_args ropes[2] = {
        {at.outs[QUERY], at.table, t, N_HEADS, HEAD, HEAD, LAM_ROPE_ADJACENT},
        {at.outs[KEY], at.table, t, N_KV_HEADS, HEAD, HEAD, LAM_ROPE_ADJACENT}};
    const struct lam_kv_write_args write = {at.outs[KEY], at.outs[VALUE], kv, seqs, t > 1 ? 2 : 1};
    const struct lam_matmul_args gate_up = {
        at.normed, t, n_cols, false, 2, {mat(layer, &at, GATE), mat(layer, &at, UP)}};
    const struct lam_swiglu_args swiglu = {
        at.outs[GATE], at.outs[UP], at.outs[GATE], (uint64_t)t * layer->n_ff, 0};

    for (uint32_t op = 0; op < 8; op++) {
        if (op == 0 || op == 5)
            gpu->ops->rms_norm(gpu->kernels, &norm);
        else if (op == 1)
            gpu->ops->matmul(gpu->kernels, &qkv);
        else if (op < 4)
            gpu->ops->rope(gpu->kernels, &ropes[op - 2]);
        else if (op == 4)
            gpu->ops->kv_write(gpu->kernels, &write);
        else if (op == 6)
            gpu->ops->matmul(gpu->kernels, &gate_up);
        else
            gpu->ops->swiglu(gpu->kernels, &swiglu);
        if (apart)
            gpu->device->mark_compute(gpu->kernels, 1);
    }
    uint64_t bytes = (uint64_t)t * n_cols * sizeof(float);
    gpu_get(gpu, to, at.normed, bytes);
    for (uint32_t m = 0; m < N_MATS; m++) {
        gpu_get(gpu, to + bytes, at.outs[m], (uint64_t)t * width_of(layer, m) * sizeof(float));
        bytes += (uint64_t)t * width_of(layer, m) * sizeof(float);
    }
    gpu_get(gpu, to + bytes, at.cache, 2 * at.cache_bytes);
    gpu_reset(gpu);
}

static void check(struct gpu *gpu, const struct half_layer *layer)
{
    uint64_t bytes = 2 * (uint64_t)N_PAGES * PAGE_TOKENS * widths[KEY] * sizeof(float);
    uint64_t n = layer->n_cols;

    for (uint32_t m = 0; m < N_MATS; m++)
        n += width_of(layer, m);
    bytes += n * layer->n_rows * sizeof(float);
    uint8_t *apart = lam_calloc(bytes, 1);
    uint8_t *together = lam_calloc(bytes, 1);
    assert_true(apart != NULL && together != NULL);
    run(gpu, layer, true, apart);
    run(gpu, layer, false, together);
    assert_memory_equal(apart, together, bytes);
    lam_free(apart);
    lam_free(together);
}

void test_kept(void **state)
{
    static const uint32_t row_counts[] = {1, 2, 7, 16, 17};
    static const uint32_t n_cols[] = {256, 768, 4096};
    struct gpu *gpu = *state;

    for (size_t d = 0; d < twin_n_dtypes; d++) {
        for (size_t i = 0; i < 5 * 3; i++) {
            enum lam_dtype dtype = twin_dtypes[d];
            enum lam_dtype other = twin_dtypes[(d + 3) % twin_n_dtypes];
            struct half_layer layer = {
                .dtypes = {dtype, dtype, i % 2 == 0 ? dtype : other, dtype,
                    i % 4 < 3 ? dtype : other},
                .cache = i % 3 == 0 ? LAM_F32 : LAM_F16,
                .n_rows = row_counts[i / 3],
                .n_cols = n_cols[i % 3],
                .n_ff = i % 2 == 0 ? 80 : 90,
                .offered = (i / 3 + i) % 2 == 1,
            };
            if (gpu_takes((uint64_t)layer.n_rows * layer.n_cols * 1000)) /* of three matrices */
                check(gpu, &layer);
        }
    }
    for (uint32_t i = 0; i < 4; i++) { /* several rounds of every block, of large and small chips */
        struct half_layer layer = {
            .dtypes = {LAM_Q4_0, LAM_Q4_0, LAM_Q4_0, LAM_Q4_0, LAM_Q4_0},
            .cache = LAM_F16,
            .n_rows = i % 2 == 0 ? 1 : 3,
            .n_cols = 2048,
            .n_ff = i < 2 ? 1416 : 14008,
        };
        if (gpu_takes((uint64_t)layer.n_rows * layer.n_cols * layer.n_ff * 2))
            check(gpu, &layer);
    }
}
