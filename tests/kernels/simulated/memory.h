/*
 * memory: what was allocated on the device, and which host memory is pinned. Pages of the device
 * that nobody has written hold the bits of NaN. Called under the runtime's lock.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_MEMORY_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of the device; and what a process holds there without any allocation. */
#define SIM_TOTAL_BYTES ((uint64_t)8 << 30)
#define SIM_CONTEXT_BYTES ((uint64_t)96 << 20)

/* NULL: there is not so much. */
void *sim_memory_take(size_t bytes);
bool sim_memory_give(void *memory);
uint64_t sim_memory_held(void); /* context and allocations */

/* Whether all of it lies in one allocation. */
bool sim_memory_has(const void *at, uint64_t bytes);
/* Where the number of the launch is kept that wrote the word around `at` last. NULL: `at` is not
 * the device's. */
uint32_t *sim_memory_writer(const void *at);

enum { SIM_PINS_MAX = 1024 };
enum sim_pin { SIM_NOT_PINNED, SIM_PINNED, SIM_PIN_CROSSED };

bool sim_pin_add(const void *base, uint64_t bytes); /* false: it is there, or there are too many */
bool sim_pin_remove(const void *base);
enum sim_pin sim_pin_of(const void *at, uint64_t bytes);

#endif
