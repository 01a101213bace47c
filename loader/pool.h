/*
 * pool: the shared memory that units are read into: one sealed memfd.
 *
 * Pages: huge pages of 2 MiB when the machine has set enough aside (hugetlb), else transparent ones
 * where the kernel can make them, else 4 KiB: reads and checks cost a third less with huge ones.
 * Sealed: its size can never change (a worker cannot die of SIGBUS), and nobody but the mapping
 * made here can write to it, not even with the descriptor in hand. Populated region by region
 * before use: a page that the first read of a unit would have to fault in costs far more than the
 * read.
 */
#ifndef LAMINAR_LOADER_POOL_H
#define LAMINAR_LOADER_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/policy.h"

struct lam_pool {
    int fd;
    unsigned char *base;
    uint64_t bytes;       /* of the memfd: pool_bytes of the layout, rounded up to whole pages */
    const char *pages;    /* "hugetlb", "thp" or "4k" */
    bool asks_huge;       /* transparent huge pages are asked for in what is populated next */
    uint64_t late_ns;     /* that they have cost beyond what they should; a limit ends the asking */
    uint64_t small_bytes; /* populated in pages of 4 KiB since "thp" was said */
    char note[320];       /* why not the better kinds of pages; "" */
    /* Populated so far, and how long that took. [any thread may read] */
    atomic_uint_fast64_t ready_bytes;
    atomic_uint_fast64_t ready_ns;
};

/*
 * Makes a pool of at least `bytes` and populates the first `first_bytes` of it.
 * Errors: LAM_RESOURCE_EXHAUSTED with the size. Unmap with lam_pool_done.
 */
LAM_MUST_USE enum lam_status lam_pool_init(
    uint64_t bytes, uint64_t first_bytes, struct lam_pool *ret_pool, struct lam_err *err);

/* Populates [offset, offset + bytes), by several threads where there are processors for them.
 * Blocks; one thread at a time. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_pool_populate(
    struct lam_pool *pool, uint64_t offset, uint64_t bytes, struct lam_err *err);

void lam_pool_done(struct lam_pool *pool); /* a zeroed struct is allowed */

#endif
