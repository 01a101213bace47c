/*
 * reads: a drive that answers little, late or with errors. The bytes are the same, or a status
 * says why not; never wrong bytes, and units that can be read still come.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/fault/faulty_mount.h"
#include "tests/unit/loader/live_loader.h"

#define STUCK "stall 600000" /* until it is cleared */

static const enum lam_reader_choice engines[] = {LAM_READER_AUTO, LAM_READER_PREAD};

static void short_reads_are_completed(void **state)
{
    (void)state;
    faulty_need();
    for (int i = 0; i < 2; i++) {
        char text[32];
        struct pool_worker worker;
        struct lam_loader *loader;
        uint64_t n_reads = faulty_reads();

        faulty_set("short");
        loader = faulty_start(live_share(24, text), engines[i], false);
        pool_worker_connect(&worker, live_model.dir);
        pool_worker_open(&worker);
        live_walk(&worker, 3);
        assert_true(faulty_reads() > n_reads);
        pool_worker_disconnect(&worker);
        lam_loader_destroy(loader);
    }
}

/* Passes one pass; counts what came as a fault of this kind. Bytes are compared. */
static uint32_t faults_in_a_pass(struct pool_worker *worker, enum lam_status status)
{
    uint32_t n_faults = 0;

    for (uint32_t n_units = 0; n_units < live_manifest.n_units;) {
        struct pool_event event;
        struct lam_err err = {0};

        if (pool_worker_next(worker, &event, &err) != LAM_OK)
            fail_msg("%s", err.text);
        if (event.fault) {
            assert_int_equal(event.status, status);
            n_faults++;
            faulty_set("clear");
            continue;
        }
        live_check_unit(worker, &event);
        pool_worker_release(worker, event.unit, event.generation);
        pool_worker_credit(worker, 1);
        n_units++;
    }
    return n_faults;
}

static void eio_is_tried_again_then_told(void **state)
{
    (void)state;
    faulty_need();
    for (int i = 0; i < 2; i++) {
        char text[32];
        struct pool_worker worker;
        struct lam_loader *loader = faulty_start(live_share(24, text), engines[i], false);

        pool_worker_connect(&worker, live_model.dir);
        pool_worker_open(&worker);
        pool_worker_credit(&worker, 1);
        assert_int_equal(faults_in_a_pass(&worker, LAM_UNAVAILABLE), 0);
        faulty_set("eio 3"); /* fewer than the tries of one request */
        assert_int_equal(faults_in_a_pass(&worker, LAM_UNAVAILABLE), 0);
        faulty_set("eio 1000000"); /* a dead drive, until it is replaced */
        assert_true(faults_in_a_pass(&worker, LAM_UNAVAILABLE) >= 1);
        assert_int_equal(faults_in_a_pass(&worker, LAM_UNAVAILABLE), 0);
        pool_worker_disconnect(&worker);
        lam_loader_destroy(loader);
    }
}

static void *pass(void *worker)
{
    assert_int_equal(faults_in_a_pass(worker, LAM_UNAVAILABLE), 0);
    return NULL;
}

/* While reads hang the service answers; when they come, they are right. */
static void a_stall_stalls_nothing_else(void **state)
{
    char text[32];
    struct pool_worker worker, observer;
    struct lam_loader *loader;
    pthread_t thread;

    (void)state;
    faulty_need();
    loader = faulty_start(live_share(24, text), LAM_READER_AUTO, false);
    pool_worker_connect(&observer, live_model.dir);
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    pool_worker_credit(&worker, 1);
    assert_int_equal(faults_in_a_pass(&worker, LAM_UNAVAILABLE), 0);
    faulty_set(STUCK);
    assert_int_equal(pthread_create(&thread, NULL, pass, &worker), 0);
    faulty_wait_stalled();
    assert_int_equal(pool_worker_stats(&observer)->sessions, 1);
    faulty_set("clear");
    pthread_join(thread, NULL);
    pool_worker_disconnect(&worker);
    pool_worker_disconnect(&observer);
    lam_loader_destroy(loader);
}

/* A drive that answers after the deadline: the unit fails with a status, the service answers, and
 * once the drive has come back everything is read. On a busy machine good reads are late as well,
 * and tried again. */
static void a_stuck_drive_meets_the_deadline(void **state)
{
    (void)state;
    faulty_need();
    for (int i = 0; i < 2; i++) {
        char text[32];
        struct pool_worker worker;
        struct pool_event event = {.fault = false};
        struct lam_err err = {0};
        struct lam_loader *loader;

        faulty_deadline_ns = 500 * LAM_NS_PER_MS;
        loader = faulty_start(live_share(24, text), engines[i], false);
        pool_worker_connect(&worker, live_model.dir);
        pool_worker_open(&worker);
        pool_worker_credit(&worker, 1);
        faults_in_a_pass(&worker, LAM_DEADLINE_EXCEEDED);
        faulty_set(STUCK);
        while (!event.fault) { /* some were read ahead */
            assert_int_equal(pool_worker_next(&worker, &event, &err), LAM_OK);
            if (event.fault)
                continue;
            pool_worker_release(&worker, event.unit, event.generation);
            pool_worker_credit(&worker, 1);
        }
        assert_int_equal(event.status, LAM_DEADLINE_EXCEEDED);
        faulty_wait_stalled(); /* it still does */
        assert_int_equal(pool_worker_stats(&worker)->sessions, 1);
        faulty_set("clear");
        faults_in_a_pass(&worker, LAM_DEADLINE_EXCEEDED);
        faults_in_a_pass(&worker, LAM_DEADLINE_EXCEEDED);
        pool_worker_disconnect(&worker);
        lam_loader_destroy(loader);
    }
    faulty_deadline_ns = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_reads_are_completed),
        cmocka_unit_test(eio_is_tried_again_then_told),
        cmocka_unit_test(a_stall_stalls_nothing_else),
        cmocka_unit_test(a_stuck_drive_meets_the_deadline),
    };

    lam_log_init("reads_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, faulty_set_up, faulty_tear_down);
}
