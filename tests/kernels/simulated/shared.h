/*
 * shared: the block's shared memory: `smem`, which is what a launch asks for, and the library's
 * other thread-local variables, which are what kernels declare. And the copies into it that a
 * thread does not wait for at once.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_SHARED_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_SHARED_H

#include <stdbool.h>
#include <stdint.h>

/* A new block: everything in it is the bits of NaN. */
void sim_smem_begin(uint32_t bytes);

bool sim_is_shared(const void *at);
/* This library in memory: its code, constants and variables, but for those above. */
void sim_find_image(uint8_t **ret_begin, uint8_t **ret_end);
/* Where shared memory begins and ends, for a shadow of it. */
const uint8_t *sim_shared_base(void);
uint64_t sim_shared_bytes(void);

#endif
