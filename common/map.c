/* map: see map.h. */
#include "common/map.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#include "common/size.h"

#define PAGE_BYTES 4096u

void *lam_map_shared(int fd, uint64_t bytes, int protection)
{
    uint64_t room_bytes, ahead_bytes;
    unsigned char *room, *base;

    if (bytes == 0 || __builtin_add_overflow(bytes, LAM_HUGE_PAGE_BYTES, &room_bytes)) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    /* A stretch that holds such a place is set aside, and what is not needed of it given back. */
    room = mmap(NULL, room_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    ahead_bytes = -(uintptr_t)room % LAM_HUGE_PAGE_BYTES;
    base = mmap(room + ahead_bytes, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0);
    if (base == MAP_FAILED) {
        int saved = errno;

        munmap(room, room_bytes);
        errno = saved;
        return MAP_FAILED;
    }
    if (ahead_bytes > 0)
        munmap(room, ahead_bytes);
    bytes = lam_align_up(bytes, PAGE_BYTES);
    if (ahead_bytes + bytes < room_bytes)
        munmap(base + bytes, room_bytes - ahead_bytes - bytes);
    return base;
}
