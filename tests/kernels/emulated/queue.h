/*
 * queue (private to the emulated device): work that was queued, and the draw of what runs next.
 * Arguments are kept by value, and arrays of the host's are copied, as kernels/device.h promises.
 */
#ifndef LAMINAR_TESTS_KERNELS_EMULATED_QUEUE_H
#define LAMINAR_TESTS_KERNELS_EMULATED_QUEUE_H

#include <pthread.h>

#include "kernels/device.h"
#include "tests/kernels/emulated/emulated.h"

enum { COMPUTE, COPY, QUEUES };

enum task_kind {
    TASK_DEQUANT,
    TASK_RMS_NORM,
    TASK_MATMUL,
    TASK_ROPE_TABLE,
    TASK_ROPE,
    TASK_KV_WRITE,
    TASK_ATTENTION,
    TASK_SWIGLU,
    TASK_ARGMAX,
    TASK_ARRANGE,
    TASK_MOVE, /* bytes to `to` */
    TASK_MARK,
    TASK_WAIT, /* for `number` tasks of `queue` */
};

struct task {
    enum task_kind kind;
    union {
        struct lam_dequant_args dequant;
        struct lam_rms_norm_args rms_norm;
        struct lam_matmul_args matmul;
        struct lam_rope_table_args rope_table;
        struct lam_rope_args rope;
        struct lam_kv_write_args kv_write;
        struct lam_attention_args attention;
        struct lam_swiglu_args swiglu;
        struct lam_argmax_args argmax;
        struct lam_arrange_args arrange;
    } args;
    void *copy; /* of a host array or of uploaded bytes; freed when the task has run */
    void *to;
    const void *from;
    uint64_t bytes;
    uint32_t mark;
    uint32_t queue;
    uint64_t number;
    uint64_t queued_ns; /* on the host's clock */
};

struct task_queue {
    struct task *tasks; /* a ring of TASKS_MAX */
    uint64_t n_queued;
    uint64_t n_run;
    uint64_t now_ns; /* virtual */
};

struct mark {
    bool set;
    uint32_t queue;
    uint64_t number; /* reached when so many tasks of the queue have run */
    uint64_t at_ns;
};

#define PINS_MAX 4096

struct pinned {
    const unsigned char *base;
    uint64_t bytes;
};

struct lam_kernels {
    struct lam_kernel_config config;
    const struct lam_kernel_ops *inner;
    struct lam_kernels *kernels; /* of inner */
    struct emulated_options options;
    uint32_t random;
    uint64_t host_ns; /* virtual: no task begins before it was queued */
    struct task_queue queues[QUEUES];
    struct mark marks[LAM_DEVICE_MARKS];
    uint64_t times_ns[LAM_DEVICE_MARKS]; /* of the marks that were reached last */
    unsigned char *arena;
    uint64_t arena_bytes;
    void *host_blocks[8];
    uint32_t n_host_blocks;
    uint64_t n_ops;
    uint32_t asked, n_asked; /* the mark that the host asked for last, and how often in a row */
    bool broken;
    pthread_mutex_t lock; /* pins have a thread of their own */
    struct pinned pins[PINS_MAX];
    uint32_t n_pins;
};

/* Appends the task; some others may run. */
void emulated_queue(struct lam_kernels *kernels, uint32_t queue, const struct task *task);

/* Runs tasks of both queues until `number` tasks of `queue` have run. */
void emulated_run(struct lam_kernels *kernels, uint32_t queue, uint64_t number);

/* Runs one task, if one can run. */
void emulated_run_some(struct lam_kernels *kernels);

/* Runs all that can run. */
void emulated_run_all(struct lam_kernels *kernels);

#endif
