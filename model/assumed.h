/*
 * assumed: the rates of a plan (bytes, or operations, per second) where nobody gave or measured
 * any: PCIe 4 x16, a good NVMe drive, a server's memory, a GPU of the last years. Command line and
 * worker plan with the same ones, so that a worker does what the command line announced.
 */
#ifndef LAMINAR_MODEL_ASSUMED_H
#define LAMINAR_MODEL_ASSUMED_H

#include <stdint.h>

#define LAM_ASSUMED_DISK_RATE 3e9
#define LAM_ASSUMED_LINK_RATE 25e9
#define LAM_ASSUMED_HOST_RATE 100e9 /* what copies to GPUs read at */
#define LAM_ASSUMED_DEVICE_MEMORY_RATE 2e12
#define LAM_ASSUMED_DEVICE_FLOP_RATE 200e12
#define LAM_ASSUMED_CPU_FLOP_RATE 500e9

/* What that many processors read together: more than sixteen gain nothing. */
static inline double lam_assumed_cpu_memory_rate(uint32_t n_processors)
{
    return 6e9 * (double)(n_processors < 16 ? n_processors : 16);
}

#endif
