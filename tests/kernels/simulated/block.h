/*
 * block: runs the blocks of a launch, one behind the other, on the calling thread; and what the
 * machine's other files may know of the thread that runs.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_BLOCK_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/kernels/simulated/fiber.h"
#include "tests/kernels/simulated/machine.h"

/* Copies of one thread that are on their way. */
enum { SIM_COPIES_MAX = 512 };

struct sim_copy {
    uint8_t *to;
    const uint8_t *from;
    uint32_t bytes;
    uint32_t group;
};

struct sim_copies {
    struct sim_copy copies[SIM_COPIES_MAX]; /* a ring */
    uint32_t begin;                         /* of those on their way; both only grow */
    uint32_t end;
    uint32_t group; /* that is open */
};

struct sim_thread {
    struct sim_place place;
    struct sim_fiber fiber;
    struct sim_copies copies;
    bool has_waited; /* for the launch's predecessors */
};

/* The launch that runs. */
struct sim_running {
    const struct sim_launch *launch;
    uint64_t number;      /* of the launch, from 1 */
    uint64_t chain_begin; /* the first launch that may still run when this one begins */
    uint64_t barriers;    /* that all threads of the block have passed */
    bool copies_early;    /* copies are made when they are issued */
};

/* Runs it to its end; false: a rule was broken, and sim_fault has been told. order: bits of what
 * the hardware leaves open. */
bool sim_run(
    const struct sim_launch *launch, uint64_t number, uint64_t chain_begin, uint64_t order);

/* NULL and of no meaning while no kernel runs. */
struct sim_thread *sim_self(void);
const struct sim_running *sim_running(void);

/* How often the lanes of the running thread's warp have all met in __syncwarp or a barrier. */
uint64_t sim_warp_syncs(uint32_t warp);

/* The running thread breaks a rule: ends the launch. */
__attribute__((noreturn, format(printf, 1, 2))) void sim_break(const char *format, ...);

/* Whether it lies on a thread's stack. */
bool sim_is_stack(const void *at);

/* A part of shared memory: what of `at` lies there; NULL where nothing does. */
uint8_t *sim_smem_at(uint32_t smem_address, uint32_t bytes);

#endif
