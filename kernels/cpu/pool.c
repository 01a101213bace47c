/*
 * pool: see pool.h. The open job is one 64-bit ticket: call number and chunks that nobody has
 * taken. A thread takes a chunk by compare-and-swap on the ticket, so a late thread can never take
 * a chunk of a call that is over, and while it holds a chunk the call's fields (fn, arg, n_chunks)
 * cannot change.
 */
#include "kernels/cpu/pool.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/mem.h"

enum {
    IDLE_SPINS = 500,  /* some 30 us: covers the serial work between two calls of a forward pass */
    DONE_SPINS = 5000, /* longer: the other thread is inside our chunk, unless it lost its core */
};

struct worker {
    struct lam_pool *pool;
    uint32_t index;
    pthread_t thread;
};

struct lam_pool {
    uint32_t n_threads;
    uint32_t n_started; /* worker threads that run, without the caller */
    struct worker *workers;

    /* The call: written by the caller while no chunk is out. */
    lam_chunk_fn fn;
    void *arg;
    uint32_t n_chunks;

    _Alignas(64) _Atomic uint64_t ticket; /* call number << 32 | chunks left to take */
    _Alignas(64) _Atomic uint32_t n_done; /* chunks of this call that are complete; a futex */
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t bell; /* changes when there is work or an end; a futex */
    _Atomic uint32_t n_sleepers;
    _Atomic bool stop;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* Takes and runs chunks until none is left. */
static void work(struct lam_pool *pool, uint32_t worker)
{
    uint64_t ticket = atomic_load(&pool->ticket);

    while ((uint32_t)ticket != 0) {
        if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket - 1))
            continue;
        uint32_t n_chunks = pool->n_chunks;
        pool->fn(pool->arg, n_chunks - (uint32_t)ticket, worker);
        /* After the last increment the caller may return and reuse the fields. */
        if (atomic_fetch_add(&pool->n_done, 1) + 1 == n_chunks && atomic_load(&pool->caller_sleeps))
            futex_wake_all(&pool->n_done);
        ticket = atomic_load(&pool->ticket);
    }
}

static bool has_work(struct lam_pool *pool)
{
    return (uint32_t)atomic_load(&pool->ticket) != 0 || atomic_load(&pool->stop);
}

/* Returns when there is work or the end has come. */
static void wait_for_work(struct lam_pool *pool)
{
    for (int i = 0; i < IDLE_SPINS; i++) {
        if (has_work(pool))
            return;
        _mm_pause();
    }
    /* The order matters: announce, look again. The caller publishes, then looks for sleepers. */
    atomic_fetch_add(&pool->n_sleepers, 1);
    for (;;) {
        uint32_t bell = atomic_load(&pool->bell);
        if (has_work(pool))
            break;
        futex_wait(&pool->bell, bell);
    }
    atomic_fetch_sub(&pool->n_sleepers, 1);
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;

    while (!atomic_load(&worker->pool->stop)) {
        wait_for_work(worker->pool);
        work(worker->pool, worker->index);
    }
    return NULL;
}

static void ring(struct lam_pool *pool)
{
    atomic_fetch_add(&pool->bell, 1);
    if (atomic_load(&pool->n_sleepers) > 0)
        futex_wake_all(&pool->bell);
}

void lam_pool_destroy(struct lam_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->stop, true);
    ring(pool);
    for (uint32_t i = 0; i < pool->n_started; i++)
        (void)pthread_join(pool->workers[i].thread, NULL);
    lam_free(pool->workers);
    lam_free(pool);
}

enum lam_status lam_pool_create(uint32_t n_threads, struct lam_pool **ret_pool, struct lam_err *err)
{
    struct lam_pool *pool = lam_aligned_calloc(64, sizeof(*pool));

    if (pool == NULL)
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "no memory for a pool of %u threads", n_threads);
    pool->n_threads = n_threads;
    pool->workers = lam_calloc(n_threads, sizeof(*pool->workers));
    if (pool->workers == NULL) {
        lam_pool_destroy(pool);
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "no memory for a pool of %u threads", n_threads);
    }
    for (uint32_t i = 0; i + 1 < n_threads; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->index = i + 1;
        int failure = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (failure != 0) {
            lam_pool_destroy(pool);
            return lam_fail_errno(err, failure,
                "cannot start compute thread %u of %u; lower --threads", i + 1, n_threads);
        }
        pool->n_started++;
    }
    *ret_pool = pool;
    return LAM_OK;
}

static void wait_for_done(struct lam_pool *pool)
{
    for (int i = 0; i < DONE_SPINS; i++) {
        if (atomic_load(&pool->n_done) == pool->n_chunks)
            return;
        _mm_pause();
    }
    atomic_store(&pool->caller_sleeps, 1);
    for (;;) {
        uint32_t n_done = atomic_load(&pool->n_done);
        if (n_done == pool->n_chunks)
            break;
        futex_wait(&pool->n_done, n_done);
    }
    atomic_store(&pool->caller_sleeps, 0);
}

void lam_pool_run(struct lam_pool *pool, lam_chunk_fn fn, void *arg, uint32_t n_chunks)
{
    uint64_t call = (atomic_load(&pool->ticket) >> 32) + 1;

    if (n_chunks <= 1 || pool->n_threads == 1) {
        for (uint32_t chunk = 0; chunk < n_chunks; chunk++)
            fn(arg, chunk, 0);
        return;
    }
    pool->fn = fn;
    pool->arg = arg;
    pool->n_chunks = n_chunks;
    atomic_store(&pool->n_done, 0);
    atomic_store(&pool->ticket, call << 32 | n_chunks);
    ring(pool);
    work(pool, 0);
    wait_for_done(pool);
}
