/*
 * emulated: a device without hardware, for tests of what is built on kernels/device.h: its two
 * queues are real, its memory is the host's, and its arithmetic is that of CPU kernels, so that
 * results can be compared bitwise with an engine on these.
 *
 * Nothing runs when it is queued. Work runs when a wait forces it, when the host asks for a mark
 * again and again, or now and then in between, in an order drawn from a seed among all orders that
 * the marks allow: a wait that is missing shows as wrong results under some seed. The arena begins
 * as NaNs. Time is virtual: each queue has a clock that copies and operations advance, and a wait
 * takes over the time of what it waited for.
 *
 * Asserted: one arena; copies that do not cross the border of a pinned range; a workspace that is
 * large enough; that no queue waits for itself; everything unpinned at the end.
 */
#ifndef LAMINAR_TESTS_KERNELS_EMULATED_EMULATED_H
#define LAMINAR_TESTS_KERNELS_EMULATED_EMULATED_H

#include "kernels/cuda/open.h"

/* Which wait is left out: the nth of its kind since create, from 1. */
enum emulated_fault {
    EMULATED_SOUND,
    EMULATED_NO_COPY_WAIT,
    EMULATED_NO_COMPUTE_WAIT,
    EMULATED_NO_HOST_WAIT,
    EMULATED_BROKEN, /* the nth operation fails, and all host_waits from then on */
};

struct emulated_options {
    uint32_t seed;
    bool cpu_kernels;    /* else ref */
    uint64_t copy_rate;  /* bytes per second; 0: 1e9 */
    uint64_t op_ns;      /* of one operation; 0: 1,000 */
    uint64_t free_bytes; /* of the device, before create; 0: 16 GiB */
    /* Memory that no plan knows of: the process holds so much more from its grow_op-th operation
     * on; 0: from the beginning, without facts saying so. */
    uint64_t grow_bytes;
    uint64_t grow_op;
    enum emulated_fault fault;
    uint64_t nth;
};

/* What happened since the last create. */
struct emulated_counts {
    uint64_t arena_bytes;
    uint64_t n_copies;
    uint64_t n_waits[EMULATED_BROKEN]; /* by the fault that leaves them out */
    uint64_t n_pins;
    uint64_t n_asked; /* matrices that were to be arranged, and were */
    uint64_t n_arranged;
    uint64_t n_argmax;
    uint64_t download_bytes;
};

/* For the contexts that are created from now on. */
void emulated_set(const struct emulated_options *options);
struct emulated_counts emulated_counts(void);

/* The host does nothing for so long, in virtual time: the context that was created last works off
 * what it has, and what is queued from now on begins that much later. */
void emulated_host_waits(uint64_t ns);

const struct lam_cuda_backend *emulated_backend(void);

#endif
