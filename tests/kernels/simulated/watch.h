/*
 * watch: looks at every read and write of a kernel. Kernels are compiled with -fsanitize=thread,
 * and what that makes them call is here. Each of these ends the launch:
 *   - two threads touch a byte of shared memory, one of them writes, and neither a barrier nor,
 *     within a warp, a whole __syncwarp lies between; other collectives do not order memory
 *   - a byte is touched that a copy is still bringing, or that none was waited for
 *   - memory that is neither the device's, the block's nor the thread's; a vector at an address
 *     that is no multiple of its size
 *   - before it waits for its predecessors, a kernel writes to the device's memory, or reads there
 *     what a launch wrote that may still be running
 * Not looked for: races of blocks with each other in the device's memory.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_WATCH_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_WATCH_H

#include <stdint.h>

/* A new block begins: its shared memory has no history. */
void sim_watch_block(void);

/* What an instruction reads, by the running thread. */
void sim_watch_read(const void *at, uint32_t bytes);

/* A copy into shared memory is on its way; it has arrived. */
void sim_watch_copy_begin(const void *to, const void *from, uint32_t bytes);
void sim_watch_copy_end(const void *to, uint32_t bytes);

#endif
