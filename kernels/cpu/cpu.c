/*
 * cpu: the fast CPU backend. Chooses the instruction set, owns threads and scratch, and cuts each
 * operation into chunks of units; the arithmetic is in isa_*.c. Small calls stay on the calling
 * thread: handing work over costs about as much as one row of a small model.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <cpuid.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/processors.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"
#include "kernels/ref/argmax.h"
#include "kernels/ref/dequant.h"
#include "kernels/ref/rope_table.h"

enum {
    CHUNKS_PER_THREAD =
        8, /* enough that a thread which lost its core for a while is not waited for */
    SERIAL_ELEMS = 8192, /* elementwise calls up to this size are not worth a second thread */
};

struct lam_kernels {
    struct lam_kernel_config config;
    const struct lam_cpu_isa *isa;
    struct lam_pool *pool;
    uint32_t n_threads;
    uint32_t n_blocks_max;   /* KV blocks of the longest sequence */
    struct lam_q8_block *q8; /* [max_rows][max_cols / 32] */
    /* Attention sums: per thread [LAM_ATTENTION_ROWS * n_heads][d]; per KV block, of one row. */
    float *thread_values;
    struct lam_softmax *thread_states;
    struct lam_softmax *thread_totals;
    float *block_values;
    struct lam_softmax *block_states;
    char description[64];
};

/* ---- chunks ---------------------------------------------------------------------------------- */

typedef void (*range_fn)(
    struct lam_kernels *kernels, const void *args, uint64_t begin, uint64_t end);

struct range_job {
    struct lam_kernels *kernels;
    range_fn fn;
    const void *args;
    uint64_t n_units;
    uint32_t n_chunks;
};

static void run_range_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct range_job *job = arg;

    (void)worker;
    job->fn(job->kernels, job->args, job->n_units * chunk / job->n_chunks,
        job->n_units * (chunk + 1) / job->n_chunks);
}

/* fn over [0, n_units) in chunks; on this thread alone when the call has few elements. */
static void run_range(
    struct lam_kernels *kernels, range_fn fn, const void *args, uint64_t n_units, uint64_t n_elems)
{
    uint64_t n_chunks = n_elems <= SERIAL_ELEMS ? 1 : kernels->n_threads * CHUNKS_PER_THREAD;
    struct range_job job = {.kernels = kernels, .fn = fn, .args = args, .n_units = n_units};

    job.n_chunks = (uint32_t)(n_chunks < n_units ? n_chunks : n_units);
    lam_pool_run(kernels->pool, run_range_chunk, &job, job.n_chunks);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void cpu_destroy(struct lam_kernels *kernels)
{
    if (kernels == NULL)
        return;
    lam_pool_destroy(kernels->pool);
    lam_free(kernels->q8);
    lam_free(kernels->thread_values);
    lam_free(kernels->thread_states);
    lam_free(kernels->thread_totals);
    lam_free(kernels->block_values);
    lam_free(kernels->block_states);
    lam_free(kernels);
}

/* clang 14 does not know the name "f16c". */
static bool has_f16c(void)
{
    unsigned a, b, c, d;

    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

static const struct lam_cpu_isa *choose_isa(enum lam_cpu_level level)
{
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");

    if (has_avx512 && level != LAM_CPU_AVX2)
        return lam_cpu_isa_avx512();
    return has_avx2 && level != LAM_CPU_AVX512 ? lam_cpu_isa_avx2() : NULL;
}

static bool take_scratch(struct lam_kernels *kernels)
{
    const struct lam_kernel_config *config = &kernels->config;
    size_t items = (size_t)LAM_ATTENTION_ROWS * config->n_heads;
    size_t n_q8 = (size_t)config->max_rows * ((config->max_cols + LAM_Q8_ELEMS - 1) / LAM_Q8_ELEMS);
    size_t n_parts = (size_t)kernels->n_blocks_max * config->n_heads;
    size_t n_threads = kernels->n_threads;

    kernels->q8 = lam_calloc(n_q8, sizeof(*kernels->q8));
    kernels->thread_values =
        lam_calloc(n_threads * items * config->head_dim, sizeof(*kernels->thread_values));
    kernels->thread_states = lam_calloc(n_threads * items, sizeof(*kernels->thread_states));
    kernels->thread_totals = lam_calloc(n_threads * items, sizeof(*kernels->thread_totals));
    kernels->block_values = lam_calloc(n_parts * config->head_dim, sizeof(*kernels->block_values));
    kernels->block_states = lam_calloc(n_parts, sizeof(*kernels->block_states));
    return kernels->q8 != NULL && kernels->thread_values != NULL &&
           kernels->thread_states != NULL && kernels->thread_totals != NULL &&
           kernels->block_values != NULL && kernels->block_states != NULL;
}

enum lam_status lam_cpu_create(const struct lam_kernel_config *config, enum lam_cpu_level level,
    struct lam_kernels **ret_kernels, struct lam_err *err)
{
    const struct lam_cpu_isa *isa = choose_isa(level);
    struct lam_kernels *kernels;
    enum lam_status status;

    assert(config->head_dim <= LAM_HEAD_DIM_MAX);
    if (isa == NULL)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "this CPU lacks AVX2, FMA or F16C (or AVX-512 VNNI, if that was asked for); "
            "use --kernels ref");
    kernels = lam_calloc(1, sizeof(*kernels));
    if (kernels == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the CPU kernels");
    kernels->config = *config;
    kernels->isa = isa;
    kernels->n_threads = config->n_threads > 0 ? config->n_threads : lam_processors();
    kernels->n_blocks_max = (config->max_ctx + LAM_KV_BLOCK - 1) / LAM_KV_BLOCK;
    (void)snprintf(kernels->description, sizeof(kernels->description), "%s, %u thread%s", isa->name,
        kernels->n_threads, kernels->n_threads == 1 ? "" : "s");
    if (!take_scratch(kernels)) {
        cpu_destroy(kernels);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "no memory for the scratch of the CPU kernels (%u rows of %u, context %u); lower --ctx",
            config->max_rows, config->max_cols, config->max_ctx);
    }
    status = lam_pool_create(kernels->n_threads, &kernels->pool, err);
    if (status != LAM_OK) {
        cpu_destroy(kernels);
        return status;
    }
    *ret_kernels = kernels;
    return LAM_OK;
}

static enum lam_status cpu_create(
    const struct lam_kernel_config *config, struct lam_kernels **ret_kernels, struct lam_err *err)
{
    return lam_cpu_create(config, LAM_CPU_BEST, ret_kernels, err);
}

static const char *cpu_describe(const struct lam_kernels *kernels)
{
    return kernels->description;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void dequant_range(
    struct lam_kernels *kernels, const void *args, uint64_t begin, uint64_t end)
{
    const struct lam_dequant_args *dequant = args;

    (void)kernels;
    for (uint64_t t = begin; t < end; t++)
        lam_dequant_row(
            dequant->dtype, dequant->rows[t], dequant->n_cols, dequant->out + t * dequant->n_cols);
}

static void cpu_dequant(struct lam_kernels *kernels, const struct lam_dequant_args *args)
{
    assert(args->n_cols <= kernels->config.max_cols);
    run_range(kernels, dequant_range, args, args->n_rows, (uint64_t)args->n_rows * args->n_cols);
}

static void rms_norm_range(
    struct lam_kernels *kernels, const void *args, uint64_t begin, uint64_t end)
{
    kernels->isa->rms_norm(args, (uint32_t)begin, (uint32_t)end);
}

static void cpu_rms_norm(struct lam_kernels *kernels, const struct lam_rms_norm_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows);
    run_range(kernels, rms_norm_range, args, args->n_rows, (uint64_t)args->n_rows * args->n_cols);
}

static void rope_table_range(
    struct lam_kernels *kernels, const void *args, uint64_t begin, uint64_t end)
{
    (void)kernels;
    lam_rope_table_rows(args, (uint32_t)begin, (uint32_t)end);
}

static void cpu_rope_table(struct lam_kernels *kernels, const struct lam_rope_table_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows && args->rope_dim % 2 == 0);
    /* A cosine and a sine cost some 16 elements of other work each. */
    run_range(kernels, rope_table_range, args, args->n_rows,
        (uint64_t)args->n_rows * args->rope_dim * 16);
}

static void rope_range(struct lam_kernels *kernels, const void *args, uint64_t begin, uint64_t end)
{
    kernels->isa->rope(args, (uint32_t)begin, (uint32_t)end);
}

static void cpu_rope(struct lam_kernels *kernels, const struct lam_rope_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows && args->rope_dim <= args->head_dim);
    run_range(kernels, rope_range, args, args->n_rows,
        (uint64_t)args->n_rows * args->n_heads * args->head_dim);
}

static void kv_write_range(
    struct lam_kernels *kernels, const void *args, uint64_t begin, uint64_t end)
{
    const struct lam_kv_write_args *write = args;
    uint64_t first = 0; /* the sequence's first row, counted over all sequences */

    for (uint32_t s = 0; s < write->n_seqs; s++) {
        const struct lam_seq_rows *seq = &write->seqs[s];
        uint64_t low = begin > first ? begin - first : 0;
        uint64_t high = end > first ? end - first : 0;
        if (high > seq->n_rows)
            high = seq->n_rows;
        if (low < high)
            kernels->isa->kv_write(write, seq, (uint32_t)low, (uint32_t)high);
        first += seq->n_rows;
    }
}

static void cpu_kv_write(struct lam_kernels *kernels, const struct lam_kv_write_args *args)
{
    const struct lam_kv_layer *kv = &args->kv;
    uint64_t n_rows = 0;

    assert(args->n_seqs <= kernels->config.max_seqs);
    for (uint32_t s = 0; s < args->n_seqs; s++)
        n_rows += args->seqs[s].n_rows;
    run_range(kernels, kv_write_range, args, n_rows, n_rows * kv->n_kv_heads * kv->head_dim * 2);
}

static void swiglu_range(
    struct lam_kernels *kernels, const void *args, uint64_t begin, uint64_t end)
{
    kernels->isa->swiglu(args, begin, end);
}

static void cpu_swiglu(struct lam_kernels *kernels, const struct lam_swiglu_args *args)
{
    run_range(kernels, swiglu_range, args, args->n, args->n);
}

static void argmax_range(
    struct lam_kernels *kernels, const void *args, uint64_t begin, uint64_t end)
{
    (void)kernels;
    lam_argmax_rows(args, (uint32_t)begin, (uint32_t)end);
}

static void cpu_argmax(struct lam_kernels *kernels, const struct lam_argmax_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows);
    run_range(kernels, argmax_range, args, args->n_rows, (uint64_t)args->n_rows * args->n_cols);
}

/* ---- matmul ---------------------------------------------------------------------------------- */

struct quantise_args {
    const float *x;
};

static void quantise_range(
    struct lam_kernels *kernels, const void *args, uint64_t begin, uint64_t end)
{
    const struct quantise_args *quantise = args;

    kernels->isa->quantise(
        quantise->x + begin * LAM_Q8_ELEMS, (size_t)(end - begin), kernels->q8 + begin);
}

static void matmul_range(
    struct lam_kernels *kernels, const void *args, uint64_t begin, uint64_t end)
{
    kernels->isa->matmul(args, (uint32_t)begin, (uint32_t)end);
}

static void cpu_matmul(struct lam_kernels *kernels, const struct lam_matmul_args *args)
{
    struct lam_matmul_job job = {.args = args, .q8 = kernels->q8};
    bool has_quantised = false;
    uint64_t n_elems = (uint64_t)args->n_rows * args->n_cols;

    assert(args->n_rows <= kernels->config.max_rows && args->n_cols <= kernels->config.max_cols);
    assert(args->n_mats >= 1 && args->n_mats <= 3);
    if (args->n_rows == 0)
        return;
    for (uint32_t i = 0; i < args->n_mats; i++) {
        uint32_t unit = kernels->isa->matmul_unit;
        if (lam_dtype_info(args->mats[i].dtype)->block_elems > 1)
            has_quantised = true;
        job.unit_begin[i + 1] = job.unit_begin[i] + (args->mats[i].n_out + unit - 1) / unit;
    }
    if (has_quantised) {
        struct quantise_args quantise = {.x = args->x};
        assert(args->n_cols % LAM_Q8_ELEMS == 0);
        run_range(kernels, quantise_range, &quantise, n_elems / LAM_Q8_ELEMS, n_elems);
    }
    run_range(kernels, matmul_range, &job, job.unit_begin[args->n_mats],
        n_elems * job.unit_begin[args->n_mats]);
}

/* ---- attention ------------------------------------------------------------------------------- */

static uint32_t group_of(const struct lam_attention_args *args)
{
    return args->n_heads / args->kv.n_kv_heads;
}

/* All KV blocks of a part, merged into args->out as they come. */
static void attend_part(
    struct lam_kernels *kernels, const struct lam_attention_part *part, uint32_t worker)
{
    const struct lam_attention_args *args = part->args;
    const struct lam_kernel_config *config = &kernels->config;
    uint32_t d = args->kv.head_dim;
    uint32_t group = group_of(args);
    uint32_t n_items = (part->row_end - part->row_begin) * group;
    size_t scratch = (size_t)worker * LAM_ATTENTION_ROWS * config->n_heads;
    float *values = kernels->thread_values + scratch * config->head_dim;
    struct lam_softmax *states = kernels->thread_states + scratch;
    struct lam_softmax *totals = kernels->thread_totals + scratch;
    uint32_t first_position = part->seq->pos_begin + part->row_begin;
    uint32_t last_position = part->seq->pos_begin + part->row_end - 1;
    size_t first_row = (size_t)part->seq->row_begin + part->row_begin;
    float *out = args->out + (first_row * args->n_heads + (size_t)part->kv_head * group) * d;

    for (uint32_t block = 0; block * LAM_KV_BLOCK <= last_position; block++) {
        kernels->isa->attend_block(part, block, values, states);
        for (uint32_t i = 0; i < n_items; i++) {
            float *total = out + ((size_t)(i / group) * args->n_heads + i % group) * d;
            if (block == 0) {
                totals[i] = (struct lam_softmax){.max = -INFINITY, .sum = 0};
                memset(total, 0, d * sizeof(*total));
            }
            if (block * LAM_KV_BLOCK <= first_position + i / group)
                kernels->isa->attend_merge(
                    total, &totals[i], values + (size_t)i * d, &states[i], d);
        }
    }
    for (uint32_t i = 0; i < n_items; i++)
        kernels->isa->attend_finish(
            out + ((size_t)(i / group) * args->n_heads + i % group) * d, &totals[i], d);
}

struct attention_job {
    struct lam_kernels *kernels;
    const struct lam_attention_args *args;
};

/* Chunks of many rows: (sequence, rows, KV head). */
static void attention_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct attention_job *job = arg;
    const struct lam_attention_args *args = job->args;
    struct lam_attention_part part = {.args = args, .seq = args->seqs};

    part.kv_head = chunk % args->kv.n_kv_heads;
    chunk /= args->kv.n_kv_heads;
    for (;; part.seq++) {
        uint32_t n_parts = (part.seq->n_rows + LAM_ATTENTION_ROWS - 1) / LAM_ATTENTION_ROWS;
        if (chunk < n_parts) {
            /* The last rows first: they see the most positions. */
            part.row_begin = (n_parts - 1 - chunk) * LAM_ATTENTION_ROWS;
            break;
        }
        chunk -= n_parts;
    }
    part.row_end = part.row_begin + LAM_ATTENTION_ROWS;
    if (part.row_end > part.seq->n_rows)
        part.row_end = part.seq->n_rows;
    attend_part(job->kernels, &part, worker);
}

/* Chunks of a single row: (KV block, KV head). */
static void attention_block_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct attention_job *job = arg;
    const struct lam_attention_args *args = job->args;
    uint32_t block = chunk / args->kv.n_kv_heads;
    struct lam_attention_part part = {.args = args, .seq = args->seqs, .row_end = 1};

    (void)worker;
    part.kv_head = chunk % args->kv.n_kv_heads;
    size_t item = (size_t)block * args->n_heads + (size_t)part.kv_head * group_of(args);
    job->kernels->isa->attend_block(&part, block,
        job->kernels->block_values + item * args->kv.head_dim, job->kernels->block_states + item);
}

static void attend_single_row(
    struct lam_kernels *kernels, const struct lam_attention_args *args, uint32_t position)
{
    struct attention_job job = {.kernels = kernels, .args = args};
    uint32_t n_blocks = position / LAM_KV_BLOCK + 1;
    uint32_t d = args->kv.head_dim;
    float *out = args->out + (size_t)args->seqs->row_begin * args->n_heads * d;

    lam_pool_run(kernels->pool, attention_block_chunk, &job, n_blocks * args->kv.n_kv_heads);
    for (uint32_t h = 0; h < args->n_heads; h++) {
        struct lam_softmax total = {.max = -INFINITY, .sum = 0};
        float *values = out + (size_t)h * d;
        memset(values, 0, d * sizeof(*values));
        for (uint32_t block = 0; block < n_blocks; block++) {
            size_t item = (size_t)block * args->n_heads + h;
            kernels->isa->attend_merge(
                values, &total, kernels->block_values + item * d, &kernels->block_states[item], d);
        }
        kernels->isa->attend_finish(values, &total, d);
    }
}

static void cpu_attention(struct lam_kernels *kernels, const struct lam_attention_args *args)
{
    struct attention_job job = {.kernels = kernels, .args = args};
    const struct lam_kv_layer *kv = &args->kv;
    uint32_t n_rows = 0;
    uint32_t n_parts = 0;

    assert(args->n_seqs <= kernels->config.max_seqs);
    assert(args->n_heads <= kernels->config.n_heads && args->n_heads % kv->n_kv_heads == 0);
    assert(kv->head_dim <= kernels->config.head_dim);
    for (uint32_t s = 0; s < args->n_seqs; s++) {
        assert(args->seqs[s].pos_begin + args->seqs[s].n_rows <= kernels->config.max_ctx);
        n_rows += args->seqs[s].n_rows;
        n_parts += (args->seqs[s].n_rows + LAM_ATTENTION_ROWS - 1) / LAM_ATTENTION_ROWS;
    }
    if (n_rows == 1 && args->n_seqs == 1)
        attend_single_row(kernels, args, args->seqs->pos_begin);
    else
        lam_pool_run(kernels->pool, attention_chunk, &job, n_parts * kv->n_kv_heads);
}

const struct lam_kernel_ops *lam_kernels_cpu(void)
{
    static const struct lam_kernel_ops ops = {
        .name = "cpu",
        .create = cpu_create,
        .destroy = cpu_destroy,
        .describe = cpu_describe,
        .dequant = cpu_dequant,
        .rms_norm = cpu_rms_norm,
        .matmul = cpu_matmul,
        .rope_table = cpu_rope_table,
        .rope = cpu_rope,
        .kv_write = cpu_kv_write,
        .attention = cpu_attention,
        .swiglu = cpu_swiglu,
        .argmax = cpu_argmax,
    };

    return &ops;
}
