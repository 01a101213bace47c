/*
 * fiber: stacks of their own on one thread of the CPU. A fiber runs until it passes control to
 * another one by name; nothing here chooses.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_FIBER_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_FIBER_H

#include <stddef.h>
#include <stdint.h>

struct sim_fiber {
    void *top; /* of its stack, where it was left */
    unsigned char *stack;
    size_t stack_bytes;
};

/* Makes the fiber one that begins with entry(), which never returns, on this stack. `colour`: a
 * small number; fibers of different ones begin on different lines of the CPU's cache. */
void sim_fiber_begin(struct sim_fiber *fiber, void (*entry)(void), uint32_t colour);

/* Leaves the running fiber, `from`, or the caller's own stack, and goes on in `to`. Returns
 * when another one passes control back. */
void sim_fiber_pass(struct sim_fiber *from, const struct sim_fiber *to);

#endif
