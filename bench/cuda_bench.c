/*
 * cuda_bench: what the GPU backend reaches, on weights of an 8B Llama's shapes filled with random
 * bytes (a kernel's time does not depend on the numbers).
 *
 *     cuda_bench [FOLDER of liblaminar-cuda.so or "-" [LAYERS [FORMATS [POSITION]]]]
 *
 * prints the memory's own speed, the link's, and for each weight format the time of a token and of
 * a prompt by operation, in the file's order and in that of `arrange`; with FORMATS (BF16,Q4_K)
 * only tokens of those, at that position or at 1000. Each layer has its own weights, so that the
 * caches see what they would see. Times are the device's, between marks; of several repetitions the
 * median.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/dtype.h"
#include "common/flag.h"
#include "common/size.h"
#include "kernels/cuda/open.h"

enum {
    D = 4096,
    F = 14336,
    N_HEADS = 32,
    N_KV_HEADS = 8,
    HEAD_DIM = 128,
    KV_WIDTH = N_KV_HEADS * HEAD_DIM,
    VOCABULARY = 128256,
    ROWS_MAX = 2048,
    CONTEXT_MAX = 8192,
    SEQS_MAX = 64,
    PAGE_TOKENS = 64,
    REPEATS = 5,
    LAYERS_MAX = 32,
};

enum op {
    OP_NORM,
    OP_QKV,
    OP_ROPE,
    OP_KV_WRITE,
    OP_ATTENTION,
    OP_OUT,
    OP_NORM_FFN,
    OP_GATE_UP,
    OP_SWIGLU,
    OP_DOWN,
    OP_END,
};

static const char *const op_names[OP_END] = {"rms_norm", "matmul q,k,v", "rope", "kv_write",
    "attention", "matmul out", "rms_norm", "matmul gate,up", "swiglu", "matmul down"};

struct bench {
    const struct lam_kernel_ops *ops;
    const struct lam_device_ops *device;
    struct lam_kernels *kernels;
    uint8_t *arena;
    uint64_t arena_bytes;
    uint64_t used_bytes;
    uint8_t *weights; /* all layers, then the head */
    uint64_t weights_cap_bytes;
    float *norm_weight, *x, *normed, *q, *k, *v, *attended, *gate, *up, *logits, *table;
    int32_t *positions;
    uint32_t *pages;
    void *kv; /* one layer's keys, then its values */
    double read_bytes_per_ns;
    uint32_t n_layers;
    double queue_ns; /* of the host, for the last pass */
    bool failed;
    bool whole; /* operations follow each other as in a pass */
    /* the pass that is being measured */
    enum lam_dtype dtype;
    bool arranged; /* of random bytes, one order is as good as the other */
    uint32_t n_seqs;
    uint32_t rows_per_seq;
    uint32_t position;
};

static void say(const struct lam_err *err)
{
    (void)fprintf(stderr, "cuda_bench: %s\n", err->text);
}

static void wait_for(struct bench *bench, uint32_t mark)
{
    struct lam_err err = {0};

    if (bench->device->host_wait(bench->kernels, mark, &err) == LAM_OK || bench->failed)
        return;
    bench->failed = true; /* what is printed from here on means nothing */
    say(&err);
}

static void *take(struct bench *bench, uint64_t bytes)
{
    void *at = bench->arena + bench->used_bytes;

    bench->used_bytes += lam_align_up(bytes, 256);
    assert(bench->used_bytes <= bench->arena_bytes);
    return at;
}

static uint64_t matrix_bytes(enum lam_dtype dtype, uint64_t n, uint64_t n_cols)
{
    const struct lam_dtype_info *info = lam_dtype_info(dtype);

    return lam_align_up(n * (n_cols / info->block_elems) * info->block_bytes, 256);
}

static uint64_t layer_bytes(enum lam_dtype dtype)
{
    return matrix_bytes(dtype, D + 2 * KV_WIDTH, D) + matrix_bytes(dtype, D, D) +
           matrix_bytes(dtype, 2 * F, D) + matrix_bytes(dtype, D, F);
}

/* Random bytes over a range of the device, from a host block that repeats. */
static void fill(
    struct bench *bench, uint8_t *to, uint64_t bytes, uint8_t *block, uint64_t block_bytes)
{
    for (uint64_t at = 0; at < bytes; at += block_bytes)
        bench->device->copy_in(
            bench->kernels, to + at, block, bytes - at < block_bytes ? bytes - at : block_bytes);
    bench->device->mark_copy(bench->kernels, 0);
    wait_for(bench, 0);
}

static void fill_floats(struct bench *bench, float *to, uint64_t n)
{
    float block[4096];
    uint64_t state = 88172645463325252u;

    for (uint64_t at = 0; at < n; at += 4096) {
        for (uint32_t i = 0; i < 4096; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block[i] = (float)(int32_t)(state >> 32) * 0x1p-31f;
        }
        bench->device->upload(
            bench->kernels, to + at, block, (n - at < 4096 ? n - at : 4096) * sizeof(float));
    }
}

static struct lam_matmul_mat mat(
    const struct bench *bench, const uint8_t *weight, uint32_t n, float *out, uint32_t stride)
{
    return (struct lam_matmul_mat){weight, bench->dtype, n, out, stride, bench->arranged};
}

/* One operation of layer `layer`. */
static void run_op(struct bench *bench, enum op op, uint32_t layer)
{
    uint32_t t = bench->n_seqs * bench->rows_per_seq;
    const uint8_t *qkv = bench->weights + layer * layer_bytes(bench->dtype);
    const uint8_t *out = qkv + matrix_bytes(bench->dtype, D + 2 * KV_WIDTH, D);
    const uint8_t *gate_up = out + matrix_bytes(bench->dtype, D, D);
    const uint8_t *down = gate_up + matrix_bytes(bench->dtype, 2 * F, D);
    const uint8_t *k_weight = qkv + matrix_bytes(bench->dtype, D, D);
    struct lam_kv_layer kv = {bench->kv,
        (uint8_t *)bench->kv + (uint64_t)SEQS_MAX * CONTEXT_MAX * KV_WIDTH * 2, LAM_F16, N_KV_HEADS,
        HEAD_DIM, PAGE_TOKENS};
    struct lam_seq_rows seqs[SEQS_MAX];

    for (uint32_t s = 0; s < bench->n_seqs; s++)
        seqs[s] = (struct lam_seq_rows){s * bench->rows_per_seq, bench->rows_per_seq,
            bench->position, bench->pages + s * (CONTEXT_MAX / PAGE_TOKENS)};
    switch (op) {
    case OP_NORM:
    case OP_NORM_FFN:
        bench->ops->rms_norm(
            bench->kernels, &(struct lam_rms_norm_args){bench->x, bench->norm_weight, bench->normed,
                                t, D, 1e-5f, bench->whole});
        return;
    case OP_QKV:
        bench->ops->matmul(
            bench->kernels, &(struct lam_matmul_args){bench->normed, t, D, false, 3,
                                {mat(bench, qkv, D, bench->q, D),
                                    mat(bench, k_weight, KV_WIDTH, bench->k, KV_WIDTH),
                                    mat(bench, k_weight + matrix_bytes(bench->dtype, KV_WIDTH, D),
                                        KV_WIDTH, bench->v, KV_WIDTH)}});
        return;
    case OP_ROPE:
        bench->ops->rope(bench->kernels, &(struct lam_rope_args){bench->q, bench->table, t, N_HEADS,
                                             HEAD_DIM, HEAD_DIM, LAM_ROPE_ADJACENT});
        bench->ops->rope(bench->kernels, &(struct lam_rope_args){bench->k, bench->table, t,
                                             N_KV_HEADS, HEAD_DIM, HEAD_DIM, LAM_ROPE_ADJACENT});
        return;
    case OP_KV_WRITE:
        bench->ops->kv_write(bench->kernels,
            &(struct lam_kv_write_args){bench->k, bench->v, kv, seqs, bench->n_seqs});
        return;
    case OP_ATTENTION:
        bench->ops->attention(
            bench->kernels, &(struct lam_attention_args){bench->q, bench->attended, N_HEADS,
                                0.08838835f, kv, seqs, bench->n_seqs, bench->whole});
        return;
    case OP_OUT:
        bench->ops->matmul(bench->kernels, &(struct lam_matmul_args){bench->attended, t, D, true, 1,
                                               {mat(bench, out, D, bench->x, D)}});
        return;
    case OP_GATE_UP:
        bench->ops->matmul(bench->kernels,
            &(struct lam_matmul_args){bench->normed, t, D, false, 2,
                {mat(bench, gate_up, F, bench->gate, F),
                    mat(bench, gate_up + matrix_bytes(bench->dtype, F, D), F, bench->up, F)}});
        return;
    case OP_SWIGLU:
        bench->ops->swiglu(
            bench->kernels, &(struct lam_swiglu_args){bench->gate, bench->up, bench->gate,
                                (uint64_t)t * F, bench->whole ? (uint32_t)F : 0});
        return;
    case OP_DOWN:
        bench->ops->matmul(bench->kernels, &(struct lam_matmul_args){bench->gate, t, F, true, 1,
                                               {mat(bench, down, D, bench->x, D)}});
        return;
    case OP_END:
        return;
    }
}

static void run_head(struct bench *bench)
{
    bench->ops->matmul(bench->kernels,
        &(struct lam_matmul_args){bench->normed, bench->n_seqs, D, false, 1,
            {mat(bench, bench->weights + bench->n_layers * layer_bytes(bench->dtype), VOCABULARY,
                bench->logits, VOCABULARY)}});
}

static void run_pass(struct bench *bench)
{
    bench->whole = true;
    for (uint32_t layer = 0; layer < bench->n_layers; layer++) {
        for (enum op op = 0; op < OP_END; op++)
            run_op(bench, op, layer);
    }
    bench->whole = false;
    run_head(bench);
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* Median nanoseconds of what: OP_END stands for a whole pass, else one operation per layer. */
static double time_of(struct bench *bench, enum op op)
{
    double ns[REPEATS];

    for (int i = -1; i < REPEATS; i++) { /* the first warms up */
        bench->device->mark_compute(bench->kernels, 1);
        uint64_t begin = lam_now_ns();
        if (op == OP_END)
            run_pass(bench);
        for (uint32_t layer = 0; op < OP_END && layer < bench->n_layers; layer++)
            run_op(bench, op, layer);
        bench->device->mark_compute(bench->kernels, 2);
        bench->queue_ns = (double)(lam_now_ns() - begin);
        wait_for(bench, 2);
        if (i >= 0)
            ns[i] = (double)bench->device->elapsed_ns(bench->kernels, 1, 2);
    }
    qsort(ns, REPEATS, sizeof(ns[0]), compare);
    return op == OP_END ? ns[REPEATS / 2] : ns[REPEATS / 2] / bench->n_layers;
}

/* Weights of an operation. */
static uint64_t op_elems(enum op op)
{
    switch (op) {
    case OP_QKV:
        return (uint64_t)(D + 2 * KV_WIDTH) * D;
    case OP_OUT:
        return (uint64_t)D * D;
    case OP_GATE_UP:
        return (uint64_t)2 * F * D;
    case OP_DOWN:
        return (uint64_t)D * F;
    default:
        return 0;
    }
}

static double weight_bytes(enum lam_dtype dtype, uint64_t elems)
{
    const struct lam_dtype_info *info = lam_dtype_info(dtype);

    return (double)elems / info->block_elems * info->block_bytes;
}

static const char *order_name(const struct bench *bench)
{
    return bench->arranged ? "arranged" : "as read ";
}

/* GB/s of every product, and of the whole pass, for few rows at a position. */
static void bench_decode(struct bench *bench, uint32_t n_seqs, uint32_t position)
{
    static const enum op products[] = {OP_QKV, OP_OUT, OP_GATE_UP, OP_DOWN};
    double bytes = 0;

    bench->n_seqs = n_seqs;
    bench->rows_per_seq = 1;
    bench->position = position;
    (void)printf("%-5s %s %2u rows, position %4u: GB/s", lam_dtype_info(bench->dtype)->name,
        order_name(bench), n_seqs, position);
    for (size_t i = 0; i < 4; i++) {
        double own = weight_bytes(bench->dtype, op_elems(products[i]));
        double ns = time_of(bench, products[i]);
        bytes += own * bench->n_layers;
        (void)printf("  %s %5.0f", op_names[products[i]] + 7, own / ns);
    }
    bytes += weight_bytes(bench->dtype, (uint64_t)VOCABULARY * D);
    double ns = time_of(bench, OP_END);
    (void)printf("  pass %7.3f ms = %.3f of the memory's %.0f, queued in %.2f\n", ns / 1e6,
        bytes / ns / bench->read_bytes_per_ns, bench->read_bytes_per_ns, bench->queue_ns / 1e6);
    (void)fflush(stdout);
}

/* Tokens of every format, or of those named in `formats`. */
static void bench_tokens(struct bench *bench, const char *formats, uint32_t position)
{
    static const enum lam_dtype dtypes[] = {
        LAM_BF16, LAM_Q8_0, LAM_Q6_K, LAM_Q5_K, LAM_Q5_1, LAM_Q5_0, LAM_Q4_K, LAM_Q4_1, LAM_Q4_0};
    static const uint32_t row_counts[] = {1, 2, 4, 8, 16};

    for (size_t d = 0; d < sizeof(dtypes) / sizeof(dtypes[0]); d++) {
        bench->dtype = dtypes[d];
        if (formats != NULL && strstr(formats, lam_dtype_info(dtypes[d])->name) == NULL)
            continue;
        for (size_t r = 0; r < 2 * sizeof(row_counts) / sizeof(row_counts[0]); r++) {
            bench->arranged = r % 2 == 1;
            bench_decode(bench, row_counts[r / 2], position);
        }
    }
}

static void bench_prompt(struct bench *bench, uint32_t n_rows)
{
    double flops = 0;

    bench->n_seqs = 1;
    bench->rows_per_seq = n_rows;
    bench->position = 0;
    (void)printf("%-5s %s prompt of %u: TFLOP/s", lam_dtype_info(bench->dtype)->name,
        order_name(bench), n_rows);
    for (enum op op = 0; op < OP_END; op++) {
        double own = 2.0 * (double)op_elems(op) * n_rows;
        if (own <= 0)
            continue;
        flops += own * bench->n_layers;
        (void)printf("  %s %4.0f", op_names[op] + 7, own / time_of(bench, op) / 1e3);
    }
    double ns = time_of(bench, OP_END);
    (void)printf("  pass %7.2f ms = %4.0f\n", ns / 1e6, flops / ns / 1e3);
    (void)fflush(stdout);
}

/* What arranging costs once, by the matrices of gate and up. */
static void bench_arrange(struct bench *bench)
{
    struct lam_arrange_args args = {bench->weights, bench->dtype, 2 * F, D};
    double bytes = (double)matrix_bytes(bench->dtype, 2 * F, D);

    bench->device->mark_compute(bench->kernels, 1);
    bool taken = bench->ops->arrange(bench->kernels, &args);
    bench->device->mark_compute(bench->kernels, 2);
    wait_for(bench, 2);
    (void)printf("%-5s arranging%s: %.0f GB/s\n", lam_dtype_info(bench->dtype)->name,
        taken ? "" : " (refused)", bytes / (double)bench->device->elapsed_ns(bench->kernels, 1, 2));
}

/* The operations without weights. */
static void bench_others(struct bench *bench, uint32_t n_seqs, uint32_t rows, uint32_t position)
{
    bench->n_seqs = n_seqs;
    bench->rows_per_seq = rows;
    bench->position = position;
    (void)printf("%2u x %4u rows at %4u, us:", n_seqs, rows, position);
    for (enum op op = 0; op < OP_END; op++) {
        if (op_elems(op) == 0 && op != OP_NORM_FFN)
            (void)printf("  %s %.1f", op_names[op], time_of(bench, op) / 1e3);
    }
    (void)printf("\n");
    (void)fflush(stdout);
}

static double copy_speed(
    struct bench *bench, const uint8_t *from, uint64_t total_bytes, uint64_t piece_bytes)
{
    bench->device->mark_copy(bench->kernels, 1);
    for (uint64_t at = 0; at < total_bytes; at += piece_bytes)
        bench->device->copy_in(bench->kernels, bench->weights + at, from + at, piece_bytes);
    bench->device->mark_copy(bench->kernels, 2);
    wait_for(bench, 2);
    return (double)total_bytes / (double)bench->device->elapsed_ns(bench->kernels, 1, 2);
}

/* The link, from a pool as the loader makes it; fills the weights with random bytes on the way. */
static bool bench_link(struct bench *bench)
{
    static const uint64_t pieces[] = {256 * LAM_MIB, 16 * LAM_MIB, LAM_MIB, LAM_MIB / 16};
    struct lam_err err = {0};
    int fd = memfd_create("pool", MFD_CLOEXEC);
    bool sized = fd >= 0 && ftruncate(fd, (off_t)LAM_GIB) == 0;
    uint8_t *writer = mmap(NULL, LAM_GIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *pool = mmap(NULL, LAM_GIB, PROT_READ, MAP_SHARED, fd, 0);
    uint64_t state = 88172645463325252u;

    if (!sized || writer == MAP_FAILED || pool == MAP_FAILED) {
        (void)fprintf(stderr, "cuda_bench: no memfd of 1 GiB\n");
        return false;
    }
    for (uint64_t at = 0; at < LAM_GIB; at += 8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memcpy(writer + at, &state, 8);
    }
    (void)copy_speed(bench, pool, 256 * LAM_MIB, 256 * LAM_MIB);
    (void)printf("link, not pinned: %.1f GB/s\n", copy_speed(bench, pool, LAM_GIB, 256 * LAM_MIB));
    uint64_t begin = lam_now_ns();
    if (bench->device->pin(bench->kernels, pool, LAM_GIB, &err) != LAM_OK) {
        say(&err);
        return false;
    }
    (void)printf("pinning 1 GiB read-only: %.0f ms\n", (double)(lam_now_ns() - begin) / 1e6);
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        (void)copy_speed(bench, pool, LAM_GIB, pieces[i]);
        (void)printf("link, pieces of %llu KiB: %.1f GB/s\n",
            (unsigned long long)(pieces[i] / LAM_KIB), copy_speed(bench, pool, LAM_GIB, pieces[i]));
    }
    fill(bench, bench->weights, bench->weights_cap_bytes, pool, LAM_GIB);
    bench->device->unpin(bench->kernels, pool);
    (void)munmap(pool, LAM_GIB);
    (void)munmap(writer, LAM_GIB);
    (void)close(fd);
    return true;
}

static void bench_memory(struct bench *bench)
{
    uint64_t bytes =
        bench->weights_cap_bytes < 8 * LAM_GIB ? bench->weights_cap_bytes : 8 * LAM_GIB;

    for (int i = 0; i < REPEATS; i++) {
        bench->device->mark_compute(bench->kernels, 1);
        bench->device->probe(bench->kernels, bench->weights, bytes);
        bench->device->mark_compute(bench->kernels, 2);
        wait_for(bench, 2);
        double speed = (double)bytes / (double)bench->device->elapsed_ns(bench->kernels, 1, 2);
        if (speed > bench->read_bytes_per_ns)
            bench->read_bytes_per_ns = speed;
    }
    (void)printf("memory, reading: %.0f GB/s\n", bench->read_bytes_per_ns);
}

static void make_buffers(struct bench *bench)
{
    uint32_t pages_per_seq = CONTEXT_MAX / PAGE_TOKENS;
    uint32_t pages[CONTEXT_MAX / PAGE_TOKENS];

    bench->x = take(bench, (uint64_t)ROWS_MAX * D * 4);
    bench->normed = take(bench, (uint64_t)ROWS_MAX * D * 4);
    bench->q = take(bench, (uint64_t)ROWS_MAX * D * 4);
    bench->k = take(bench, (uint64_t)ROWS_MAX * KV_WIDTH * 4);
    bench->v = take(bench, (uint64_t)ROWS_MAX * KV_WIDTH * 4);
    bench->attended = take(bench, (uint64_t)ROWS_MAX * D * 4);
    bench->gate = take(bench, (uint64_t)ROWS_MAX * F * 4);
    bench->up = take(bench, (uint64_t)ROWS_MAX * F * 4);
    bench->logits = take(bench, (uint64_t)SEQS_MAX * VOCABULARY * 4);
    bench->table = take(bench, (uint64_t)ROWS_MAX * HEAD_DIM * 4);
    bench->norm_weight = take(bench, (uint64_t)D * 4);
    bench->pages = take(bench, (uint64_t)SEQS_MAX * pages_per_seq * 4);
    bench->kv = take(bench, (uint64_t)SEQS_MAX * CONTEXT_MAX * KV_WIDTH * 2 * 2);
    for (uint32_t s = 0; s < SEQS_MAX; s++) {
        for (uint32_t p = 0; p < pages_per_seq; p++)
            pages[p] = p * SEQS_MAX + s;
        bench->device->upload(
            bench->kernels, bench->pages + s * pages_per_seq, pages, sizeof(pages));
    }
    fill_floats(bench, bench->x, (uint64_t)ROWS_MAX * D);
    fill_floats(bench, bench->normed, (uint64_t)ROWS_MAX * D);
    fill_floats(bench, bench->norm_weight, D);
    fill_floats(bench, bench->table, (uint64_t)ROWS_MAX * HEAD_DIM);
}

static bool start(struct bench *bench, const char *folder)
{
    struct lam_kernel_config config = {.max_rows = ROWS_MAX,
        .max_cols = F,
        .max_seqs = SEQS_MAX,
        .max_ctx = CONTEXT_MAX,
        .n_heads = N_HEADS,
        .head_dim = HEAD_DIM};
    const struct lam_cuda_backend *backend;
    struct lam_device_facts facts;
    struct lam_err err = {0};
    void *arena;
    char own[24];

    if (lam_cuda_open(folder, &backend, &err) != LAM_OK ||
        backend->ops->create(&config, &bench->kernels, &err) != LAM_OK)
        goto fail;
    bench->ops = backend->ops;
    bench->device = backend->device;
    (void)printf("%s\n", bench->ops->describe(bench->kernels));
    if (bench->device->facts(bench->kernels, &facts, &err) != LAM_OK)
        goto fail;
    (void)printf("own memory: %s (%s)\n", lam_size_format(facts.own_bytes, own, sizeof(own)),
        facts.own_is_exact ? "this process" : "the whole device");
    uint64_t workspace_bytes = lam_device_workspace_bytes(&config);
    bench->weights_cap_bytes =
        bench->n_layers * layer_bytes(LAM_BF16) + matrix_bytes(LAM_BF16, VOCABULARY, D);
    bench->arena_bytes = bench->weights_cap_bytes + workspace_bytes + 4 * LAM_GIB;
    if (bench->device->arena(bench->kernels, bench->arena_bytes, &arena, &err) != LAM_OK)
        goto fail;
    bench->arena = arena;
    bench->weights = take(bench, bench->weights_cap_bytes);
    bench->device->workspace(bench->kernels, take(bench, workspace_bytes));
    make_buffers(bench);
    return true;

fail:
    say(&err);
    return false;
}

int main(int argc, char **argv)
{
    struct bench bench = {.n_layers = LAYERS_MAX};
    int64_t n_layers, position = 1000;

    if (argc > 2 && lam_int_parse(argv[2], 1, LAYERS_MAX, &n_layers))
        bench.n_layers = (uint32_t)n_layers;
    if (!start(&bench, argc > 1 && strcmp(argv[1], "-") != 0 ? argv[1] : NULL) ||
        !bench_link(&bench))
        return 1;
    bench_memory(&bench);
    if (argc > 3) {
        if (argc > 4 && !lam_int_parse(argv[4], 0, CONTEXT_MAX - 1, &position)) {
            (void)fprintf(stderr, "cuda_bench: no position: %s\n", argv[4]);
            return 1;
        }
        bench_tokens(&bench, argv[3], (uint32_t)position);
        bench.ops->destroy(bench.kernels);
        return bench.failed;
    }
    bench.dtype = LAM_Q8_0;
    bench_others(&bench, 1, 1, 100);
    bench_others(&bench, 1, 1, 1000);
    bench_others(&bench, 1, 1, 8000);
    bench_others(&bench, 16, 1, 1000);
    bench_others(&bench, 64, 1, 1000);
    bench_others(&bench, 1, 512, 0);
    bench_others(&bench, 1, 2048, 0);
    bench_others(&bench, 1, 2048, 6000);
    bench_tokens(&bench, NULL, (uint32_t)position);
    static const enum lam_dtype prompt_dtypes[] = {LAM_BF16, LAM_Q8_0, LAM_Q4_K};
    for (size_t d = 0; d < 3; d++) {
        bench.dtype = prompt_dtypes[d];
        bench_arrange(&bench);
        for (uint32_t order = 0; order < 2; order++) {
            bench.arranged = order == 1;
            bench_prompt(&bench, 64);
            bench_prompt(&bench, 512);
            bench_prompt(&bench, 2048);
        }
    }
    bench.ops->destroy(bench.kernels);
    return bench.failed;
}
