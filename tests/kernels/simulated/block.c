/*
 * block: see block.h, machine.h. Lanes of a warp pass control from one to the next; where no lane
 * of a warp can go on, the host's fiber chooses another warp.
 */
#include "tests/kernels/simulated/block.h"

#include <assert.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/kernels/simulated/fault.h"
#include "tests/kernels/simulated/shared.h"
#include "tests/kernels/simulated/watch.h"

enum { WARPS_MAX = SIM_THREADS_MAX / SIM_WARP, MEETS_MAX = 8, STACK_BYTES = 256 << 10 };

/* A collective that some lanes have come to. */
struct meet {
    uint32_t mask; /* 0: not in use */
    uint32_t arrived;
    sim_work_fn work;
    const char *name;
    struct sim_site site;
    void *brought[SIM_WARP];
};

struct warp {
    uint32_t runnable;
    uint32_t at_barrier;
    uint32_t ended;
    uint64_t syncs;
    struct meet meets[MEETS_MAX];
};

static struct {
    struct sim_thread threads[SIM_THREADS_MAX];
    struct warp warps[WARPS_MAX];
    struct sim_fiber host;
    struct sim_thread *self;
    struct sim_running running;
    uint32_t n_threads;
    uint32_t n_at_barrier;
    uint32_t n_ended;
    struct sim_site barrier;
    unsigned char *stacks;
    bool broken;
} block;

const struct sim_place *sim_here;
struct sim_index sim_block;
struct sim_index sim_block_sides;
struct sim_index sim_grid_sides;

struct sim_thread *sim_self(void)
{
    return block.self;
}

const struct sim_running *sim_running(void)
{
    return &block.running;
}

bool sim_is_stack(const void *at)
{
    const unsigned char *byte = at;

    return byte >= block.stacks && byte < block.stacks + (size_t)SIM_THREADS_MAX * STACK_BYTES;
}

uint64_t sim_warp_syncs(uint32_t warp)
{
    return block.warps[warp].syncs;
}

static struct warp *own_warp(void)
{
    return &block.warps[block.self->place.number / SIM_WARP];
}

static uint32_t own_bit(void)
{
    return 1u << block.self->place.number % SIM_WARP;
}

static void pass_to(struct sim_thread *next)
{
    struct sim_thread *self = block.self;

    block.self = next;
    sim_here = next != NULL ? &next->place : NULL;
    sim_fiber_pass(
        self != NULL ? &self->fiber : &block.host, next != NULL ? &next->fiber : &block.host);
}

/* Control to the next lane of the warp that can go on, else to the host. */
static void pass_on(const struct warp *warp)
{
    uint32_t number = block.self->place.number;
    uint32_t lane = number % SIM_WARP;
    uint32_t behind = lane + 1 < SIM_WARP ? warp->runnable >> (lane + 1) << (lane + 1) : 0;
    uint32_t among = behind != 0 ? behind : warp->runnable;

    if (among == 0 || block.broken)
        pass_to(NULL);
    else
        pass_to(&block.threads[number - lane + (uint32_t)__builtin_ctz(among)]);
}

__attribute__((format(printf, 1, 0))) static void tell(const char *format, va_list args)
{
    char text[400];

    (void)vsnprintf(text, sizeof(text), format, args);
    sim_fault("block (%u, %u, %u)%s", sim_block.x, sim_block.y, sim_block.z, text);
    block.broken = true;
}

__attribute__((format(printf, 1, 2))) static void tell_all(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    tell(format, args);
    va_end(args);
}

void sim_break(const char *format, ...)
{
    char text[300];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    tell_all(" thread %u: %s", block.self->place.number, text);
    pass_to(NULL);
    __builtin_unreachable(); /* nobody passes control to a thread of a broken launch */
}

/* The collective of this mask, which nobody of it may be kept from. */
static struct meet *find_meet(struct warp *warp, uint32_t mask, sim_work_fn work, const char *name,
    const struct sim_site *site)
{
    struct meet *unused = NULL;

    if ((mask & own_bit()) == 0)
        sim_break("%s (%s:%d): the mask %08x is without the lane itself", name, site->file,
            site->line, mask);
    if ((mask & warp->ended) != 0)
        sim_break("%s (%s:%d): lanes %08x of the mask have ended", name, site->file, site->line,
            mask & warp->ended);
    for (uint32_t i = 0; i < MEETS_MAX; i++) {
        struct meet *meet = &warp->meets[i];
        if (meet->mask == 0) {
            unused = unused != NULL ? unused : meet;
            continue;
        }
        if ((meet->mask & mask) == 0)
            continue;
        if (meet->mask == mask && meet->work == work && meet->site.line == site->line)
            return meet;
        sim_break("lanes %08x of the warp are in %s (%s:%d) with mask %08x, this one is in %s "
                  "(%s:%d) with mask %08x",
            meet->arrived, meet->name, meet->site.file, meet->site.line, meet->mask, name,
            site->file, site->line, mask);
    }
    if ((mask & warp->at_barrier) != 0)
        sim_break("%s (%s:%d): lanes %08x of the mask wait at the block's barrier (%s:%d)", name,
            site->file, site->line, mask & warp->at_barrier, block.barrier.file,
            block.barrier.line);
    if (unused == NULL)
        sim_break("%s (%s:%d): more than %d collectives of a warp at once", name, site->file,
            site->line, MEETS_MAX);
    *unused = (struct meet){.mask = mask, .work = work, .name = name, .site = *site};
    return unused;
}

void sim_meet(
    uint32_t mask, sim_work_fn work, void *brought, const char *name, const struct sim_site *site)
{
    struct warp *warp = own_warp();
    struct meet *meet = find_meet(warp, mask, work, name, site);

    meet->brought[block.self->place.number % SIM_WARP] = brought;
    meet->arrived |= own_bit();
    if (meet->arrived == mask) {
        if (work != NULL)
            work(meet->brought);
        else if (mask == 0xFFFFFFFFu)
            warp->syncs++;
        meet->mask = 0;
        warp->runnable |= mask;
        return;
    }
    warp->runnable &= ~own_bit();
    pass_on(warp);
}

void sim_sync_warp(uint32_t mask, const struct sim_site *site)
{
    sim_meet(mask, NULL, NULL, "__syncwarp", site);
}

void sim_sync_threads(const struct sim_site *site)
{
    struct warp *warp = own_warp();

    block.barrier = *site;
    for (uint32_t i = 0; i < MEETS_MAX; i++) {
        const struct meet *meet = &warp->meets[i];
        if ((meet->mask & own_bit()) != 0)
            sim_break("__syncthreads (%s:%d): lanes %08x of the warp wait for it in %s (%s:%d)",
                site->file, site->line, meet->arrived, meet->name, meet->site.file,
                meet->site.line);
    }
    warp->at_barrier |= own_bit();
    warp->runnable &= ~own_bit();
    if (++block.n_at_barrier < block.n_threads) {
        pass_on(warp);
        return;
    }
    block.n_at_barrier = 0;
    block.running.barriers++;
    for (uint32_t w = 0; w < WARPS_MAX; w++) {
        block.warps[w].runnable |= block.warps[w].at_barrier;
        block.warps[w].at_barrier = 0;
        block.warps[w].syncs++;
    }
}

void sim_wait_for_predecessors(void)
{
    block.self->has_waited = true;
}

void sim_let_successors_begin(void)
{
}

/* What a fiber does. */
static void run_thread(void)
{
    const struct sim_launch *launch = block.running.launch;

    launch->body(launch->params);
    if (launch->overlaps && !block.self->has_waited)
        sim_break("ended without waiting for the predecessors of its launch");
    struct warp *warp = own_warp();
    warp->ended |= own_bit();
    warp->runnable &= ~own_bit();
    block.n_ended++;
    pass_on(warp);
    __builtin_unreachable(); /* it is not runnable any more */
}

/* Nobody can go on, and not all have ended. */
static void tell_stuck(void)
{
    for (uint32_t w = 0; w < WARPS_MAX; w++) {
        for (uint32_t i = 0; i < MEETS_MAX; i++) {
            const struct meet *meet = &block.warps[w].meets[i];
            if (meet->mask == 0)
                continue;
            tell_all(": warp %u: lanes %08x wait in %s (%s:%d) for lanes %08x, which %s", w,
                meet->arrived, meet->name, meet->site.file, meet->site.line,
                meet->mask & ~meet->arrived,
                (meet->mask & block.warps[w].ended) != 0 ? "have ended" : "wait elsewhere");
            return;
        }
    }
    tell_all(": %u of %u threads wait at the barrier (%s:%d), %u have ended", block.n_at_barrier,
        block.n_threads, block.barrier.file, block.barrier.line, block.n_ended);
}

static void begin_block(const struct sim_launch *launch)
{
    uint32_t number = 0;

    memset(block.warps, 0, sizeof(block.warps));
    block.n_ended = 0;
    block.n_at_barrier = 0;
    for (uint32_t z = 0; z < launch->block.z; z++) {
        for (uint32_t y = 0; y < launch->block.y; y++) {
            for (uint32_t x = 0; x < launch->block.x; x++) {
                struct sim_thread *thread = &block.threads[number];
                thread->place = (struct sim_place){{x, y, z}, number};
                thread->fiber.stack = block.stacks + (size_t)number * STACK_BYTES;
                thread->fiber.stack_bytes = STACK_BYTES;
                thread->copies.begin = thread->copies.end = thread->copies.group = 0;
                thread->has_waited = false;
                sim_fiber_begin(&thread->fiber, run_thread, number);
                block.warps[number / SIM_WARP].runnable |= 1u << number % SIM_WARP;
                number++;
            }
        }
    }
    sim_smem_begin(launch->smem_bytes);
    sim_watch_block();
}

/* backwards: the last warp first. */
static void run_block(const struct sim_launch *launch, bool backwards)
{
    uint32_t n_warps = (block.n_threads + SIM_WARP - 1) / SIM_WARP;

    begin_block(launch);
    while (block.n_ended < block.n_threads && !block.broken) {
        bool moved = false;
        for (uint32_t i = 0; i < n_warps && !block.broken; i++) {
            uint32_t w = backwards ? n_warps - 1 - i : i;
            uint32_t runnable = block.warps[w].runnable;
            if (runnable == 0)
                continue;
            moved = true;
            pass_to(&block.threads[w * SIM_WARP + (uint32_t)__builtin_ctz(runnable)]);
        }
        if (!moved)
            tell_stuck();
    }
}

/* A fault of the CPU in a kernel is final: whoever handles the signal (cmocka) would go on behind
 * a call that never returns. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    static char text[200];

    (void)context;
    int length = snprintf(text, sizeof(text),
        "simulated GPU: signal %d at %p in block (%u, %u, %u) thread %u\n", number, info->si_addr,
        sim_block.x, sim_block.y, sim_block.z, sim_here != NULL ? sim_here->number : 0);
    if (write(STDERR_FILENO, text, (size_t)length) == length)
        (void)raise(number); /* as if there were no handler */
}

static void guard(const int *signals, struct sigaction *ret_old, size_t n)
{
    struct sigaction own = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | (int)SA_RESETHAND};

    for (size_t i = 0; i < n; i++)
        (void)sigaction(signals[i], &own, &ret_old[i]);
}

bool sim_run(const struct sim_launch *launch, uint64_t number, uint64_t chain_begin, uint64_t order)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    enum { N_SIGNALS = sizeof(signals) / sizeof(signals[0]) };
    struct sigaction old[N_SIGNALS];
    uint64_t n_blocks = (uint64_t)launch->grid.x * launch->grid.y * launch->grid.z;

    if (block.stacks == NULL) {
        block.stacks = mmap(NULL, (size_t)SIM_THREADS_MAX * STACK_BYTES, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        assert(block.stacks != MAP_FAILED);
    }
    block.broken = false;
    block.n_threads = launch->block.x * launch->block.y * launch->block.z;
    block.running = (struct sim_running){.launch = launch,
        .number = number,
        .chain_begin = chain_begin,
        .copies_early = order % 2 != 0};
    guard(signals, old, N_SIGNALS);
    sim_block_sides = launch->block;
    sim_grid_sides = launch->grid;
    for (uint64_t i = 0; i < n_blocks && !block.broken; i++) {
        uint64_t at = order / 2 % 2 != 0 ? n_blocks - 1 - i : i;
        sim_block.x = (uint32_t)(at % launch->grid.x);
        sim_block.y = (uint32_t)(at / launch->grid.x % launch->grid.y);
        sim_block.z = (uint32_t)(at / launch->grid.x / launch->grid.y);
        run_block(launch, order / 4 % 2 != 0);
    }
    for (size_t i = 0; i < N_SIGNALS; i++)
        (void)sigaction(signals[i], &old[i], NULL);
    block.running.launch = NULL;
    return !block.broken;
}
