/*
 * profile: where the time of a pass went. Device times come from marks in the device's queues
 * (kernels/device.h), not from a clock on the host, which only sees when work was queued.
 *
 * Waiting is what the arithmetic waited for: a copy beside the arithmetic costs nothing. When a
 * piece of weights came late, its wait is the disk's as far as the host was blocked for its unit,
 * and the link's for the rest.
 */
#ifndef LAMINAR_WORKER_PROFILE_H
#define LAMINAR_WORKER_PROFILE_H

#include <stdint.h>

struct lam_pass_profile {
    uint64_t begin_ns;       /* lam_now_ns */
    uint64_t wall_ns;        /* from the checked step to logits on the host */
    uint64_t disk_wait_ns;   /* for units that the loader did not have yet, and embedding rows */
    uint64_t link_wait_ns;   /* for copies; CPU: 0 */
    uint64_t compute_ns;     /* device: the rest of its time; CPU: the rest of wall_ns */
    uint64_t copy_ns;        /* that large copies took, beside the arithmetic; CPU: 0 */
    uint64_t link_bytes;     /* weights that came over the link */
    uint64_t resident_bytes; /* weights that were read where they stay; CPU: all */
    uint64_t floor_ns;       /* the slowest of disk, link and memory with nothing else to do */
    uint32_t n_rows;
};

#endif
