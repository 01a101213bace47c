/*
 * watch: see watch.h. Of each byte of shared memory it knows the last write and the last reads:
 * when, by the barriers and warp syncs that had passed, and by whom. Of each word of the device's
 * memory it knows the last launch that wrote there.
 */
#include "tests/kernels/simulated/watch.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/kernels/simulated/block.h"
#include "tests/kernels/simulated/fault.h"
#include "tests/kernels/simulated/memory.h"
#include "tests/kernels/simulated/shared.h"

enum { SHARED_MAX = 512 << 10 };

/* A moment in a block, of one thread: two accesses are ordered when `barriers` differ or, within a
 * warp, `syncs` do. */
struct moment {
    uint32_t barriers; /* 0: never */
    uint32_t syncs;
    uint32_t thread;
};

struct cell {
    struct moment write;
    struct moment read;   /* the last one */
    uint32_t copying;     /* the block in which a copy began to bring this byte, or 0 */
    bool more_lanes_read; /* of the same warp, at the same time */
    bool more_warps_read; /* since the same barrier */
};

static struct cell cells[SHARED_MAX];
/* Both go on from block to block. */
static uint32_t n_barriers;
static uint32_t n_blocks;
static uint64_t barriers_seen; /* of the block's */

void sim_watch_block(void)
{
    n_blocks++;
    n_barriers++;
    barriers_seen = sim_running()->barriers;
}

static struct moment now(void)
{
    uint32_t number = sim_here->number;

    n_barriers += (uint32_t)(sim_running()->barriers - barriers_seen);
    barriers_seen = sim_running()->barriers;
    return (struct moment){n_barriers, (uint32_t)sim_warp_syncs(number / SIM_WARP), number};
}

/* Whether nothing orders an access of another thread and one of this moment. */
static bool races(const struct moment *other, const struct moment *own)
{
    return other->barriers == own->barriers && other->thread != own->thread &&
           (other->thread / SIM_WARP != own->thread / SIM_WARP || other->syncs == own->syncs);
}

/* Where the kernel is: an address of this library, for addr2line. */
static uint64_t place_of(const void *caller)
{
    Dl_info info;

    if (caller == NULL || dladdr(caller, &info) == 0)
        return 0;
    return (uint64_t)((uintptr_t)caller - (uintptr_t)info.dli_fbase);
}

__attribute__((noreturn)) static void break_race(
    const char *what, const void *at, const char *before, uint32_t other, const void *caller)
{
    sim_break("%s byte %#x of shared memory, which thread %u %s, with nothing between that orders "
              "them (addr2line -e liblaminar-cuda.so %#llx)",
        what, sim_shared_address(at), other, before, (unsigned long long)place_of(caller));
}

static void check_copying(
    const struct cell *cell, const char *what, const void *at, const void *caller)
{
    if (cell->copying == n_blocks)
        sim_break("%s byte %#x of shared memory, which a copy is still bringing (addr2line -e "
                  "liblaminar-cuda.so %#llx)",
            what, sim_shared_address(at), (unsigned long long)place_of(caller));
}

static struct cell *cell_of(const void *at)
{
    size_t index = (size_t)((const uint8_t *)at - sim_shared_base());

    return index < SHARED_MAX ? &cells[index] : NULL;
}

static void shared_read(const uint8_t *at, uint32_t bytes, const void *caller)
{
    struct moment own = now();

    for (uint32_t i = 0; i < bytes; i++) {
        struct cell *cell = cell_of(at + i);
        if (cell == NULL)
            return;
        check_copying(cell, "reads", at + i, caller);
        if (races(&cell->write, &own))
            break_race("reads", at + i, "wrote", cell->write.thread, caller);
        bool same_period = cell->read.barriers == own.barriers;
        bool same_warp = cell->read.thread / SIM_WARP == own.thread / SIM_WARP;
        if (same_period && !same_warp) {
            cell->more_warps_read = true;
            continue;
        }
        bool same_time = same_period && cell->read.syncs == own.syncs;
        cell->more_lanes_read =
            same_time && (cell->more_lanes_read || cell->read.thread != own.thread);
        cell->more_warps_read = same_period && cell->more_warps_read;
        cell->read = own;
    }
}

static void shared_write(const uint8_t *at, uint32_t bytes, const char *what, const void *caller)
{
    struct moment own = now();

    for (uint32_t i = 0; i < bytes; i++) {
        struct cell *cell = cell_of(at + i);
        if (cell == NULL)
            return;
        check_copying(cell, what, at + i, caller);
        if (races(&cell->write, &own))
            break_race(what, at + i, "wrote", cell->write.thread, caller);
        bool more = (cell->more_warps_read && cell->read.barriers == own.barriers) ||
                    (cell->more_lanes_read && cell->read.barriers == own.barriers &&
                        cell->read.syncs == own.syncs);
        if (more || races(&cell->read, &own))
            break_race(what, at + i, more ? "and others read" : "read", cell->read.thread, caller);
        cell->write = own;
    }
}

void sim_watch_copy_end(const void *to, uint32_t bytes)
{
    const uint8_t *at = to;
    struct moment own = now();

    for (uint32_t i = 0; i < bytes && cell_of(at + i) != NULL; i++) {
        struct cell *cell = cell_of(at + i);
        cell->copying = 0;
        cell->write = own;
    }
}

/* The device's memory: launches by word. */

static void device_read(const uint8_t *at, uint32_t bytes, const void *caller)
{
    const struct sim_running *running = sim_running();

    if (sim_self()->has_waited || !running->launch->overlaps)
        return;
    for (uint32_t i = 0; i < bytes; i += 4) {
        const uint32_t *writer = sim_memory_writer(at + i);
        if (writer != NULL && *writer >= running->chain_begin && *writer < running->number)
            sim_break("reads %p before it waits for its predecessors, one of which wrote it "
                      "(addr2line -e liblaminar-cuda.so %#llx)",
                (const void *)(at + i), (unsigned long long)place_of(caller));
    }
}

static void device_write(const uint8_t *at, uint32_t bytes, const void *caller)
{
    const struct sim_running *running = sim_running();

    if (!sim_self()->has_waited && running->launch->overlaps)
        sim_break("writes %p before it waits for its predecessors (addr2line -e "
                  "liblaminar-cuda.so %#llx)",
            (const void *)at, (unsigned long long)place_of(caller));
    for (uint32_t i = 0; i < bytes; i += 4) {
        uint32_t *writer = sim_memory_writer(at + i);
        if (writer != NULL)
            *writer = (uint32_t)running->number;
    }
}

/* Whether a thread may have it: its stack, its arguments, its index, constants of the library. */
static bool is_own(const uint8_t *at)
{
    static uint8_t *image[2];
    const struct sim_launch *launch = sim_running()->launch;
    const uint8_t *params = launch->params;

    if (at >= params && at < params + launch->param_bytes)
        return true;
    if (image[0] == NULL)
        sim_find_image(&image[0], &image[1]);
    return at >= image[0] && at < image[1];
}

static void access(const void *at, uint32_t bytes, bool writes, const void *caller)
{
    if (sim_self() == NULL || sim_is_stack(at))
        return;
    if (sim_is_shared(at)) {
        if (writes)
            shared_write(at, bytes, "writes", caller);
        else
            shared_read(at, bytes, caller);
    } else if (sim_memory_has(at, bytes)) {
        if (writes)
            device_write(at, bytes, caller);
        else
            device_read(at, bytes, caller);
    } else if (!is_own(at) || writes) {
        sim_break(
            "%s %p, which is not memory of the device (addr2line -e liblaminar-cuda.so %#llx)",
            writes ? "writes" : "reads", at, (unsigned long long)place_of(caller));
    }
}

static void aligned(const void *at, uint32_t bytes, bool writes, const void *caller)
{
    if ((uintptr_t)at % bytes != 0 && sim_self() != NULL)
        sim_break("%s %u bytes at %p: not aligned (addr2line -e liblaminar-cuda.so %#llx)",
            writes ? "writes" : "reads", bytes, at, (unsigned long long)place_of(caller));
    access(at, bytes, writes, caller);
}

void sim_watch_read(const void *at, uint32_t bytes)
{
    access(at, bytes, false, __builtin_return_address(0));
}

void sim_watch_copy_begin(const void *to, const void *from, uint32_t bytes)
{
    const uint8_t *at = to;
    const void *caller = __builtin_return_address(0);

    if (!sim_memory_has(from, bytes))
        sim_break("cp.async from %p, which is not memory of the device", from);
    device_read(from, bytes, caller);
    shared_write(at, bytes, "copies to", caller);
    for (uint32_t i = 0; i < bytes && cell_of(at + i) != NULL; i++)
        cell_of(at + i)->copying = n_blocks;
}

void sim_atomic(const void *at, uint32_t bytes)
{
    if (sim_memory_has(at, bytes))
        device_write(at, bytes, __builtin_return_address(0));
}

/* What -fsanitize=thread calls. */
void __tsan_init(void);
void __tsan_func_entry(void *caller);
void __tsan_func_exit(void);
void __tsan_read_range(void *at, size_t bytes);
void __tsan_write_range(void *at, size_t bytes);

void __tsan_init(void)
{
}

void __tsan_func_entry(void *caller)
{
    (void)caller;
}

void __tsan_func_exit(void)
{
}

void __tsan_read_range(void *at, size_t bytes)
{
    access(at, (uint32_t)bytes, false, __builtin_return_address(0));
}

void __tsan_write_range(void *at, size_t bytes)
{
    access(at, (uint32_t)bytes, true, __builtin_return_address(0));
}

#define ACCESS(name, bytes, check, writes)                                                         \
    void __tsan_##name##bytes(void *at);                                                           \
    void __tsan_##name##bytes(void *at)                                                            \
    {                                                                                              \
        check(at, bytes, writes, __builtin_return_address(0));                                     \
    }
#define ACCESSES(bytes)                                                                            \
    ACCESS(read, bytes, aligned, false)                                                            \
    ACCESS(write, bytes, aligned, true)                                                            \
    ACCESS(unaligned_read, bytes, access, false)                                                   \
    ACCESS(unaligned_write, bytes, access, true)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
