/*
 * memory: see memory.h. An allocation is mapped from a file of 2 MiB, all ones, over and over:
 * private, so that a page is made when it is written.
 */
#include "tests/kernels/simulated/memory.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALLOCATIONS_MAX = 64, PATTERN_BYTES = 2 << 20, POISON = 0xFF };

struct range {
    const unsigned char *begin; /* NULL: not in use */
    uint64_t bytes;
};

static struct range allocations[ALLOCATIONS_MAX];
static uint32_t *writers[ALLOCATIONS_MAX]; /* as large as the allocation: a number for each word */
static struct range pins[SIM_PINS_MAX];
static uint64_t allocated_bytes;

static uint64_t whole_patterns(uint64_t bytes)
{
    return (bytes + PATTERN_BYTES - 1) / PATTERN_BYTES * PATTERN_BYTES;
}

/* A file of PATTERN_BYTES, or -1. */
static int make_pattern(void)
{
    int fd = memfd_create("unwritten device memory", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, PATTERN_BYTES) != 0)
        return -1;
    void *all = mmap(NULL, PATTERN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (all == MAP_FAILED)
        return -1;
    memset(all, POISON, PATTERN_BYTES);
    (void)munmap(all, PATTERN_BYTES);
    return fd;
}

static unsigned char *map(uint64_t bytes)
{
    static int pattern = -1;
    unsigned char *base;

    if (pattern < 0)
        pattern = make_pattern();
    if (pattern < 0)
        return NULL;
    base = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    for (uint64_t at = 0; at < bytes; at += PATTERN_BYTES) {
        if (mmap(base + at, PATTERN_BYTES, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, pattern, 0) == MAP_FAILED)
            return NULL;
    }
    return base;
}

void *sim_memory_take(size_t bytes)
{
    uint64_t mapped_bytes = whole_patterns(bytes);

    if (bytes == 0 || bytes > SIM_TOTAL_BYTES - sim_memory_held())
        return NULL;
    for (uint32_t i = 0; i < ALLOCATIONS_MAX; i++) {
        if (allocations[i].begin != NULL)
            continue;
        unsigned char *base = map(mapped_bytes);
        void *own = mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == NULL || own == MAP_FAILED)
            return NULL;
        writers[i] = own;
        allocations[i] = (struct range){base, bytes};
        allocated_bytes += mapped_bytes;
        return base;
    }
    return NULL;
}

bool sim_memory_give(void *memory)
{
    for (uint32_t i = 0; i < ALLOCATIONS_MAX; i++) {
        if (allocations[i].begin != memory)
            continue;
        allocated_bytes -= whole_patterns(allocations[i].bytes);
        (void)munmap(memory, whole_patterns(allocations[i].bytes));
        (void)munmap(writers[i], whole_patterns(allocations[i].bytes));
        allocations[i].begin = NULL;
        return true;
    }
    return false;
}

uint64_t sim_memory_held(void)
{
    return SIM_CONTEXT_BYTES + allocated_bytes;
}

static bool lies_in(const struct range *range, const unsigned char *byte, uint64_t bytes)
{
    return range->begin != NULL && byte >= range->begin &&
           byte + bytes <= range->begin + range->bytes;
}

/* The allocation around it, ALLOCATIONS_MAX if there is none: mostly the one of the last time. */
static uint32_t find(const unsigned char *byte, uint64_t bytes)
{
    static uint32_t last;

    if (lies_in(&allocations[last], byte, bytes))
        return last;
    for (uint32_t i = 0; i < ALLOCATIONS_MAX; i++) {
        if (lies_in(&allocations[i], byte, bytes)) {
            last = i;
            return i;
        }
    }
    return ALLOCATIONS_MAX;
}

bool sim_memory_has(const void *at, uint64_t bytes)
{
    return find(at, bytes) < ALLOCATIONS_MAX;
}

uint32_t *sim_memory_writer(const void *at)
{
    uint32_t i = find(at, 1);

    return i < ALLOCATIONS_MAX ? writers[i] + ((const unsigned char *)at - allocations[i].begin) / 4
                               : NULL;
}

bool sim_pin_add(const void *base, uint64_t bytes)
{
    for (uint32_t i = 0; i < SIM_PINS_MAX; i++) {
        if (pins[i].begin == base)
            return false;
    }
    for (uint32_t i = 0; i < SIM_PINS_MAX; i++) {
        if (pins[i].begin == NULL) {
            pins[i] = (struct range){base, bytes};
            return true;
        }
    }
    return false;
}

bool sim_pin_remove(const void *base)
{
    for (uint32_t i = 0; i < SIM_PINS_MAX; i++) {
        if (pins[i].begin == base) {
            pins[i].begin = NULL;
            return true;
        }
    }
    return false;
}

enum sim_pin sim_pin_of(const void *at, uint64_t bytes)
{
    const unsigned char *byte = at;

    for (uint32_t i = 0; i < SIM_PINS_MAX; i++) {
        const struct range *pin = &pins[i];
        if (pin->begin == NULL || byte < pin->begin || byte >= pin->begin + pin->bytes)
            continue;
        return byte + bytes <= pin->begin + pin->bytes ? SIM_PINNED : SIM_PIN_CROSSED;
    }
    return SIM_NOT_PINNED;
}
