/*
 * attention and kv_write against their twins: head sizes with tails, grouped heads, small and large
 * pages in shuffled order, several sequences in one call, positions that nobody wrote (poisoned
 * with NaN).
 *
 * Bound: a result is a weighted mean of values, so |fast - ref| <= 2^-16 * max |v| (the scores' f32
 * error, up to 2^-19 here, is amplified by exp). test_bound_has_teeth: seeing one position more
 * breaks it.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "kernels/half.h"
#include "kernels/kv.h"
#include "tests/kernels/twin.h"

struct shape {
    enum lam_dtype dtype;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t page_tokens;
    uint32_t n_seqs;
    uint32_t n_rows[3];
    uint32_t pos_begin[3];
};

static const struct shape shapes[] = {
    {LAM_F16, 9, 3, 64, 16, 1, {1}, {0}},
    {LAM_F16, 9, 3, 64, 64, 1, {1}, {300}},
    {LAM_F16, 9, 3, 64, 32, 1, {70}, {0}},
    {LAM_F32, 4, 4, 80, 8, 1, {17}, {120}},
    {LAM_F16, 12, 2, 20, 4, 2, {5, 33}, {63, 2}},
    {LAM_F32, 8, 1, 256, 128, 3, {1, 2, 1}, {64, 127, 0}},
    {LAM_F16, 2, 2, 3, 1, 1, {9}, {60}},
    {LAM_F32, 6, 3, 36, 256, 1, {1}, {255}},
    {LAM_F16, 4, 2, 128, 16, 2, {0, 40}, {5, 100}},
    {LAM_Q8_0, 9, 3, 64, 16, 2, {1, 40}, {300, 7}},
    {LAM_Q8_0, 8, 2, 128, 64, 2, {3, 1}, {70, 0}},
    {LAM_Q8_0, 4, 1, 96, 32, 1, {17}, {130}},
    {LAM_Q8_0, 2, 2, 160, 8, 1, {5}, {60}},
};

enum { PAGES_MAX = 512 };

/* A cache and the inputs of a call. */
struct scene {
    struct shape shape;
    struct lam_kv_layer kv;
    struct lam_seq_rows seqs[3];
    uint32_t pages[3][PAGES_MAX];
    uint32_t n_rows;
    size_t kv_bytes;
    float *q; /* [n_rows, H, d] */
};

/* Fills the cache with NaN bits, then the positions that the rows may see with numbers. */
static void fill_cache(struct scene *scene, const struct twin_backend *ref, struct twin_rng *rng)
{
    const struct lam_kv_layer *kv = &scene->kv;

    memset(kv->k, 0xFF, scene->kv_bytes);
    memset(kv->v, 0xFF, scene->kv_bytes);
    for (uint32_t s = 0; s < scene->shape.n_seqs; s++) {
        struct lam_seq_rows seq = scene->seqs[s];
        seq.row_begin = 0;
        seq.n_rows += seq.pos_begin;
        seq.pos_begin = 0;
        size_t n = (size_t)seq.n_rows * kv->n_kv_heads * kv->head_dim;
        float *k = twin_random_floats(rng, n, 2.0f);
        float *v = twin_random_floats(rng, n, 1.0f);
        struct lam_kv_write_args args = {k, v, *kv, &seq, 1};
        ref->ops->kv_write(ref->kernels, &args);
        twin_free(k);
        twin_free(v);
    }
}

static void scene_init(struct scene *scene, struct shape shape, const struct twin_backend *ref)
{
    struct twin_rng rng = {.state = 11 + shape.head_dim};
    uint32_t pages_per_seq = 512 / shape.page_tokens;
    const struct lam_dtype_info *info = lam_dtype_info(shape.dtype);

    memset(scene, 0, sizeof(*scene));
    scene->shape = shape;
    scene->kv_bytes =
        (size_t)3 * 512 * shape.n_kv_heads * shape.head_dim / info->block_elems * info->block_bytes;
    scene->kv =
        (struct lam_kv_layer){lam_calloc(scene->kv_bytes, 1), lam_calloc(scene->kv_bytes, 1),
            shape.dtype, shape.n_kv_heads, shape.head_dim, shape.page_tokens};
    assert_true(scene->kv.k != NULL && scene->kv.v != NULL);
    for (uint32_t s = 0; s < shape.n_seqs; s++) {
        /* Interleaved and backwards: no two neighbours of a sequence are neighbours in memory. */
        for (uint32_t p = 0; p < pages_per_seq; p++)
            scene->pages[s][p] = (pages_per_seq - 1 - p) * 3 + s;
        scene->seqs[s] = (struct lam_seq_rows){
            scene->n_rows, shape.n_rows[s], shape.pos_begin[s], scene->pages[s]};
        scene->n_rows += shape.n_rows[s];
    }
    scene->q =
        twin_random_floats(&rng, (size_t)scene->n_rows * shape.n_heads * shape.head_dim, 2.0f);
    fill_cache(scene, ref, &rng);
}

static void scene_done(struct scene *scene)
{
    twin_free(scene->q);
    lam_free(scene->kv.k);
    lam_free(scene->kv.v);
}

static void run(const struct twin_backend *backend, const struct scene *scene,
    const struct lam_seq_rows *seqs, uint32_t n_seqs, float *out)
{
    struct lam_attention_args args = {scene->q, out, scene->shape.n_heads,
        1 / sqrtf((float)scene->shape.head_dim), scene->kv, seqs, n_seqs, false};

    backend->ops->attention(backend->kernels, &args);
}

static double worst_error(const float *exact, const float *fast, size_t n)
{
    double worst = 0;

    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)fast[i] - (double)exact[i]);
        if (isnan(error))
            return 1;
        worst = fmax(worst, error);
    }
    return worst;
}

static void test_twins(void **state)
{
    struct twin_set set;

    (void)state;
    twin_set_init(&set, 2);
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        struct scene scene;
        scene_init(&scene, shapes[s], &set.ref);
        size_t n = (size_t)scene.n_rows * scene.shape.n_heads * scene.shape.head_dim;
        float *exact = twin_floats(n);
        float *fast = twin_floats(n);
        run(&set.ref, &scene, scene.seqs, scene.shape.n_seqs, exact);
        for (uint32_t i = 0; i < set.n_fast; i++) {
            run(&set.fast[i], &scene, scene.seqs, scene.shape.n_seqs, fast);
            double worst = worst_error(exact, fast, n);
            if (worst > 0x1p-16)
                fail_msg("%s shape %zu: error %g", set.fast[i].name, s, worst);
        }
        twin_free(exact);
        twin_free(fast);
        scene_done(&scene);
    }
    twin_set_done(&set);
}

static void test_bound_has_teeth(void **state)
{
    struct twin_set set;
    struct scene scene;

    (void)state;
    twin_set_init(&set, 1);
    scene_init(&scene, shapes[1], &set.ref);
    size_t n = (size_t)scene.shape.n_heads * scene.shape.head_dim;
    float *exact = twin_floats(n);
    float *fast = twin_floats(n);
    for (uint32_t i = 0; i < set.n_fast; i++) {
        run(&set.fast[i], &scene, scene.seqs, 1, fast);
        struct lam_seq_rows shorter = scene.seqs[0];
        shorter.pos_begin--;
        run(&set.ref, &scene, &shorter, 1, exact);
        assert_true(worst_error(exact, fast, n) > 0x1p-16);
    }
    twin_free(exact);
    twin_free(fast);
    scene_done(&scene);
    twin_set_done(&set);
}

/* A prompt in one call, in uneven chunks, row by row, and with 1 or 3 threads: the same bits. */
static void test_chunks_do_not_matter(void **state)
{
    static const uint32_t cuts[] = {1, 2, 5, 31, 70};
    struct scene scene;
    struct twin_set sets[3];

    (void)state;
    for (uint32_t i = 0; i < 3; i++)
        twin_set_init(&sets[i], i + 1);
    scene_init(&scene, shapes[2], &sets[0].ref);
    size_t row = (size_t)scene.shape.n_heads * scene.shape.head_dim;
    float *whole = twin_floats(70 * row);
    float *pieces = twin_floats(70 * row);
    for (uint32_t b = 0; b < sets[0].n_fast; b++) {
        run(&sets[0].fast[b], &scene, scene.seqs, 1, whole);
        for (uint32_t i = 0; i < 15; i++) {
            uint32_t step = cuts[i / 3];
            memset(pieces, 0xFF, 70 * row * sizeof(*pieces));
            for (uint32_t begin = 0; begin < 70; begin += step) {
                uint32_t n = 70 - begin < step ? 70 - begin : step;
                struct lam_seq_rows seq = {begin, n, begin, scene.pages[0]};
                run(&sets[i % 3].fast[b], &scene, &seq, 1, pieces);
            }
            assert_memory_equal(whole, pieces, 70 * row * sizeof(*pieces));
        }
    }
    twin_free(whole);
    twin_free(pieces);
    scene_done(&scene);
    for (uint32_t i = 0; i < 3; i++)
        twin_set_done(&sets[i]);
}

/* kv_write: the same bytes as the twin, nothing else touched. */
static void test_kv_write(void **state)
{
    struct twin_set set;

    (void)state;
    twin_set_init(&set, 2);
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        struct scene scene;
        struct twin_rng rng = {.state = 21};
        scene_init(&scene, shapes[s], &set.ref);
        size_t n = (size_t)scene.n_rows * scene.shape.n_kv_heads * scene.shape.head_dim;
        float *k = twin_random_floats(&rng, n, 70000.0f);
        float *v = twin_random_floats(&rng, n, 1e-5f);
        uint8_t *expected = lam_calloc(scene.kv_bytes, 2);
        assert_non_null(expected);
        struct lam_kv_write_args args = {k, v, scene.kv, scene.seqs, scene.shape.n_seqs};
        for (uint32_t i = 0; i <= set.n_fast; i++) {
            struct twin_backend *backend = i == 0 ? &set.ref : &set.fast[i - 1];
            memset(scene.kv.k, 0xAA, scene.kv_bytes);
            memset(scene.kv.v, 0xAA, scene.kv_bytes);
            backend->ops->kv_write(backend->kernels, &args);
            if (i == 0) {
                memcpy(expected, scene.kv.k, scene.kv_bytes);
                memcpy(expected + scene.kv_bytes, scene.kv.v, scene.kv_bytes);
            }
            assert_memory_equal(expected, scene.kv.k, scene.kv_bytes);
            assert_memory_equal(expected + scene.kv_bytes, scene.kv.v, scene.kv_bytes);
        }
        lam_free(expected);
        twin_free(k);
        twin_free(v);
        scene_done(&scene);
    }
    twin_set_done(&set);
}

/* A Q8_0 block is as near as its step allows; what has no number is NaN; nothing is 0. */
static void test_q8_0_blocks(void **state)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY};
    struct twin_rng rng = {.state = 5};
    float *x = twin_random_floats(&rng, 64, 3.0f);
    uint8_t blocks[2 * LAM_KV_Q8_BYTES];

    (void)state;
    lam_kv_pack_q8_0(x, 64, blocks);
    for (uint32_t i = 0; i < 64; i++) {
        const uint8_t *block = blocks + i / 32 * LAM_KV_Q8_BYTES;
        float d = lam_f32_from_f16(lam_load_u16(block));
        float value = d * (float)(int8_t)block[2 + i % 32];
        assert_true(d > 0 && d <= 3.0f / 126);
        assert_true(fabsf(value - x[i]) <= 0.57f * d); /* half a step; d itself is rounded */
    }
    for (uint32_t i = 0; i < 3; i++) {
        x[32 + 7] = odd[i];
        lam_kv_pack_q8_0(x, 64, blocks);
        assert_true(lam_f32_from_f16(lam_load_u16(blocks)) > 0);
        assert_true(isnan(lam_f32_from_f16(lam_load_u16(blocks + LAM_KV_Q8_BYTES))));
    }
    memset(x, 0, 32 * sizeof(*x));
    for (uint32_t i = 32; i < 64; i++)
        x[i] = i == 40 ? 1e-40f : 0;
    lam_kv_pack_q8_0(x, 64, blocks);
    for (uint32_t i = 0; i < sizeof(blocks); i++)
        assert_int_equal(blocks[i], 0);
    twin_free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twins),
        cmocka_unit_test(test_bound_has_teeth),
        cmocka_unit_test(test_chunks_do_not_matter),
        cmocka_unit_test(test_kv_write),
        cmocka_unit_test(test_q8_0_blocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
