/* emulated: see emulated.h. Here the two tables; the queues are in queue.c. */
#include "tests/kernels/emulated/emulated.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "tests/kernels/emulated/queue.h"

#define DEVICES 2u
#define FREE_BYTES ((uint64_t)16 << 30)
#define OWN_BYTES ((uint64_t)1 << 20)
#define ARENA_ALIGN 256u
#define PATIENCE 8u /* so often a host asks for a mark before the device goes on for it */

static struct emulated_options next_options;
static struct emulated_counts counts;
static struct lam_kernels *latest;

void emulated_set(const struct emulated_options *options)
{
    next_options = *options;
}

struct emulated_counts emulated_counts(void)
{
    struct emulated_counts now;

    if (latest) /* its pins have a thread of their own */
        pthread_mutex_lock(&latest->lock);
    now = counts;
    if (latest)
        pthread_mutex_unlock(&latest->lock);
    return now;
}

void emulated_host_waits(uint64_t ns)
{
    assert(latest);
    emulated_run_all(latest);
    for (uint32_t q = 0; q < QUEUES; q++)
        if (latest->queues[q].now_ns > latest->host_ns)
            latest->host_ns = latest->queues[q].now_ns;
    latest->host_ns += ns;
}

static void destroy(struct lam_kernels *kernels)
{
    if (!kernels)
        return;
    if (latest == kernels)
        latest = NULL;
    assert(kernels->n_pins == 0);
    for (uint32_t q = 0; q < QUEUES; q++) {
        emulated_run(kernels, q, kernels->queues[q].n_queued);
        lam_free(kernels->queues[q].tasks);
    }
    for (uint32_t i = 0; i < kernels->n_host_blocks; i++)
        lam_free(kernels->host_blocks[i]);
    if (kernels->kernels)
        kernels->inner->destroy(kernels->kernels);
    pthread_mutex_destroy(&kernels->lock);
    lam_free(kernels->arena);
    lam_free(kernels);
}

static enum lam_status create(
    const struct lam_kernel_config *config, struct lam_kernels **ret_kernels, struct lam_err *err)
{
    struct lam_kernels *kernels;
    enum lam_status status;

    if (config->device >= DEVICES)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "there is no GPU %u: %u are emulated",
            config->device, DEVICES);
    kernels = lam_calloc(1, sizeof *kernels);
    if (!kernels)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for an emulated device");
    pthread_mutex_init(&kernels->lock, NULL);
    kernels->config = *config;
    kernels->options = next_options;
    kernels->random = next_options.seed;
    kernels->inner = next_options.cpu_kernels ? lam_kernels_cpu() : lam_kernels_ref();
    counts = (struct emulated_counts){0};
    status = kernels->inner->create(config, &kernels->kernels, err);
    if (status != LAM_OK) {
        destroy(kernels);
        return status;
    }
    latest = kernels;
    *ret_kernels = kernels;
    return LAM_OK;
}

static const char *describe(const struct lam_kernels *kernels)
{
    (void)kernels;
    return "an emulated device";
}

/* ---- operations */

static void *copy_of(struct lam_kernels *kernels, const void *from, uint64_t bytes)
{
    void *copy = lam_calloc(bytes, 1);

    if (copy)
        memcpy(copy, from, bytes);
    else
        kernels->broken = true;
    return copy;
}

static void compute(struct lam_kernels *kernels, const struct task *task)
{
    kernels->n_ops++;
    if (kernels->options.fault == EMULATED_BROKEN && kernels->n_ops == kernels->options.nth)
        kernels->broken = true;
    if (!kernels->broken)
        emulated_queue(kernels, COMPUTE, task);
    else
        lam_free(task->copy);
}

static void dequant(struct lam_kernels *kernels, const struct lam_dequant_args *args)
{
    struct task task = {.kind = TASK_DEQUANT, .args.dequant = *args};

    task.copy = copy_of(kernels, args->rows, args->n_rows * sizeof *args->rows);
    task.args.dequant.rows = task.copy;
    compute(kernels, &task);
}

static void rms_norm(struct lam_kernels *kernels, const struct lam_rms_norm_args *args)
{
    compute(kernels, &(struct task){.kind = TASK_RMS_NORM, .args.rms_norm = *args});
}

static void matmul(struct lam_kernels *kernels, const struct lam_matmul_args *args)
{
    compute(kernels, &(struct task){.kind = TASK_MATMUL, .args.matmul = *args});
}

static void rope_table(struct lam_kernels *kernels, const struct lam_rope_table_args *args)
{
    compute(kernels, &(struct task){.kind = TASK_ROPE_TABLE, .args.rope_table = *args});
}

static void rope(struct lam_kernels *kernels, const struct lam_rope_args *args)
{
    compute(kernels, &(struct task){.kind = TASK_ROPE, .args.rope = *args});
}

static void kv_write(struct lam_kernels *kernels, const struct lam_kv_write_args *args)
{
    struct task task = {.kind = TASK_KV_WRITE, .args.kv_write = *args};

    task.copy = copy_of(kernels, args->seqs, args->n_seqs * sizeof *args->seqs);
    task.args.kv_write.seqs = task.copy;
    compute(kernels, &task);
}

static void attention(struct lam_kernels *kernels, const struct lam_attention_args *args)
{
    struct task task = {.kind = TASK_ATTENTION, .args.attention = *args};

    task.copy = copy_of(kernels, args->seqs, args->n_seqs * sizeof *args->seqs);
    task.args.attention.seqs = task.copy;
    compute(kernels, &task);
}

static void swiglu(struct lam_kernels *kernels, const struct lam_swiglu_args *args)
{
    compute(kernels, &(struct task){.kind = TASK_SWIGLU, .args.swiglu = *args});
}

static void argmax(struct lam_kernels *kernels, const struct lam_argmax_args *args)
{
    counts.n_argmax++;
    compute(kernels, &(struct task){.kind = TASK_ARGMAX, .args.argmax = *args});
}

/* Every third matrix stays as it is. Not an operation of a pass: no fault falls on it. */
static bool arrange(struct lam_kernels *kernels, const struct lam_arrange_args *args)
{
    if (counts.n_asked++ % 3 == 2)
        return false;
    counts.n_arranged++;
    emulated_queue(kernels, COMPUTE, &(struct task){.kind = TASK_ARRANGE, .args.arrange = *args});
    return true;
}

/* ---- memory */

static enum lam_status facts(
    struct lam_kernels *kernels, struct lam_device_facts *ret_facts, struct lam_err *err)
{
    uint64_t bytes = kernels->options.free_bytes ? kernels->options.free_bytes : FREE_BYTES;

    (void)err;
    *ret_facts = (struct lam_device_facts){
        .name = "emulated",
        .total_bytes = bytes,
        .free_bytes = bytes - OWN_BYTES - kernels->arena_bytes,
        .own_bytes = OWN_BYTES,
        .own_is_exact = true,
        .n_multiprocessors = 1,
    };
    return LAM_OK;
}

static enum lam_status held(
    struct lam_kernels *kernels, uint64_t *ret_bytes, bool *ret_exact, struct lam_err *err)
{
    const struct emulated_options *options = &kernels->options;

    (void)err;
    *ret_bytes = OWN_BYTES + kernels->arena_bytes +
                 (kernels->n_ops >= options->grow_op ? options->grow_bytes : 0);
    *ret_exact = true;
    return LAM_OK;
}

static enum lam_status take_arena(
    struct lam_kernels *kernels, uint64_t bytes, void **ret_base, struct lam_err *err)
{
    assert(!kernels->arena);
    kernels->arena = lam_aligned_calloc(ARENA_ALIGN, bytes);
    if (!kernels->arena)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for an arena");
    memset(kernels->arena, 0xff, bytes);
    kernels->arena_bytes = bytes;
    counts.arena_bytes += bytes;
    *ret_base = kernels->arena;
    return LAM_OK;
}

static bool is_in_arena(const struct lam_kernels *kernels, const void *at, uint64_t bytes)
{
    const unsigned char *byte = at;

    return byte >= kernels->arena && bytes <= kernels->arena_bytes &&
           (uint64_t)(byte - kernels->arena) <= kernels->arena_bytes - bytes;
}

static void workspace(struct lam_kernels *kernels, void *base)
{
    assert((uintptr_t)base % ARENA_ALIGN == 0);
    assert(is_in_arena(kernels, base, lam_device_workspace_bytes(&kernels->config)));
}

static enum lam_status host_memory(
    struct lam_kernels *kernels, uint64_t bytes, void **ret_base, struct lam_err *err)
{
    void *block = lam_calloc(bytes, 1);

    assert(kernels->n_host_blocks < sizeof kernels->host_blocks / sizeof *kernels->host_blocks);
    if (!block)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no host memory");
    kernels->host_blocks[kernels->n_host_blocks++] = block;
    *ret_base = block;
    return LAM_OK;
}

static enum lam_status pin(
    struct lam_kernels *kernels, const void *base, uint64_t bytes, struct lam_err *err)
{
    (void)err;
    assert(bytes > 0 && bytes <= LAM_GIB);
    pthread_mutex_lock(&kernels->lock);
    assert(kernels->n_pins < PINS_MAX);
    kernels->pins[kernels->n_pins++] = (struct pinned){base, bytes};
    counts.n_pins++;
    pthread_mutex_unlock(&kernels->lock);
    return LAM_OK;
}

static void unpin(struct lam_kernels *kernels, const void *base)
{
    uint32_t i = 0;

    pthread_mutex_lock(&kernels->lock);
    while (i < kernels->n_pins && kernels->pins[i].base != base)
        i++;
    assert(i < kernels->n_pins);
    kernels->pins[i] = kernels->pins[--kernels->n_pins];
    pthread_mutex_unlock(&kernels->lock);
}

/* ---- queues */

/* All of the range is in one pinned range, or none of it is pinned. */
static void check_pins(struct lam_kernels *kernels, const unsigned char *from, uint64_t bytes)
{
    pthread_mutex_lock(&kernels->lock);
    for (uint32_t i = 0; i < kernels->n_pins; i++) {
        const struct pinned *pinned = &kernels->pins[i];
        bool apart = from + bytes <= pinned->base || from >= pinned->base + pinned->bytes;
        bool inside = from >= pinned->base && from + bytes <= pinned->base + pinned->bytes;

        assert(apart || inside);
    }
    pthread_mutex_unlock(&kernels->lock);
}

static void copy_in(struct lam_kernels *kernels, void *to, const void *from, uint64_t bytes)
{
    const struct task task = {.kind = TASK_MOVE, .to = to, .from = from, .bytes = bytes};

    assert(is_in_arena(kernels, to, bytes));
    check_pins(kernels, from, bytes);
    counts.n_copies++;
    emulated_queue(kernels, COPY, &task);
}

static void upload(struct lam_kernels *kernels, void *to, const void *from, uint64_t bytes)
{
    struct task task = {.kind = TASK_MOVE, .to = to, .bytes = bytes};

    assert(is_in_arena(kernels, to, bytes));
    task.copy = copy_of(kernels, from, bytes);
    if (task.copy)
        emulated_queue(kernels, COMPUTE, &task);
}

static void download(struct lam_kernels *kernels, void *to, const void *from, uint64_t bytes)
{
    const struct task task = {.kind = TASK_MOVE, .to = to, .from = from, .bytes = bytes};

    assert(is_in_arena(kernels, from, bytes));
    counts.download_bytes += bytes;
    emulated_queue(kernels, COMPUTE, &task);
}

static void probe(struct lam_kernels *kernels, void *from, uint64_t bytes)
{
    assert(is_in_arena(kernels, from, bytes));
}

static void set_mark(struct lam_kernels *kernels, uint32_t queue, uint32_t mark)
{
    assert(mark < LAM_DEVICE_MARKS);
    emulated_queue(kernels, queue, &(struct task){.kind = TASK_MARK, .mark = mark});
    kernels->marks[mark] =
        (struct mark){.set = true, .queue = queue, .number = kernels->queues[queue].n_queued};
}

static void mark_copy(struct lam_kernels *kernels, uint32_t mark)
{
    set_mark(kernels, COPY, mark);
}

static void mark_compute(struct lam_kernels *kernels, uint32_t mark)
{
    set_mark(kernels, COMPUTE, mark);
}

/* Whether this wait is the one that is left out. */
static bool is_left_out(struct lam_kernels *kernels, enum emulated_fault kind)
{
    return ++counts.n_waits[kind] == kernels->options.nth && kernels->options.fault == kind;
}

static void queue_wait(
    struct lam_kernels *kernels, uint32_t queue, uint32_t mark, enum emulated_fault kind)
{
    const struct mark *on = &kernels->marks[mark];

    assert(mark < LAM_DEVICE_MARKS);
    if (!on->set || is_left_out(kernels, kind))
        return;
    emulated_queue(kernels, queue,
        &(struct task){.kind = TASK_WAIT, .mark = mark, .queue = on->queue, .number = on->number});
}

static void copy_wait(struct lam_kernels *kernels, uint32_t mark)
{
    queue_wait(kernels, COPY, mark, EMULATED_NO_COPY_WAIT);
}

static void compute_wait(struct lam_kernels *kernels, uint32_t mark)
{
    queue_wait(kernels, COMPUTE, mark, EMULATED_NO_COMPUTE_WAIT);
}

static bool reached(struct lam_kernels *kernels, uint32_t mark)
{
    const struct mark *on = &kernels->marks[mark];

    assert(mark < LAM_DEVICE_MARKS);
    kernels->n_asked = mark == kernels->asked ? kernels->n_asked + 1 : 1;
    kernels->asked = mark;
    if (kernels->n_asked > PATIENCE)
        emulated_run_some(kernels);
    return kernels->broken || !on->set || kernels->queues[on->queue].n_run >= on->number;
}

static enum lam_status host_wait(struct lam_kernels *kernels, uint32_t mark, struct lam_err *err)
{
    const struct mark *on = &kernels->marks[mark];

    assert(mark < LAM_DEVICE_MARKS);
    if (kernels->broken)
        return lam_fail(err, LAM_INTERNAL, "the emulated device is broken; the process must end");
    if (on->set && !is_left_out(kernels, EMULATED_NO_HOST_WAIT))
        emulated_run(kernels, on->queue, on->number);
    return LAM_OK;
}

static uint64_t elapsed_ns(struct lam_kernels *kernels, uint32_t from, uint32_t to)
{
    uint64_t begin = kernels->times_ns[from];
    uint64_t end = kernels->times_ns[to];

    return end > begin ? end - begin : 0;
}

const struct lam_cuda_backend *emulated_backend(void)
{
    static const struct lam_kernel_ops ops = {
        .name = "emulated",
        .create = create,
        .destroy = destroy,
        .describe = describe,
        .dequant = dequant,
        .rms_norm = rms_norm,
        .matmul = matmul,
        .rope_table = rope_table,
        .rope = rope,
        .kv_write = kv_write,
        .attention = attention,
        .swiglu = swiglu,
        .argmax = argmax,
        .arrange = arrange,
    };
    static const struct lam_device_ops device = {
        .facts = facts,
        .held = held,
        .arena = take_arena,
        .workspace = workspace,
        .host_memory = host_memory,
        .pin = pin,
        .unpin = unpin,
        .copy_in = copy_in,
        .upload = upload,
        .download = download,
        .probe = probe,
        .mark_copy = mark_copy,
        .mark_compute = mark_compute,
        .copy_wait = copy_wait,
        .compute_wait = compute_wait,
        .reached = reached,
        .host_wait = host_wait,
        .elapsed_ns = elapsed_ns,
    };
    static const struct lam_cuda_backend backend = {.ops = &ops, .device = &device};

    return &backend;
}
