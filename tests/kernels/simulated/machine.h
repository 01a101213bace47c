/*
 * machine: what a compiled kernel asks of the simulated GPU, as C functions; the headers in
 * include/ give them CUDA's names. See README.md for the machine's rules.
 *
 * A thread of a block is a fiber. It runs until it meets others: in a collective of its warp
 * (sim_meet), at the block's barrier, or at its end. Everything between two meetings of one thread
 * happens at once as the others see it; which thread goes first is the machine's choice.
 *
 * A broken rule fails the launch: the sentence names the rule and the place, and is what the
 * runtime then answers to every call, as after a fault of a real device.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_MACHINE_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden) /* of the library that the kernels are part of */

enum { SIM_WARP = 32, SIM_THREADS_MAX = 1024, SIM_SMEM_BYTES = 227 << 10 };

struct sim_index {
    unsigned int x, y, z;
};

/* Where the running thread is. The first is its own, the others are of its launch. */
struct sim_place {
    struct sim_index thread;
    uint32_t number; /* of the thread in its block; lane number % SIM_WARP of its warp */
};
extern const struct sim_place *sim_here;
extern struct sim_index sim_block;
extern struct sim_index sim_block_sides;
extern struct sim_index sim_grid_sides;

/* Where in the source a collective stands. */
struct sim_site {
    const char *file;
    int line;
};

/* A collective of a warp: `work` is called once, when all lanes of `mask` are there, with what each
 * brought (NULL for lanes outside of the mask). Lanes of the mask that come to another collective,
 * or end, break a rule. */
typedef void (*sim_work_fn)(void *const *brought);
void sim_meet(
    uint32_t mask, sim_work_fn work, void *brought, const char *name, const struct sim_site *site);

void sim_sync_threads(const struct sim_site *site);
void sim_sync_warp(uint32_t mask, const struct sim_site *site);

/* What one lane brings to a shuffle or vote: a value and, of a shuffle, whose it wants. */
struct sim_shuffle {
    uint64_t value;
    uint32_t from; /* lane; beyond the warp: its own */
};
/* Leaves in `value` that of lane `from`, which must be in the mask. */
void sim_shuffle(uint32_t mask, struct sim_shuffle *own, const struct sim_site *site);
/* The lanes of the mask whose predicate holds. */
uint32_t sim_ballot(uint32_t mask, bool predicate, const struct sim_site *site);

/* The tensor core, see mma.cuh for who holds what. One function for each instruction. */
void sim_mma_f16(float *c, const uint32_t *a, const uint32_t *b);
void sim_mma_bf16(float *c, const uint32_t *a, const uint32_t *b);
void sim_mma_s8_k32(int32_t *c, const uint32_t *a, const uint32_t *b);
void sim_mma_s8_k16(int32_t *c, const uint32_t *a, const uint32_t *b);
void sim_load_matrices(uint32_t *to, uint32_t smem_address, bool turned);

/* Shared memory: the window of the block, and addresses in it as instructions have them. */
uint32_t sim_shared_address(const void *at);

/* Copies to shared memory are made when they are waited for, not before. */
void sim_copy_async(uint32_t smem_address, const void *from, uint32_t bytes);
void sim_copy_commit(void);
void sim_copy_wait(uint32_t n_left);

void sim_wait_for_predecessors(void);
void sim_let_successors_begin(void);

/* Before an atomic operation on `at`. */
void sim_atomic(const void *at, uint32_t bytes);

/* A kernel's launch: body(params) is what each thread calls; params has param_bytes and is
 * copied. Returns a number of the runtime. */
struct sim_launch {
    struct sim_index grid;
    struct sim_index block;
    uint32_t smem_bytes;
    bool overlaps; /* may begin while its predecessor runs */
    const void *kernel;
    void (*body)(const void *params);
    const void *params;
    size_t param_bytes;
};
struct CUstream_st;
int sim_queue_launch(struct CUstream_st *stream, const struct sim_launch *launch);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
