/*
 * attention and kv_write on the GPU against the reference: the head sizes of the tensor core kernel
 * and others, grouped heads, small and large pages in shuffled order, several sequences in one
 * call, positions that nobody wrote (poisoned with NaN).
 *
 * Bound: a result is a weighted mean of values, so |gpu - ref| <= 2^-16 * max |v|; of Q8_0, whose
 * numbers the GPU rounds to F16, 2^-9. In calls of more than 16 rows q and the weights are rounded
 * to F16, which the tensor core kernel's bound shows: 2^-10 and 2^-8.
 * test_attention_bound_has_teeth: seeing one position less breaks it.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "tests/kernels/cuda_twins/gpu.h"

enum { SEQS_MAX = 3, CTX = 1024 };

struct shape {
    enum lam_dtype dtype;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t page_tokens;
    uint32_t n_seqs;
    uint32_t n_rows[SEQS_MAX];
    uint32_t pos_begin[SEQS_MAX];
};

static const struct shape shapes[] = {
    {LAM_F16, 9, 3, 64, 16, 1, {1}, {0}},
    {LAM_F16, 9, 3, 64, 64, 1, {1}, {300}},
    {LAM_F16, 9, 3, 64, 32, 1, {70}, {0}},
    {LAM_F16, 32, 8, 128, 64, 1, {1}, {1000}},
    {LAM_F16, 32, 8, 128, 16, 3, {1, 2, 1}, {64, 127, 900}},
    {LAM_F16, 8, 2, 128, 128, 2, {90, 1}, {333, 77}},
    {LAM_F16, 4, 1, 96, 32, 1, {17}, {130}},
    {LAM_F16, 4, 4, 32, 16, 2, {3, 5}, {31, 191}},
    {LAM_F16, 8, 4, 256, 16, 2, {2, 40}, {500, 5}},
    {LAM_F16, 32, 1, 64, 16, 1, {3}, {700}},
    {LAM_F16, 16, 16, 128, 1024, 1, {33}, {0}},
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
    {LAM_Q8_0, 8, 4, 256, 16, 2, {2, 40}, {500, 5}},
    {LAM_Q8_0, 4, 4, 32, 16, 2, {3, 5}, {31, 191}},
    {LAM_F16, 4, 2, 128, 8, 1, {2}, {200}},
};

/* A cache on both sides and the inputs of a call. */
struct scene {
    struct shape shape;
    struct lam_kv_layer kv;  /* host */
    struct lam_kv_layer gpu; /* device */
    struct lam_seq_rows seqs[SEQS_MAX];
    struct lam_seq_rows gpu_seqs[SEQS_MAX]; /* the same with pages on the device */
    uint32_t *pages[SEQS_MAX];
    uint32_t n_rows;
    size_t kv_bytes;
    float *q; /* [n_rows, H, d] */
};

/* Fills the cache with NaN bits, then the positions that the rows may see with numbers. */
static void fill_cache(struct scene *scene, struct gpu *gpu, struct twin_rng *rng)
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
        gpu->ref->kv_write(gpu->ref_kernels, &args);
        twin_free(k);
        twin_free(v);
    }
}

static void scene_init(struct scene *scene, struct shape shape, struct gpu *gpu)
{
    struct twin_rng rng = {.state = 11 + shape.head_dim};
    uint32_t pages_per_seq = CTX / shape.page_tokens;
    const struct lam_dtype_info *info = lam_dtype_info(shape.dtype);

    memset(scene, 0, sizeof(*scene));
    scene->shape = shape;
    scene->kv_bytes = (size_t)SEQS_MAX * CTX * shape.n_kv_heads * shape.head_dim /
                      info->block_elems * info->block_bytes;
    scene->kv =
        (struct lam_kv_layer){lam_calloc(scene->kv_bytes, 1), lam_calloc(scene->kv_bytes, 1),
            shape.dtype, shape.n_kv_heads, shape.head_dim, shape.page_tokens};
    assert_true(scene->kv.k != NULL && scene->kv.v != NULL);
    for (uint32_t s = 0; s < shape.n_seqs; s++) {
        /* Interleaved and backwards: no two neighbours of a sequence are neighbours in memory. */
        scene->pages[s] = lam_calloc(pages_per_seq, sizeof(uint32_t));
        assert_non_null(scene->pages[s]);
        for (uint32_t p = 0; p < pages_per_seq; p++)
            scene->pages[s][p] = (pages_per_seq - 1 - p) * SEQS_MAX + s;
        scene->seqs[s] = (struct lam_seq_rows){
            scene->n_rows, shape.n_rows[s], shape.pos_begin[s], scene->pages[s]};
        scene->n_rows += shape.n_rows[s];
    }
    scene->q =
        twin_random_floats(&rng, (size_t)scene->n_rows * shape.n_heads * shape.head_dim, 2.0f);
    fill_cache(scene, gpu, &rng);
    scene->gpu = scene->kv;
    scene->gpu.k = gpu_put(gpu, scene->kv.k, scene->kv_bytes, 0);
    scene->gpu.v = gpu_put(gpu, scene->kv.v, scene->kv_bytes, 0);
    for (uint32_t s = 0; s < shape.n_seqs; s++) {
        /* Only the pages that the call may look at: a look behind them finds the guard. */
        uint32_t n_used = (shape.pos_begin[s] + shape.n_rows[s]) / shape.page_tokens + 1;
        n_used = n_used < pages_per_seq ? n_used : pages_per_seq;
        scene->gpu_seqs[s] = scene->seqs[s];
        scene->gpu_seqs[s].pages =
            gpu_put(gpu, scene->pages[s], n_used * sizeof(*scene->pages[s]), 0);
    }
}

static void scene_done(struct scene *scene, struct gpu *gpu)
{
    gpu_reset(gpu);
    twin_free(scene->q);
    for (uint32_t s = 0; s < scene->shape.n_seqs; s++)
        lam_free(scene->pages[s]);
    lam_free(scene->kv.k);
    lam_free(scene->kv.v);
}

static size_t out_floats(const struct scene *scene)
{
    return (size_t)scene->n_rows * scene->shape.n_heads * scene->shape.head_dim;
}

static struct lam_attention_args args_of(const struct scene *scene)
{
    return (struct lam_attention_args){.q = scene->q,
        .n_heads = scene->shape.n_heads,
        .scale = 1 / sqrtf((float)scene->shape.head_dim),
        .kv = scene->kv,
        .seqs = scene->seqs,
        .n_seqs = scene->shape.n_seqs};
}

static void run_ref(
    struct gpu *gpu, const struct scene *scene, const struct lam_seq_rows *seqs, float *out)
{
    struct lam_attention_args args = args_of(scene);

    args.seqs = seqs;
    args.out = out;
    gpu->ref->attention(gpu->ref_kernels, &args);
}

/* Results of all rows; rows outside of seqs stay NaN. */
static void run_gpu(struct gpu *gpu, const struct scene *scene, const struct lam_seq_rows *seqs,
    uint32_t n_seqs, float *out)
{
    struct lam_attention_args args = args_of(scene);

    args.q = gpu_put(gpu, scene->q, out_floats(scene) * sizeof(float), 0);
    args.out = gpu_floats(gpu, out_floats(scene));
    args.kv = scene->gpu;
    args.seqs = seqs;
    args.n_seqs = n_seqs;
    gpu->ops->attention(gpu->kernels, &args);
    gpu_get(gpu, out, args.out, out_floats(scene) * sizeof(float));
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

static bool is_many(const struct scene *scene)
{
    return scene->n_rows > LAM_DEVICE_SPLIT_ROWS;
}

static double bound_of(const struct scene *scene)
{
    bool packed = scene->shape.dtype == LAM_Q8_0;

    if (is_many(scene) && scene->shape.dtype != LAM_F32)
        return packed ? 0x1p-8 : 0x1p-10;
    return packed ? 0x1p-9 : 0x1p-16;
}

static void check_error(
    const struct scene *scene, size_t shape, const float *exact, const float *fast)
{
    double worst = worst_error(exact, fast, out_floats(scene));

    if (worst > bound_of(scene))
        fail_msg("shape %zu: error %g", shape, worst);
}

void test_attention_twins(void **state)
{
    struct gpu *gpu = *state;

    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        struct scene scene;
        scene_init(&scene, shapes[s], gpu);
        size_t n = out_floats(&scene);
        float *exact = twin_floats(n);
        float *fast = twin_floats(n);
        float *again = twin_floats(n);
        run_ref(gpu, &scene, scene.seqs, exact);
        run_gpu(gpu, &scene, scene.gpu_seqs, scene.shape.n_seqs, fast);
        run_gpu(gpu, &scene, scene.gpu_seqs, scene.shape.n_seqs, again);
        assert_memory_equal(fast, again, n * sizeof(*fast));
        check_error(&scene, s, exact, fast);
        twin_free(exact);
        twin_free(fast);
        twin_free(again);
        scene_done(&scene, gpu);
    }
}

void test_attention_bound_has_teeth(void **state)
{
    static const struct shape alone[] = {{LAM_F16, 9, 3, 64, 64, 1, {1}, {300}},
        {LAM_F16, 32, 8, 128, 64, 1, {1}, {1000}}, {LAM_Q8_0, 32, 8, 128, 64, 1, {1}, {60}},
        {LAM_F16, 9, 3, 64, 64, 1, {20}, {300}}, {LAM_Q8_0, 32, 8, 128, 64, 1, {20}, {60}}};
    struct gpu *gpu = *state;

    for (size_t i = 0; i < sizeof(alone) / sizeof(alone[0]); i++) {
        struct scene scene;
        scene_init(&scene, alone[i], gpu);
        size_t n = out_floats(&scene);
        float *exact = twin_floats(n);
        float *fast = twin_floats(n);
        struct lam_seq_rows shorter = scene.seqs[0];
        shorter.pos_begin--;
        run_gpu(gpu, &scene, scene.gpu_seqs, 1, fast);
        run_ref(gpu, &scene, &shorter, exact);
        assert_true(worst_error(exact, fast, n) > bound_of(&scene));
        twin_free(exact);
        twin_free(fast);
        scene_done(&scene, gpu);
    }
}

/* Rows of the scene's sequence in calls of `cut` rows, into out. */
static void run_cut(struct gpu *gpu, const struct scene *scene, struct lam_attention_args args,
    uint32_t cut, float *out)
{
    size_t n = out_floats(scene);

    memset(out, 0xFF, n * sizeof(*out));
    gpu->device->upload(gpu->kernels, args.out, out, n * sizeof(*out));
    for (uint32_t begin = 0; begin < scene->n_rows; begin += cut) {
        struct lam_seq_rows seq = scene->gpu_seqs[0];
        seq.row_begin = begin;
        seq.n_rows = scene->n_rows - begin < cut ? scene->n_rows - begin : cut;
        seq.pos_begin += begin;
        args.seqs = &seq;
        gpu->ops->attention(gpu->kernels, &args);
    }
    gpu_get(gpu, out, args.out, n * sizeof(*out));
}

/* A prompt in chunks of few rows has the same bits whatever the chunks, and so has one in chunks of
 * many; a last chunk of few rows is left out there. */
void test_attention_chunks(void **state)
{
    static const struct shape prompts[] = {{LAM_F16, 9, 3, 64, 32, 1, {70}, {0}},
        {LAM_F16, 8, 2, 128, 16, 1, {64}, {450}}, {LAM_F16, 4, 2, 256, 16, 1, {40}, {200}},
        {LAM_F32, 4, 2, 80, 16, 1, {40}, {100}}, {LAM_Q8_0, 8, 2, 128, 16, 1, {64}, {450}},
        {LAM_Q8_0, 4, 2, 128, 16, 1, {40}, {100}}};
    static const uint32_t cuts[] = {2, 5, 16, 17, 20, 31};
    struct gpu *gpu = *state;

    for (size_t s = 0; s < sizeof(prompts) / sizeof(prompts[0]); s++) {
        struct scene scene;
        if (!gpu_takes((uint64_t)prompts[s].n_rows[0] * (prompts[s].pos_begin[0] + 64) *
                       prompts[s].n_heads * prompts[s].head_dim * 2))
            continue;
        scene_init(&scene, prompts[s], gpu);
        size_t row = (size_t)scene.shape.n_heads * scene.shape.head_dim;
        float *few = twin_floats(scene.n_rows * row);
        float *many = twin_floats(scene.n_rows * row);
        float *pieces = twin_floats(scene.n_rows * row);
        struct lam_attention_args args = args_of(&scene);
        args.kv = scene.gpu;
        args.q = gpu_put(gpu, scene.q, scene.n_rows * row * sizeof(float), 0);
        args.out = gpu_floats(gpu, scene.n_rows * row);
        args.n_seqs = 1;
        run_cut(gpu, &scene, args, 1, few);
        run_cut(gpu, &scene, args, scene.n_rows, many);
        for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
            bool is_few = cuts[i] <= LAM_DEVICE_SPLIT_ROWS;
            uint32_t n_whole = is_few ? scene.n_rows : scene.n_rows / cuts[i] * cuts[i];
            run_cut(gpu, &scene, args, cuts[i], pieces);
            if (memcmp(is_few ? few : many, pieces, n_whole * row * sizeof(*pieces)) != 0)
                fail_msg("prompt %zu: chunks of %u rows differ", s, cuts[i]);
        }
        twin_free(few);
        twin_free(many);
        twin_free(pieces);
        scene_done(&scene, gpu);
    }
}

/* A sequence in a call with a few others and with more than a kernel takes at once: the same bits.
 * (Alone, a sequence of one row would be a call of few rows.) */
void test_attention_company(void **state)
{
    static const struct shape pair = {LAM_F16, 8, 2, 128, 16, 2, {1, 70}, {777, 3}};
    enum { N_SEQS = 80 };
    struct gpu *gpu = *state;
    struct lam_seq_rows seqs[N_SEQS];
    struct scene scene;

    scene_init(&scene, pair, gpu);
    size_t n = out_floats(&scene);
    size_t first = (size_t)pair.n_heads * pair.head_dim;
    float *fewer = twin_floats(n);
    float *together = twin_floats(n);
    /* The same row over and over, and the prompt among them. */
    for (uint32_t s = 0; s < N_SEQS; s++)
        seqs[s] = scene.gpu_seqs[s == 40];
    run_gpu(gpu, &scene, seqs, N_SEQS, together);
    run_gpu(gpu, &scene, seqs, 20, fewer);
    assert_memory_equal(fewer, together, first * sizeof(*fewer));
    run_gpu(gpu, &scene, &scene.gpu_seqs[1], 1, fewer);
    assert_memory_equal(fewer + first, together + first, (n - first) * sizeof(*fewer));
    twin_free(fewer);
    twin_free(together);
    scene_done(&scene, gpu);
}

/* The rows' own keys and values are written by the operation right before, older ones lie there:
 * attention, which may begin early, must not read the new ones too early. */
void test_attention_behind_a_write(void **state)
{
    static const struct shape layers[] = {{LAM_F16, 9, 3, 64, 16, 1, {1}, {40}},
        {LAM_F16, 32, 8, 128, 64, 3, {1, 2, 1}, {63, 94, 128}},
        {LAM_Q8_0, 8, 2, 128, 64, 2, {3, 1}, {70, 31}}, {LAM_F16, 8, 2, 128, 64, 1, {40}, {100}}};
    struct gpu *gpu = *state;

    for (size_t s = 0; s < sizeof(layers) / sizeof(layers[0]); s++) {
        struct scene scene;
        struct twin_rng rng = {.state = 31};
        scene_init(&scene, layers[s], gpu);
        struct lam_kv_layer *kv = &scene.kv;
        size_t n_new = (size_t)scene.n_rows * kv->n_kv_heads * kv->head_dim;
        size_t n = out_floats(&scene);
        float *k = twin_random_floats(&rng, n_new, 2.0f);
        float *v = twin_random_floats(&rng, n_new, 1.0f);
        float *exact = twin_floats(n);
        float *fast = twin_floats(n);
        struct lam_kv_write_args write = {k, v, *kv, scene.seqs, scene.shape.n_seqs};
        struct lam_attention_args attention = args_of(&scene);
        gpu->ref->kv_write(gpu->ref_kernels, &write);
        run_ref(gpu, &scene, scene.seqs, exact);
        attention.q = gpu_put(gpu, scene.q, n * sizeof(float), 0);
        attention.out = gpu_floats(gpu, n);
        attention.kv = write.kv = scene.gpu;
        attention.seqs = write.seqs = scene.gpu_seqs;
        write.k = gpu_put(gpu, k, n_new * sizeof(float), 0);
        write.v = gpu_put(gpu, v, n_new * sizeof(float), 0);
        gpu->ops->kv_write(gpu->kernels, &write);
        gpu->ops->attention(gpu->kernels, &attention);
        gpu_get(gpu, fast, attention.out, n * sizeof(float));
        check_error(&scene, s, exact, fast);
        twin_free(k);
        twin_free(v);
        twin_free(exact);
        twin_free(fast);
        scene_done(&scene, gpu);
    }
}

/* kv_write: the same bytes as the reference, nothing else touched. */
void test_kv_write(void **state)
{
    struct gpu *gpu = *state;

    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        struct scene scene;
        struct twin_rng rng = {.state = 21};
        scene_init(&scene, shapes[s], gpu);
        size_t n = (size_t)scene.n_rows * scene.shape.n_kv_heads * scene.shape.head_dim;
        float *k = twin_random_floats(&rng, n, 70000.0f);
        float *v = twin_random_floats(&rng, n, 1e-5f);
        uint8_t *got = lam_calloc(scene.kv_bytes, 1);
        assert_non_null(got);
        struct lam_kv_write_args args = {k, v, scene.kv, scene.seqs, scene.shape.n_seqs};
        gpu->ref->kv_write(gpu->ref_kernels, &args);
        args.k = gpu_put(gpu, k, n * sizeof(*k), 0);
        args.v = gpu_put(gpu, v, n * sizeof(*v), 0);
        args.kv = scene.gpu;
        args.seqs = scene.gpu_seqs;
        gpu->ops->kv_write(gpu->kernels, &args);
        gpu_get(gpu, got, scene.gpu.k, scene.kv_bytes);
        assert_memory_equal(got, scene.kv.k, scene.kv_bytes);
        gpu_get(gpu, got, scene.gpu.v, scene.kv_bytes);
        assert_memory_equal(got, scene.kv.v, scene.kv_bytes);
        lam_free(got);
        twin_free(k);
        twin_free(v);
        scene_done(&scene, gpu);
    }
}

/* Rotations and kv_write of one layer. wait: after each, which keeps them apart. */
static void run_layer(struct gpu *gpu, const struct scene *scene, bool wait, uint32_t n_seqs,
    enum lam_rope_pairing pairing, float *const x[3], const float *table, uint8_t *ret_bytes)
{
    const struct shape *shape = &scene->shape;
    uint32_t d = shape->head_dim;
    uint32_t n_heads[3] = {shape->n_heads, shape->n_kv_heads, shape->n_kv_heads};
    struct lam_rope_args ropes[2];
    struct lam_kv_write_args write = {NULL, NULL, scene->gpu, scene->gpu_seqs, n_seqs};
    size_t bytes[3];
    float *on_gpu[3];
    uint32_t word;

    gpu->device->upload(gpu->kernels, scene->gpu.k, scene->kv.k, scene->kv_bytes);
    gpu->device->upload(gpu->kernels, scene->gpu.v, scene->kv.v, scene->kv_bytes);
    for (uint32_t i = 0; i < 3; i++) {
        bytes[i] = (size_t)scene->n_rows * n_heads[i] * d * sizeof(float);
        on_gpu[i] = gpu_put(gpu, x[i], bytes[i], 0);
    }
    const float *angles = gpu_put(gpu, table, (uint64_t)scene->n_rows * d * sizeof(float), 0);
    for (uint32_t i = 0; i < 2; i++) {
        ropes[i] =
            (struct lam_rope_args){on_gpu[i], angles, scene->n_rows, n_heads[i], d, d, pairing};
        gpu->ops->rope(gpu->kernels, &ropes[i]);
        if (wait)
            gpu_get(gpu, &word, on_gpu[i], sizeof(word));
    }
    write.k = on_gpu[1];
    write.v = on_gpu[2];
    gpu->ops->kv_write(gpu->kernels, &write);
    for (uint32_t i = 0; i < 3; i++) {
        gpu_get(gpu, ret_bytes, on_gpu[i], bytes[i]);
        ret_bytes += bytes[i];
    }
    gpu_get(gpu, ret_bytes, scene->gpu.k, scene->kv_bytes);
    gpu_get(gpu, ret_bytes + scene->kv_bytes, scene->gpu.v, scene->kv_bytes);
}

/* Rotations and kv_write, one launch where they fit together: the same bits as one by one. With a
 * sequence left out they do not fit. */
void test_rope_kv(void **state)
{
    static const struct shape layers[] = {{LAM_F16, 9, 3, 64, 16, 1, {1}, {300}},
        {LAM_F16, 32, 8, 128, 64, 3, {1, 2, 40}, {64, 127, 0}},
        {LAM_F32, 4, 2, 20, 4, 2, {5, 33}, {63, 2}}, {LAM_Q8_0, 8, 2, 64, 16, 1, {3}, {9}}};
    struct gpu *gpu = *state;

    for (uint32_t i = 0; i < 4 * sizeof(layers) / sizeof(layers[0]); i++) {
        const struct shape *shape = &layers[i / 4];
        enum lam_rope_pairing pairing = i % 2 == 0 ? LAM_ROPE_ADJACENT : LAM_ROPE_HALVES;
        uint32_t n_seqs = i % 4 < 2 ? shape->n_seqs : shape->n_seqs - 1;
        struct twin_rng rng = {.state = 31 + i};
        struct scene scene;
        scene_init(&scene, *shape, gpu);
        size_t row = (size_t)(shape->n_heads + 2 * shape->n_kv_heads) * shape->head_dim;
        size_t bytes = scene.n_rows * row * sizeof(float) + 2 * scene.kv_bytes;
        float *x[3] = {
            twin_random_floats(&rng, (size_t)scene.n_rows * shape->n_heads * shape->head_dim, 1.0f),
            twin_random_floats(
                &rng, (size_t)scene.n_rows * shape->n_kv_heads * shape->head_dim, 1.0f),
            twin_random_floats(
                &rng, (size_t)scene.n_rows * shape->n_kv_heads * shape->head_dim, 1.0f)};
        float *table = twin_random_floats(&rng, (size_t)scene.n_rows * shape->head_dim, 1.0f);
        uint8_t *apart = lam_calloc(bytes, 1);
        uint8_t *together = lam_calloc(bytes, 1);
        assert_true(apart != NULL && together != NULL);
        run_layer(gpu, &scene, true, n_seqs, pairing, x, table, apart);
        run_layer(gpu, &scene, false, n_seqs, pairing, x, table, together);
        assert_memory_equal(apart, together, bytes);
        lam_free(apart);
        lam_free(together);
        for (uint32_t j = 0; j < 3; j++)
            twin_free(x[j]);
        twin_free(table);
        scene_done(&scene, gpu);
    }
}
