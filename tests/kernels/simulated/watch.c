/* watch: see watch.h. */
#include "tests/kernels/simulated/watch.h"
#include "tests/kernels/simulated/machine.h"
void sim_watch_block(void)
{
}
void sim_watch_read(const void *at, uint32_t bytes)
{
    (void)at;
    (void)bytes;
}
void sim_watch_write(const void *at, uint32_t bytes)
{
    (void)at;
    (void)bytes;
}
void sim_watch_copy_begin(const void *to, const void *from, uint32_t bytes)
{
    (void)to;
    (void)from;
    (void)bytes;
}
void sim_watch_copy_end(const void *to, uint32_t bytes)
{
    (void)to;
    (void)bytes;
}
void sim_atomic(const void *at, uint32_t bytes)
{
    (void)at;
    (void)bytes;
}
