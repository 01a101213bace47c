/* queue: see queue.h. */
#include "tests/kernels/emulated/queue.h"

#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "tests/kernels/emulated/order.h"

#define TASKS_MAX 4096u
#define COPY_RATE 1000000000u
#define OP_NS 1000u

static uint32_t draw(struct lam_kernels *kernels, uint32_t n)
{
    kernels->random = kernels->random * 1664525u + 1013904223u;
    return (kernels->random >> 8) % n;
}

static void compute(struct lam_kernels *kernels, struct task *task)
{
    const struct lam_kernel_ops *inner = kernels->inner;

    switch (task->kind) {
    case TASK_DEQUANT:
        inner->dequant(kernels->kernels, &task->args.dequant);
        break;
    case TASK_RMS_NORM:
        inner->rms_norm(kernels->kernels, &task->args.rms_norm);
        break;
    case TASK_MATMUL:
        emulated_matmul(kernels, &task->args.matmul);
        break;
    case TASK_ARRANGE:
        emulated_arrange(&task->args.arrange);
        break;
    case TASK_ROPE_TABLE:
        inner->rope_table(kernels->kernels, &task->args.rope_table);
        break;
    case TASK_ROPE:
        inner->rope(kernels->kernels, &task->args.rope);
        break;
    case TASK_KV_WRITE:
        inner->kv_write(kernels->kernels, &task->args.kv_write);
        break;
    case TASK_ATTENTION:
        inner->attention(kernels->kernels, &task->args.attention);
        break;
    case TASK_ARGMAX:
        inner->argmax(kernels->kernels, &task->args.argmax);
        break;
    default:
        inner->swiglu(kernels->kernels, &task->args.swiglu);
    }
}

static uint64_t cost_ns(const struct lam_kernels *kernels, const struct task *task)
{
    uint64_t rate = kernels->options.copy_rate ? kernels->options.copy_rate : COPY_RATE;

    if (task->kind == TASK_MOVE)
        return (uint64_t)((double)task->bytes * 1e9 / (double)rate);
    return kernels->options.op_ns ? kernels->options.op_ns : OP_NS;
}

static void run_task(struct lam_kernels *kernels, uint32_t index)
{
    struct task_queue *queue = &kernels->queues[index];
    struct task *task = &queue->tasks[queue->n_run % TASKS_MAX];
    const struct task_queue *other = &kernels->queues[task->queue];

    if (task->queued_ns > queue->now_ns)
        queue->now_ns = task->queued_ns;
    if (task->kind == TASK_MARK) {
        kernels->times_ns[task->mark] = queue->now_ns;
    } else if (task->kind == TASK_WAIT) {
        if (kernels->times_ns[task->mark] > queue->now_ns && task->queue != index)
            queue->now_ns = kernels->times_ns[task->mark];
        assert(other->n_run >= task->number);
    } else if (task->kind == TASK_MOVE) {
        memcpy(task->to, task->copy ? task->copy : task->from, task->bytes);
        queue->now_ns += cost_ns(kernels, task);
    } else {
        compute(kernels, task);
        queue->now_ns += cost_ns(kernels, task);
    }
    lam_free(task->copy);
    task->copy = NULL;
    queue->n_run++;
}

static bool can_run(const struct lam_kernels *kernels, uint32_t index)
{
    const struct task_queue *queue = &kernels->queues[index];
    const struct task *task = &queue->tasks[queue->n_run % TASKS_MAX];

    if (queue->n_run == queue->n_queued)
        return false;
    return task->kind != TASK_WAIT || kernels->queues[task->queue].n_run >= task->number;
}

/* Runs one task of a queue that can go on. False: none can. */
static bool run_any(struct lam_kernels *kernels)
{
    uint32_t first = draw(kernels, QUEUES);

    for (uint32_t i = 0; i < QUEUES; i++) {
        uint32_t index = (first + i) % QUEUES;

        if (!can_run(kernels, index))
            continue;
        run_task(kernels, index);
        return true;
    }
    return false;
}

void emulated_run(struct lam_kernels *kernels, uint32_t queue, uint64_t number)
{
    while (kernels->queues[queue].n_run < number) {
        bool more = run_any(kernels);
        assert(more); /* else the queues wait for each other */
    }
}

void emulated_run_some(struct lam_kernels *kernels)
{
    (void)run_any(kernels);
}

void emulated_run_all(struct lam_kernels *kernels)
{
    while (run_any(kernels))
        ;
}

void emulated_queue(struct lam_kernels *kernels, uint32_t queue, const struct task *task)
{
    struct task_queue *to = &kernels->queues[queue];

    if (!to->tasks)
        to->tasks = lam_calloc(TASKS_MAX, sizeof *to->tasks);
    if (!to->tasks) {
        kernels->broken = true;
        lam_free(task->copy);
        return;
    }
    if (to->n_queued - to->n_run == TASKS_MAX)
        emulated_run(kernels, queue, to->n_run + 1);
    to->tasks[to->n_queued % TASKS_MAX] = *task;
    to->tasks[to->n_queued++ % TASKS_MAX].queued_ns = kernels->host_ns;
    /* Sometimes the device is fast, sometimes it does nothing for long. */
    if (draw(kernels, 16) == 0)
        for (uint32_t n = draw(kernels, 64); n > 0 && run_any(kernels); n--)
            ;
}
