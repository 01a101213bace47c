/*
 * watch: looks at what the threads of a kernel read and write. See watch.c.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_WATCH_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_WATCH_H

#include <stdint.h>

/* A new block begins: its shared memory has no history. */
void sim_watch_block(void);

/* Accesses that instructions make, by the running thread. */
void sim_watch_read(const void *at, uint32_t bytes);
void sim_watch_write(const void *at, uint32_t bytes);

/* A copy into shared memory is on its way; it has arrived. */
void sim_watch_copy_begin(const void *to, const void *from, uint32_t bytes);
void sim_watch_copy_end(const void *to, uint32_t bytes);

#endif
