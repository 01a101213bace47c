/*
 * device_measure: see device_measure.h. The link with copies as passes make them, the memory with a
 * kernel that reads all of it, each format's products in the shapes of a layer, and what a layer
 * takes beyond its products. All times are the device's own, between two marks.
 */
#include "cli/device_measure.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/dtype.h"
#include "common/reals.h"
#include "common/size.h"

#define MEASURE_BYTES LAM_DEVICE_LINK_BYTES
#define LINK_ROUNDS_MAX 4096u
#define PIECE_BYTES (64 * LAM_MIB) /* beyond 16 MiB the size of a copy does not matter */
#define ROUNDS 5u
#define LINK_WINDOWS 9u
#define LINK_WINDOW_S 0.25
#define SLOW_NS (100 * LAM_NS_PER_MS)
#define PROBE_BYTES (4 * LAM_GIB) /* in a row: half a millisecond is not yet at full speed */
/* Products are measured in the shapes of a layer of an 8B model. */
#define LAYER_WIDTH 4096u
#define LAYER_KV 1024u
#define LAYER_FF 14336u
#define LAYER_HEAD 128u
#define LAYER_CTX 64u                                    /* positions: a page */
#define CACHE_BYTES ((uint64_t)LAYER_CTX * LAYER_KV * 2) /* of K, and of V, in F16 */
#define LAYERS 16u
#define ARENA_ALIGN 256u

static double rate_of(uint64_t bytes, uint64_t ns)
{
    return ns > 0 ? (double)bytes / (double)ns * 1e9 : 0;
}

/* A memory as the loader's pool is: populated, and here a read-only mapping of it. */
static const void *map_source(struct lam_err *err)
{
    void *bytes = MAP_FAILED;
    uint64_t value = 88172645463325252u; /* of an xorshift generator: random data for the probe */
    int fd = memfd_create("laminar-measure", MFD_CLOEXEC);

    if (fd >= 0 && ftruncate(fd, (off_t)MEASURE_BYTES) == 0)
        bytes = mmap(NULL, MEASURE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) {
        lam_fail_errno(err, errno, "no shared memory of 512 MiB to copy from");
    } else {
        for (uint64_t i = 0; i < MEASURE_BYTES / sizeof value; i++) {
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
            ((uint64_t *)bytes)[i] = value;
        }
        munmap(bytes, MEASURE_BYTES);
        bytes = mmap(NULL, MEASURE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    }
    if (fd >= 0)
        close(fd);
    return bytes == MAP_FAILED ? NULL : bytes;
}

/* What a device is measured in: one arena, random bytes in its first part. */
struct bench {
    const struct lam_cuda_backend *backend;
    struct lam_kernels *kernels;
    unsigned char *weights; /* [memory_bytes] */
    uint64_t memory_bytes;  /* of it MEASURE_BYTES are ever written */
    float *in;              /* [LAYER_FF] */
    float *out;             /* [2 * LAYER_FF] */
    float *table;           /* [LAYER_HEAD] of a rotation */
    unsigned char *cache;   /* one page of K and one of V, in F16 */
    uint32_t *pages;        /* [1] */
};

struct lam_kernel_config lam_device_measure_config(uint32_t device)
{
    return (struct lam_kernel_config){.n_threads = 1,
        .max_rows = 1,
        .max_cols = LAYER_FF,
        .max_seqs = 1,
        .max_ctx = LAYER_CTX,
        .n_heads = LAYER_WIDTH / LAYER_HEAD,
        .head_dim = LAYER_HEAD,
        .device = device};
}

/* What is read again and again must be much larger than the device's cache, which would answer for
 * a part of it: 50 MB of 512 MiB made an H100's memory 2.5 % faster than it is. A power of two, and
 * beyond the least at most a sixteenth of what is free. */
static uint64_t memory_bytes_of(uint64_t free_bytes)
{
    uint64_t bytes = MEASURE_BYTES;

    while (bytes < PROBE_BYTES && bytes <= free_bytes / 32)
        bytes *= 2;
    return bytes;
}

static enum lam_status take_arena(struct bench *bench, struct lam_err *err)
{
    const struct lam_kernel_config config = lam_device_measure_config(0);
    const struct lam_device_ops *device = bench->backend->device;
    const uint32_t first_page = 0;
    uint64_t sizes[] = {bench->memory_bytes, lam_device_workspace_bytes(&config),
        LAYER_FF * sizeof(float), 2 * LAYER_FF * sizeof(float), LAYER_HEAD * sizeof(float),
        2 * CACHE_BYTES, sizeof first_page};
    uint64_t at[7], end = 0;
    void *base = NULL;
    enum lam_status status;

    for (size_t i = 0; i < 7; i++) {
        at[i] = end;
        end += lam_align_up(sizes[i], ARENA_ALIGN);
    }
    status = device->arena(bench->kernels, end, &base, err);
    if (status)
        return status;
    bench->weights = base;
    device->workspace(bench->kernels, bench->weights + at[1]);
    bench->in = (float *)(void *)(bench->weights + at[2]);
    bench->out = (float *)(void *)(bench->weights + at[3]);
    bench->table = (float *)(void *)(bench->weights + at[4]);
    bench->cache = bench->weights + at[5];
    bench->pages = (uint32_t *)(void *)(bench->weights + at[6]);
    device->upload(bench->kernels, bench->pages, &first_page, sizeof first_page);
    return LAM_OK;
}

/* Queues one product of weights that lie `at` bytes in, and returns where they end. */
static uint64_t queue_product(
    const struct bench *bench, enum lam_dtype dtype, uint32_t n_out, uint32_t n_cols, uint64_t at)
{
    uint64_t row_bytes = 0;
    bool whole = lam_dtype_row_bytes(dtype, n_cols, &row_bytes);
    const struct lam_matmul_args args = {.x = bench->in,
        .n_rows = 1,
        .n_cols = n_cols,
        .n_mats = 1,
        .mats = {{.weight = bench->weights + at,
            .dtype = dtype,
            .n_out = n_out,
            .out = bench->out,
            .out_stride = n_out}}};

    assert(whole);
    bench->backend->ops->matmul(bench->kernels, &args);
    return at + n_out * row_bytes;
}

static void queue_norm(const struct bench *bench)
{
    const struct lam_rms_norm_args norm = {.x = bench->out,
        .weight = bench->out + LAYER_WIDTH,
        .out = bench->in,
        .n_rows = 1,
        .n_cols = LAYER_WIDTH,
        .eps = 1e-5f};

    bench->backend->ops->rms_norm(bench->kernels, &norm);
}

/* All that a layer does between its first two products. */
static void queue_attention(const struct bench *bench)
{
    const struct lam_kernel_ops *ops = bench->backend->ops;
    const struct lam_seq_rows seq = {
        .n_rows = 1, .pos_begin = LAYER_CTX - 1, .pages = bench->pages};
    const struct lam_kv_layer kv = {.k = bench->cache,
        .v = bench->cache + CACHE_BYTES,
        .dtype = LAM_F16,
        .n_kv_heads = LAYER_KV / LAYER_HEAD,
        .head_dim = LAYER_HEAD,
        .page_tokens = LAYER_CTX};
    struct lam_rope_args rope = {.x = bench->out,
        .table = bench->table,
        .n_rows = 1,
        .n_heads = LAYER_WIDTH / LAYER_HEAD,
        .head_dim = LAYER_HEAD,
        .rope_dim = LAYER_HEAD,
        .pairing = LAM_ROPE_ADJACENT};
    const struct lam_kv_write_args write = {.k = bench->out + LAYER_WIDTH,
        .v = bench->out + LAYER_WIDTH + LAYER_KV,
        .kv = kv,
        .seqs = &seq,
        .n_seqs = 1};
    const struct lam_attention_args attention = {.q = bench->out,
        .out = bench->in,
        .n_heads = LAYER_WIDTH / LAYER_HEAD,
        .scale = 0.1f,
        .kv = kv,
        .seqs = &seq,
        .n_seqs = 1};

    ops->rope(bench->kernels, &rope);
    rope.x = bench->out + LAYER_WIDTH;
    rope.n_heads = LAYER_KV / LAYER_HEAD;
    ops->rope(bench->kernels, &rope);
    ops->kv_write(bench->kernels, &write);
    ops->attention(bench->kernels, &attention);
}

static void queue_swiglu(const struct bench *bench)
{
    const struct lam_swiglu_args swiglu = {
        .gate = bench->out, .up = bench->out + LAYER_FF, .out = bench->in, .n = LAYER_FF};

    bench->backend->ops->swiglu(bench->kernels, &swiglu);
}

/* The products of a layer; whole: with all that comes between them, as worker/forward.c has it. */
static void queue_layer(const struct bench *bench, enum lam_dtype dtype, bool whole, uint64_t at)
{
    if (whole)
        queue_norm(bench);
    at = queue_product(bench, dtype, LAYER_WIDTH + 2 * LAYER_KV, LAYER_WIDTH, at);
    if (whole)
        queue_attention(bench);
    at = queue_product(bench, dtype, LAYER_WIDTH, LAYER_WIDTH, at);
    if (whole)
        queue_norm(bench);
    at = queue_product(bench, dtype, 2 * LAYER_FF, LAYER_WIDTH, at);
    if (whole)
        queue_swiglu(bench);
    queue_product(bench, dtype, LAYER_WIDTH, LAYER_FF, at);
}

static uint64_t layer_bytes(enum lam_dtype dtype)
{
    uint64_t n = (uint64_t)LAYER_WIDTH * (2 * LAYER_WIDTH + 2 * LAYER_KV + 3 * LAYER_FF);
    uint64_t bytes = 0;

    return lam_dtype_row_bytes(dtype, n, &bytes) ? bytes : UINT64_MAX;
}

/* Seconds of one layer, the best of some rounds; 0: it does not fit, or the device has no clock.
 * One layer to warm up, then many one behind the other, each far from the one before, so that no
 * cache holds what is read next. A device as slow as an emulated one is not asked twice. */
static enum lam_status measure_layer(const struct bench *bench, enum lam_dtype dtype, bool whole,
    double *ret_seconds, struct lam_err *err)
{
    const struct lam_device_ops *device = bench->backend->device;
    uint64_t n_places = MEASURE_BYTES / layer_bytes(dtype);
    double best = 0;

    for (uint32_t round = 0; round < ROUNDS && n_places > 0; round++) {
        uint64_t begin_ns = lam_now_ns();
        uint32_t n_layers = round == 0 ? 1 : LAYERS;
        enum lam_status status;
        double seconds;
        device->mark_compute(bench->kernels, 0);
        for (uint32_t layer = 0; layer < n_layers; layer++)
            queue_layer(bench, dtype, whole, layer % n_places * layer_bytes(dtype));
        device->mark_compute(bench->kernels, 1);
        status = device->host_wait(bench->kernels, 1, err);
        if (status)
            return status;
        seconds = (double)device->elapsed_ns(bench->kernels, 0, 1) / 1e9 / n_layers;
        best = best > 0 && best < seconds ? best : seconds;
        if (lam_now_ns() - begin_ns > SLOW_NS)
            break;
    }
    *ret_seconds = best;
    return LAM_OK;
}

/* By how much a layer takes longer than its products: formats differ a little (10 to 15 us on an
 * H100), so that the middle one of three is taken. */
static enum lam_status measure_rest(
    const struct bench *bench, double *ret_seconds, struct lam_err *err)
{
    static const enum lam_dtype dtypes[] = {LAM_BF16, LAM_Q8_0, LAM_Q4_K};
    double rests[3] = {0};

    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        double products = 0, whole = 0;
        enum lam_status status = measure_layer(bench, dtypes[i], false, &products, err);
        if (!status)
            status = measure_layer(bench, dtypes[i], true, &whole, err);
        if (status)
            return status;
        if (whole > products && products > 0)
            rests[i] = whole - products;
    }
    lam_reals_sort(rests, 3);
    *ret_seconds = rests[1];
    return LAM_OK;
}

static enum lam_status measure_product(
    const struct bench *bench, enum lam_dtype dtype, double *ret_rate, struct lam_err *err)
{
    double seconds = 0;
    enum lam_status status = measure_layer(bench, dtype, false, &seconds, err);

    if (!status && seconds > 0)
        *ret_rate = (double)layer_bytes(dtype) / seconds;
    return status;
}

static enum lam_status measure_copy(
    const struct bench *bench, const char *from, double *ret_rate, struct lam_err *err)
{
    const struct lam_device_ops *device = bench->backend->device;
    enum lam_status status;

    device->mark_copy(bench->kernels, 0);
    for (uint64_t at = 0; at < MEASURE_BYTES; at += PIECE_BYTES)
        device->copy_in(bench->kernels, bench->weights + at, from + at, PIECE_BYTES);
    device->mark_copy(bench->kernels, 1);
    status = device->host_wait(bench->kernels, 1, err);
    if (!status)
        *ret_rate = rate_of(MEASURE_BYTES, device->elapsed_ns(bench->kernels, 0, 1));
    return status;
}

/* Round after round, to see how steady the link is. */
static enum lam_status measure_link(const struct bench *bench, const char *from, uint64_t link_ns,
    struct lam_device_link *ret_link, struct lam_err *err)
{
    static double rates[LINK_ROUNDS_MAX];
    uint64_t begin_ns = lam_now_ns();
    uint32_t n = 0;

    do {
        enum lam_status status = measure_copy(bench, from, &rates[n], err);
        if (status)
            return status;
        n++;
    } while (n < LINK_ROUNDS_MAX && lam_now_ns() - begin_ns < link_ns);
    lam_reals_sort(rates, n);
    *ret_link = (struct lam_device_link){
        .n = n, .median = rates[n / 2], .p10 = rates[n / 10], .p90 = rates[n - 1 - n / 10]};
    return LAM_OK;
}

/* What a link gives for as long as a pass takes: the median of windows of that length. A link may
 * be shared with other machines, and its best moment is no forecast: in one run the best round said
 * 54.3 GB/s, and passes went at 51.3. */
static enum lam_status measure_sustained(
    const struct bench *bench, const char *from, double *ret_rate, struct lam_err *err)
{
    double rates[LINK_WINDOWS];

    for (uint32_t w = 0; w < LINK_WINDOWS; w++) {
        double seconds = 0;
        uint64_t n_bytes = 0;
        while (seconds < LINK_WINDOW_S) {
            double rate = 0;
            enum lam_status status = measure_copy(bench, from, &rate, err);
            if (status)
                return status;
            if (!(rate > 0))
                return LAM_OK; /* a device without a clock: nothing is known */
            seconds += (double)MEASURE_BYTES / rate;
            n_bytes += MEASURE_BYTES;
        }
        rates[w] = (double)n_bytes / seconds;
    }
    lam_reals_sort(rates, LINK_WINDOWS);
    *ret_rate = rates[LINK_WINDOWS / 2];
    return LAM_OK;
}

/* Memory and products: the best of some rounds, each between two marks of the device's clock. */
static enum lam_status measure_rates(
    const struct bench *bench, const char *from, struct lam_gpu_facts *facts, struct lam_err *err)
{
    const struct lam_device_ops *device = bench->backend->device;
    struct lam_kernels *kernels = bench->kernels;
    enum lam_status status = measure_sustained(bench, from, &facts->link_rate, err);

    for (uint32_t round = 0; round < ROUNDS && !status; round++) {
        double memory;
        device->mark_compute(kernels, 2);
        for (uint64_t at = 0; at < PROBE_BYTES; at += bench->memory_bytes)
            device->probe(kernels, bench->weights, bench->memory_bytes);
        device->mark_compute(kernels, 3);
        status = device->host_wait(kernels, 3, err);
        if (status)
            break;
        memory = rate_of(PROBE_BYTES, device->elapsed_ns(kernels, 2, 3));
        facts->memory_rate = memory > facts->memory_rate ? memory : facts->memory_rate;
    }
    for (uint32_t id = 0; id < LAM_DTYPE_END && !status; id++)
        if (lam_dtype_known(id))
            status = measure_product(bench, (enum lam_dtype)id, &facts->product_rates[id], err);
    return status ? status : measure_rest(bench, &facts->layer_seconds, err);
}

enum lam_status lam_device_measure(const struct lam_cuda_backend *backend,
    struct lam_kernels *kernels, uint64_t free_bytes, const struct lam_device_question *question,
    struct lam_device_answer *answer, struct lam_err *err)
{
    struct bench bench = {.backend = backend,
        .kernels = kernels,
        .memory_bytes = question->measure ? memory_bytes_of(free_bytes) : MEASURE_BYTES};
    const void *from = map_source(err);
    enum lam_status status;

    if (!from)
        return err->status;
    status = backend->device->pin(kernels, from, MEASURE_BYTES, err);
    if (!status)
        status = take_arena(&bench, err);
    if (!status && question->link_ns > 0)
        status = measure_link(&bench, from, question->link_ns, &answer->link, err);
    if (!status && question->measure)
        status = measure_rates(&bench, from, &answer->facts, err);
    return status;
}
