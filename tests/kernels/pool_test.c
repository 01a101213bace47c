/* pool: every chunk once, in any company of threads, call after call, with sleeps between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/fault.h"
#include "kernels/cpu/pool.h"

enum { CHUNKS_MAX = 100 };

struct counts {
    uint32_t n_threads;
    uint64_t call; /* plain memory: only the pool's ordering makes it safe to read */
    uint64_t seen[CHUNKS_MAX];
    _Atomic uint32_t n_runs;
};

static void count(void *arg, uint32_t chunk, uint32_t worker)
{
    struct counts *counts = arg;

    if (worker < counts->n_threads)
        counts->seen[chunk] = counts->call;
    atomic_fetch_add(&counts->n_runs, 1);
}

static void run_calls(struct lam_pool *pool, struct counts *counts, uint64_t n_calls)
{
    for (uint64_t i = 0; i < n_calls; i++) {
        uint32_t n_chunks = (uint32_t)(i * 7 % CHUNKS_MAX);
        counts->call++;
        atomic_store(&counts->n_runs, 0);
        lam_pool_run(pool, count, counts, n_chunks);
        assert_int_equal(atomic_load(&counts->n_runs), n_chunks);
        for (uint32_t chunk = 0; chunk < n_chunks; chunk++)
            assert_true(counts->seen[chunk] == counts->call);
        if (i % 500 == 499)
            lam_sleep_ns(2 * LAM_NS_PER_MS); /* long enough for the workers to fall asleep */
    }
}

static void test_every_chunk_once(void **state)
{
    (void)state;
    for (uint32_t n_threads = 1; n_threads <= 5; n_threads++) {
        struct counts counts = {.n_threads = n_threads};
        struct lam_pool *pool = NULL;
        assert_int_equal(lam_pool_create(n_threads, &pool, NULL), LAM_OK);
        run_calls(pool, &counts, 3000);
        lam_pool_destroy(pool);
    }
}

/* A chunk that takes longer than the caller's spin: the caller sleeps and is woken. */
static void sleep_in_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    lam_sleep_ns(chunk == 0 ? 0 : 20 * LAM_NS_PER_MS);
    count(arg, chunk, 0);
}

static void test_slow_chunk(void **state)
{
    struct counts counts = {.n_threads = 3, .call = 1};
    struct lam_pool *pool = NULL;

    (void)state;
    assert_int_equal(lam_pool_create(3, &pool, NULL), LAM_OK);
    for (int i = 0; i < 5; i++)
        lam_pool_run(pool, sleep_in_chunk, &counts, 2);
    assert_int_equal(atomic_load(&counts.n_runs), 10);
    lam_pool_destroy(pool);
}

static void test_start_and_stop(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct lam_pool *pool = NULL;
        assert_int_equal(lam_pool_create(4, &pool, NULL), LAM_OK);
        lam_pool_destroy(pool);
    }
    lam_pool_destroy(NULL);
}

static void test_no_memory(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct lam_pool *pool = NULL;
        struct lam_err err = {0};
        lam_fault_arm("alloc", n);
        enum lam_status status = lam_pool_create(3, &pool, &err);
        bool fired = lam_fault_fired();
        lam_fault_arm("alloc", 0);
        if (!fired) {
            assert_int_equal(status, LAM_OK);
            lam_pool_destroy(pool);
            return;
        }
        assert_int_equal(status, LAM_RESOURCE_EXHAUSTED);
        assert_null(pool);
        assert_true(err.text[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_chunk_once),
        cmocka_unit_test(test_slow_chunk),
        cmocka_unit_test(test_start_and_stop),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
