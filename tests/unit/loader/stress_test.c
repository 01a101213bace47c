/*
 * stress: a loader and a handful of workers in one process, all at once, for the thread sanitizer
 * above all: sessions that walk, end in every way and begin again, while another thread asks for
 * statistics and rows.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/loader/live_loader.h"

#define N_WORKERS 5
#define RUN_NS (4 * LAM_NS_PER_S)

static atomic_bool stopping;
static atomic_uint n_taken, n_ended;

struct walker {
    pthread_t thread;
    uint64_t rng;
};

static uint32_t random_below(struct walker *walker, uint32_t n)
{
    walker->rng = walker->rng * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(walker->rng >> 33) % n;
}

/* Until it has had enough, or the stream ends. */
static void walk_for_a_while(struct walker *walker, struct pool_worker *worker)
{
    uint32_t n_units = 5 + random_below(walker, 100);

    pool_worker_credit(worker, 1 + random_below(walker, 4));
    for (uint32_t i = 0; i < n_units && !atomic_load(&stopping); i++) {
        struct pool_event event;

        if (pool_worker_next(worker, &event, NULL) != LAM_OK)
            return;
        live_check_unit(worker, &event);
        atomic_fetch_add(&n_taken, 1);
        if (event.kept)
            continue;
        pool_worker_release(worker, event.unit, event.generation);
        pool_worker_credit(worker, 1);
    }
}

static void *walk(void *arg)
{
    struct walker *walker = arg;

    while (!atomic_load(&stopping)) {
        struct pool_worker worker;

        pool_worker_connect(&worker, live_model.dir);
        pool_worker_open(&worker);
        walk_for_a_while(walker, &worker);
        atomic_fetch_add(&n_ended, 1);
        if (random_below(walker, 3) == 0) { /* the connection first, as when a process dies */
            close(worker.connection);
            worker.connection = -1;
        } else if (random_below(walker, 2) == 0) {
            lam_rpc_stream_cancel(worker.stream);
        }
        pool_worker_disconnect(&worker);
    }
    return NULL;
}

static bool has_seen_enough(void)
{
    return atomic_load(&n_taken) > 100 && atomic_load(&n_ended) > N_WORKERS;
}

static void many_sessions_at_once(void **state)
{
    static struct walker walkers[N_WORKERS];
    const struct lam_extent *rows = &live_manifest.embedding;
    struct lam_loader *loader;
    struct pool_worker observer;
    uint64_t end_ns = lam_now_ns() + RUN_NS;
    char text[32];

    (void)state;
    live_options.n_workers = N_WORKERS;
    loader = live_start(live_share(80, text), LAM_READER_AUTO);
    pool_worker_connect(&observer, live_model.dir);
    for (uint32_t w = 0; w < N_WORKERS; w++) {
        walkers[w].rng = w + 1;
        assert_int_equal(pthread_create(&walkers[w].thread, NULL, walk, &walkers[w]), 0);
    }
    while (lam_now_ns() < end_ns || !has_seen_enough()) {
        Laminar__V1__ReadExtentResponse *response;
        uint64_t offset = rows->file_offset;

        assert_true(pool_worker_stats(&observer)->sessions <= N_WORKERS);
        assert_int_equal(
            pool_worker_extent(&observer, &offset, 1, rows->row_bytes, &response, NULL), LAM_OK);
        assert_memory_equal(response->data.data, live_model.bytes + offset, rows->row_bytes);
        lam_sleep_ns(LAM_NS_PER_MS);
    }
    atomic_store(&stopping, true);
    for (uint32_t w = 0; w < N_WORKERS; w++)
        pthread_join(walkers[w].thread, NULL);
    assert_int_equal(live_leases_after(&observer, LIVE_LIMIT_NS), 0);
    print_message(
        "%u units taken, %u sessions ended\n", atomic_load(&n_taken), atomic_load(&n_ended));
    pool_worker_open(&observer);
    live_walk(&observer, 2);
    pool_worker_disconnect(&observer);
    lam_loader_destroy(loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(many_sessions_at_once)};

    lam_log_init("stress_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, live_set_up, live_tear_down);
}
