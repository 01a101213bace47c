/*
 * kernels_bench: how long the operations of one forward pass take, on weights of SmolLM2-135M's
 * shapes and formats (Q4_1 layers, Q8_0 head) filled with random bits. No model file is needed: a
 * kernel's time does not depend on the numbers. Every layer has its own weights, so the pass reads
 * as many bytes as the model does.
 *
 *   bazel run //bench:kernels_bench -- [ref|cpu|avx2|avx512] [THREADS] [CONTEXT]
 *
 * prints, for one row at position CONTEXT and for a prompt of 512 rows, the time per operation and
 * pass.
 */
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/flag.h"
#include "common/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/ops.h"

enum {
    D = 576,
    F = 1536,
    N_HEADS = 9,
    N_KV_HEADS = 3,
    HEAD_DIM = 64,
    KV_WIDTH = N_KV_HEADS * HEAD_DIM,
    VOCABULARY = 49152,
    N_LAYERS = 30,
    ROWS_MAX = 512,
    CONTEXT_MAX = 4096,
    PAGE_TOKENS = 64,
};

enum op {
    OP_NORM_ATTENTION,
    OP_QKV,
    OP_ROPE,
    OP_KV_WRITE,
    OP_ATTENTION,
    OP_OUT,
    OP_NORM_FFN,
    OP_GATE_UP,
    OP_SWIGLU,
    OP_DOWN,
    OP_HEAD,
    OP_END,
};

static const char *const op_names[OP_END] = {"rms_norm", "matmul qkv", "rope", "kv_write",
    "attention", "matmul out", "rms_norm", "matmul gate,up", "swiglu", "matmul down",
    "matmul head"};

struct layer {
    uint8_t *q, *k, *v, *out, *gate, *up, *down;
    struct lam_kv_layer kv;
};

struct bench {
    const struct lam_kernel_ops *ops;
    struct lam_kernels *kernels;
    struct layer layers[N_LAYERS];
    uint8_t *head;
    float *norm_weight;
    float *x, *normed, *q, *k, *v, *attended, *gate, *up, *logits, *rope;
    uint32_t pages[CONTEXT_MAX / PAGE_TOKENS];
    uint64_t weight_bytes;
    uint32_t layer; /* that runs now */
    uint64_t best_ns[N_LAYERS][OP_END];
};

/* Random blocks; the scales (the first four bytes of a Q4_1 block, two of a Q8_0 block) are 2^-9.
 */
static uint8_t *make_weights(struct bench *bench, enum lam_dtype dtype, uint32_t n, uint32_t n_cols)
{
    const struct lam_dtype_info *info = lam_dtype_info(dtype);
    uint64_t bytes = (uint64_t)n * n_cols / info->block_elems * info->block_bytes;
    uint8_t *weights = lam_aligned_calloc(64, bytes);
    uint64_t state = 88172645463325252u;

    if (weights == NULL)
        return NULL;
    for (uint64_t i = 0; i < bytes; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        weights[i] = (uint8_t)(state >> 56);
    }
    for (uint64_t at = 0; at < bytes; at += info->block_bytes) {
        static const uint8_t scale[4] = {0x00, 0x18, 0x00, 0x98};
        memcpy(weights + at, scale, dtype == LAM_Q4_1 ? 4 : 2);
    }
    bench->weight_bytes += bytes;
    return weights;
}

static float *make_floats(size_t n)
{
    float *floats = lam_aligned_calloc(64, n * sizeof(float));

    for (size_t i = 0; floats != NULL && i < n; i++)
        floats[i] = (float)(i * 2654435761u % 2001) / 1000.0f - 1.0f;
    return floats;
}

static bool make_layer(struct bench *bench, struct layer *layer)
{
    size_t kv_bytes = (size_t)CONTEXT_MAX * KV_WIDTH * 2;

    *layer = (struct layer){
        .q = make_weights(bench, LAM_Q4_1, D, D),
        .k = make_weights(bench, LAM_Q4_1, KV_WIDTH, D),
        .v = make_weights(bench, LAM_Q4_1, KV_WIDTH, D),
        .out = make_weights(bench, LAM_Q4_1, D, D),
        .gate = make_weights(bench, LAM_Q4_1, F, D),
        .up = make_weights(bench, LAM_Q4_1, F, D),
        .down = make_weights(bench, LAM_Q4_1, D, F),
        .kv = {.k = lam_calloc(kv_bytes, 1),
            .v = lam_calloc(kv_bytes, 1),
            .dtype = LAM_F16,
            .n_kv_heads = N_KV_HEADS,
            .head_dim = HEAD_DIM,
            .page_tokens = PAGE_TOKENS},
    };
    return layer->q && layer->k && layer->v && layer->out && layer->gate && layer->up &&
           layer->down && layer->kv.k && layer->kv.v;
}

static bool make_all(struct bench *bench)
{
    for (int i = 0; i < N_LAYERS; i++) {
        if (!make_layer(bench, &bench->layers[i]))
            return false;
    }
    for (uint32_t i = 0; i < CONTEXT_MAX / PAGE_TOKENS; i++)
        bench->pages[i] = i;
    bench->head = make_weights(bench, LAM_Q8_0, VOCABULARY, D);
    bench->norm_weight = make_floats(D);
    bench->x = make_floats((size_t)ROWS_MAX * D);
    bench->normed = make_floats((size_t)ROWS_MAX * D);
    bench->q = make_floats((size_t)ROWS_MAX * D);
    bench->k = make_floats((size_t)ROWS_MAX * KV_WIDTH);
    bench->v = make_floats((size_t)ROWS_MAX * KV_WIDTH);
    bench->attended = make_floats((size_t)ROWS_MAX * D);
    bench->gate = make_floats((size_t)ROWS_MAX * F);
    bench->up = make_floats((size_t)ROWS_MAX * F);
    bench->logits = make_floats(VOCABULARY);
    bench->rope = make_floats((size_t)ROWS_MAX * HEAD_DIM);
    return bench->head && bench->norm_weight && bench->x && bench->normed && bench->q && bench->k &&
           bench->v && bench->attended && bench->gate && bench->up && bench->logits && bench->rope;
}

/* Keeps the fastest time that this operation of this layer ever took, and starts the next one. */
static void lap(struct bench *bench, enum op op, uint64_t *start_ns)
{
    uint64_t *best_ns = &bench->best_ns[bench->layer][op];
    uint64_t now_ns = lam_now_ns();

    if (*best_ns == 0 || now_ns - *start_ns < *best_ns)
        *best_ns = now_ns - *start_ns;
    *start_ns = now_ns;
}

static struct lam_matmul_mat mat(const uint8_t *weight, uint32_t n_out, float *out)
{
    return (struct lam_matmul_mat){weight, LAM_Q4_1, n_out, out, n_out, false};
}

static void run_layer(struct bench *bench, struct layer *layer, const struct lam_seq_rows *seq)
{
    const struct lam_kernel_ops *ops = bench->ops;
    struct lam_kernels *kernels = bench->kernels;
    uint32_t t = seq->n_rows;
    uint64_t start_ns = lam_now_ns();
    struct lam_rms_norm_args norm = {
        bench->x, bench->norm_weight, bench->normed, t, D, 1e-5f, false};
    struct lam_matmul_args qkv = {bench->normed, t, D, false, 3,
        {mat(layer->q, D, bench->q), mat(layer->k, KV_WIDTH, bench->k),
            mat(layer->v, KV_WIDTH, bench->v)}};
    struct lam_matmul_args out = {bench->attended, t, D, false, 1, {mat(layer->out, D, bench->x)}};
    struct lam_matmul_args gate_up = {bench->normed, t, D, false, 2,
        {mat(layer->gate, F, bench->gate), mat(layer->up, F, bench->up)}};
    struct lam_matmul_args down = {bench->gate, t, F, false, 1, {mat(layer->down, D, bench->x)}};
    struct lam_rope_args rope = {
        bench->q, bench->rope, t, N_HEADS, HEAD_DIM, HEAD_DIM, LAM_ROPE_ADJACENT};
    struct lam_kv_write_args write = {bench->k, bench->v, layer->kv, seq, 1};
    struct lam_attention_args attention = {
        bench->q, bench->attended, N_HEADS, 0.125f, layer->kv, seq, 1, false};
    struct lam_swiglu_args swiglu = {bench->gate, bench->up, bench->gate, (uint64_t)t * F, 0};

    ops->rms_norm(kernels, &norm);
    lap(bench, OP_NORM_ATTENTION, &start_ns);
    ops->matmul(kernels, &qkv);
    lap(bench, OP_QKV, &start_ns);
    ops->rope(kernels, &rope);
    rope.x = bench->k;
    rope.n_heads = N_KV_HEADS;
    ops->rope(kernels, &rope);
    lap(bench, OP_ROPE, &start_ns);
    ops->kv_write(kernels, &write);
    lap(bench, OP_KV_WRITE, &start_ns);
    ops->attention(kernels, &attention);
    lap(bench, OP_ATTENTION, &start_ns);
    ops->matmul(kernels, &out);
    lap(bench, OP_OUT, &start_ns);
    ops->rms_norm(kernels, &norm);
    lap(bench, OP_NORM_FFN, &start_ns);
    ops->matmul(kernels, &gate_up);
    lap(bench, OP_GATE_UP, &start_ns);
    ops->swiglu(kernels, &swiglu);
    lap(bench, OP_SWIGLU, &start_ns);
    ops->matmul(kernels, &down);
    lap(bench, OP_DOWN, &start_ns);
}

static void run_pass(struct bench *bench, uint32_t n_rows, uint32_t pos_begin)
{
    struct lam_seq_rows seq = {0, n_rows, pos_begin, bench->pages};
    struct lam_matmul_args head = {bench->normed, 1, D, false, 1,
        {{bench->head, LAM_Q8_0, VOCABULARY, bench->logits, VOCABULARY, false}}};
    uint64_t start_ns;

    for (bench->layer = 0; bench->layer < N_LAYERS; bench->layer++)
        run_layer(bench, &bench->layers[bench->layer], &seq);
    bench->layer = 0;
    start_ns = lam_now_ns();
    bench->ops->matmul(bench->kernels, &head);
    lap(bench, OP_HEAD, &start_ns);
}

/*
 * Sums, over layers, the fastest time of each operation: what the machine does when left alone. The
 * best whole pass beside it shows how much it was.
 */
static void measure(struct bench *bench, uint32_t n_rows, uint32_t pos_begin, int n_passes)
{
    uint64_t total_ns = 0;
    uint64_t wall_ns = UINT64_MAX;
    uint64_t op_ns[OP_END] = {0};

    memset(bench->best_ns, 0, sizeof(bench->best_ns));
    for (int i = 0; i < n_passes; i++) {
        uint64_t start_ns = lam_now_ns();
        run_pass(bench, n_rows, pos_begin);
        if (lam_now_ns() - start_ns < wall_ns)
            wall_ns = lam_now_ns() - start_ns;
    }
    for (int op = 0; op < OP_END; op++) {
        for (int i = 0; i < N_LAYERS; i++)
            op_ns[op] += bench->best_ns[i][op];
        total_ns += op_ns[op];
    }
    printf("%u rows from position %u, %d passes\n", n_rows, pos_begin, n_passes);
    for (int op = 0; op < OP_END; op++)
        printf("  %-16s %9.3f ms  %5.1f %%\n", op_names[op], (double)op_ns[op] / 1e6,
            100.0 * (double)op_ns[op] / (double)total_ns);
    printf("  %-16s %9.3f ms  %.1f tokens/s  %.2f GB/s of weights\n", "sum", (double)total_ns / 1e6,
        n_rows * 1e9 / (double)total_ns, (double)bench->weight_bytes / (double)total_ns);
    printf("  %-16s %9.3f ms  %.1f tokens/s\n", "best whole pass", (double)wall_ns / 1e6,
        n_rows * 1e9 / (double)wall_ns);
}

static enum lam_status create(struct bench *bench, const char *name,
    const struct lam_kernel_config *config, struct lam_err *err)
{
    bench->ops = lam_kernels_cpu();
    if (strcmp(name, "avx2") == 0)
        return lam_cpu_create(config, LAM_CPU_AVX2, &bench->kernels, err);
    if (strcmp(name, "avx512") == 0)
        return lam_cpu_create(config, LAM_CPU_AVX512, &bench->kernels, err);
    bench->ops = lam_kernels_by_name(name);
    if (bench->ops == NULL)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "no kernels are called \"%s\"; use ref, cpu, avx2 or avx512", name);
    return bench->ops->create(config, &bench->kernels, err);
}

int main(int argc, char **argv)
{
    static struct bench bench;
    const char *name = argc > 1 ? argv[1] : "cpu";
    int64_t n_threads = 0;
    int64_t context = 128;
    struct lam_kernel_config config = {
        .max_rows = ROWS_MAX,
        .max_cols = F,
        .max_seqs = 1,
        .max_ctx = CONTEXT_MAX,
        .n_heads = N_HEADS,
        .head_dim = HEAD_DIM,
    };
    struct lam_err err = {0};
    bool is_ref = strcmp(name, "ref") == 0;

    if ((argc > 2 && !lam_int_parse(argv[2], 0, 1024, &n_threads)) ||
        (argc > 3 && !lam_int_parse(argv[3], 0, CONTEXT_MAX - 1, &context))) {
        (void)fprintf(stderr, "kernels_bench: [KERNELS] [THREADS 0..1024] [CONTEXT 0..%d]\n",
            CONTEXT_MAX - 1);
        return 2;
    }
    config.n_threads = (uint32_t)n_threads;
    if (create(&bench, name, &config, &err) != LAM_OK) {
        (void)fprintf(stderr, "kernels_bench: %s\n", err.text);
        return 1;
    }
    if (!make_all(&bench)) {
        (void)fprintf(stderr, "kernels_bench: no memory for the weights\n");
        return 1;
    }
    printf("%s\n", bench.ops->describe(bench.kernels));
    measure(&bench, 1, (uint32_t)context, is_ref ? 1 : 60);
    if (!is_ref)
        measure(&bench, ROWS_MAX, 0, 8);
    bench.ops->destroy(bench.kernels);
    return 0;
}
