/*
 * fiber: see fiber.h. The switch saves what x86-64's calling convention wants kept; ucontext would
 * ask the kernel for the signal mask each time, which costs a hundred times as much.
 */
#include "tests/kernels/simulated/fiber.h"

#include <string.h>

enum { SAVED_REGISTERS = 6, COLOURS = 16, COLOUR_BYTES = 192 };

/* Pushes the registers that belong to the caller, stores the stack's top in *from and takes the
 * other's. */
void sim_fiber_swap(void **from, void *to);
__asm__(".text\n"
        ".globl sim_fiber_swap\n"
        ".hidden sim_fiber_swap\n"
        ".type sim_fiber_swap, @function\n"
        "sim_fiber_swap:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size sim_fiber_swap, . - sim_fiber_swap\n");

void sim_fiber_begin(struct sim_fiber *fiber, void (*entry)(void), uint32_t colour)
{
    void *frame[SAVED_REGISTERS + 2] = {NULL};
    size_t used = (size_t)(colour % COLOURS) * COLOUR_BYTES + sizeof(frame);

    memcpy(&frame[SAVED_REGISTERS], &entry, sizeof(entry)); /* behind it: nowhere to return to */
    unsigned char *top = fiber->stack + fiber->stack_bytes - used;
    memcpy(top, frame, sizeof(frame)); /* top + 56 is 8 past a multiple of 16, as after a call */
    fiber->top = top;
}

void sim_fiber_pass(struct sim_fiber *from, const struct sim_fiber *to)
{
    sim_fiber_swap(&from->top, to->top);
}
