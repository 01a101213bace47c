/*
 * map: memory that several processes share, mapped so that the kernel can use huge pages for it.
 */
#ifndef LAMINAR_COMMON_MAP_H
#define LAMINAR_COMMON_MAP_H

#include <stdint.h>

/* What the kernel calls a huge page on the machines that we build for. */
#define LAM_HUGE_PAGE_BYTES ((uint64_t)2 << 20)

/*
 * The first `bytes` of fd, shared, with `protection` of mmap, at a multiple of LAM_HUGE_PAGE_BYTES:
 * elsewhere a huge page of the file could only be mapped in small pieces, at a cost for each of
 * them when it is first touched and in the processor's address cache ever after.
 * MAP_FAILED, with errno, as from mmap; munmap(base, bytes) gives it back.
 */
void *lam_map_shared(int fd, uint64_t bytes, int protection);

#endif
