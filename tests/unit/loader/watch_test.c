/* watch: ages, durations and what was waited for, with a clock of our own. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "loader/watch.h"

static void the_oldest_lease_is_the_one_that_counts(void **state)
{
    struct lam_watch watch;

    (void)state;
    assert_int_equal(lam_watch_init(&watch, 3, 5, NULL), LAM_OK);
    assert_int_equal(lam_watch_oldest_ns(&watch, 1000), 0);
    lam_watch_grant(&watch, 0, 7, 100);
    lam_watch_grant(&watch, 0, 8, 200);
    lam_watch_grant(&watch, 63, 7, 50);
    assert_int_equal(lam_watch_oldest_ns(&watch, 1000), 950);
    assert_int_equal(lam_watch_release(&watch, 63, 7), 50);
    assert_int_equal(lam_watch_oldest_ns(&watch, 1000), 900);
    assert_int_equal(lam_watch_release(&watch, 0, 9), 0); /* was never granted */
    lam_watch_close(&watch, 0, 1000);
    assert_int_equal(lam_watch_oldest_ns(&watch, 2000), 0);
    for (uint32_t unit = 0; unit < 3; unit++)
        lam_watch_grant(&watch, 0, unit, 2000); /* all its room is back */
    assert_int_equal(lam_watch_oldest_ns(&watch, 2001), 1);
    lam_watch_done(&watch);
}

static void each_moment_of_a_session_has_one_cause(void **state)
{
    struct lam_watch watch;

    (void)state;
    assert_int_equal(lam_watch_init(&watch, 1, 1, NULL), LAM_OK);
    lam_watch_wait(&watch, 2, LAM_SLOTS_WAIT_DISK, 1000);
    lam_watch_wait(&watch, 2, LAM_SLOTS_WAIT_DISK, 1100);
    lam_watch_wait(&watch, 2, LAM_SLOTS_WAIT_CRC, 1300);
    lam_watch_wait(&watch, 3, LAM_SLOTS_WAIT_CRC, 1350);
    assert_int_equal(lam_watch_waited_ns(&watch, LAM_SLOTS_WAIT_DISK, 1400), 300);
    assert_int_equal(lam_watch_waited_ns(&watch, LAM_SLOTS_WAIT_CRC, 1400), 150);
    lam_watch_close(&watch, 2, 1400);
    lam_watch_close(&watch, 3, 1500);
    assert_int_equal(lam_watch_waited_ns(&watch, LAM_SLOTS_WAIT_CRC, 9999), 250);
    lam_watch_wait(&watch, 2, LAM_SLOTS_WAIT_NONE, 9000); /* another session, with no past */
    assert_int_equal(lam_watch_waited_ns(&watch, LAM_SLOTS_WAIT_CRC, 9999), 250);
    assert_int_equal(lam_watch_waited_ns(&watch, LAM_SLOTS_WAIT_NONE, 9999), 999);
    lam_watch_done(&watch);
}

static void loads_are_timed_from_their_own_begin(void **state)
{
    struct lam_watch watch;

    (void)state;
    assert_int_equal(lam_watch_init(&watch, 1, 2, NULL), LAM_OK);
    lam_watch_load(&watch, 1, 100);
    lam_watch_load(&watch, 0, 200);
    lam_watch_check(&watch, 1);
    assert_true(watch.checking[1]);
    lam_watch_loaded(&watch, 1, 400);
    assert_false(watch.checking[1]);
    lam_watch_loaded(&watch, 0, 250);
    assert_int_equal(lam_metric_get(&watch.unit_seconds), 350);
    lam_watch_done(&watch);
}

/* Of a worker that is 100 to each unit, four of five of them kept, whatever it waits for. */
static void a_step_is_what_computing_takes(void **state)
{
    const uint32_t enough = LAM_WATCH_STEPS - LAM_WATCH_STEPS / 4; /* all but a quarter */
    struct lam_watch watch;
    uint64_t now = 1000;

    (void)state;
    assert_int_equal(lam_watch_init(&watch, 1, 1, NULL), LAM_OK);
    /* Never waits: the unit was there early. Nothing is known before enough have been seen. */
    for (uint32_t i = 1; i <= LAM_WATCH_STEPS; i++, now += 500)
        assert_int_equal(
            lam_watch_step(&watch, 1, now - (i > 1 ? 450 : 100), 5, now), i < enough ? 0 : 100);
    for (uint32_t i = 0; i < 20; i++, now += 900) /* waits for each */
        assert_int_equal(lam_watch_step(&watch, 1, now - 100, 5, now), 100);
    for (uint32_t i = 0; i < 60; i++, now += 40000) /* two of three are late, and do not count */
        assert_int_equal(lam_watch_step(&watch, 1, now - (i % 3 > 0 ? 20000 : 100), 5, now), 100);
    for (uint32_t i = 1; i <= LAM_WATCH_STEPS; i++) { /* slow ones, until hardly any is not */
        uint64_t step;

        now += 90000;
        step = lam_watch_step(&watch, 1, now - 20000, 5, now);
        assert_true(i < enough ? step < 18000 : step == 18000);
    }
    lam_watch_close(&watch, 1, now); /* the next session has no release before its first */
    for (uint32_t i = 0; i < 5; i++)
        assert_true(lam_watch_step(&watch, 1, now - 7, 1, now) > 0);
    assert_int_equal(watch.step_ns[(watch.n_steps - 5) % LAM_WATCH_STEPS], 7);
    lam_watch_done(&watch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_lease_is_the_one_that_counts),
        cmocka_unit_test(each_moment_of_a_session_has_one_cause),
        cmocka_unit_test(loads_are_timed_from_their_own_begin),
        cmocka_unit_test(a_step_is_what_computing_takes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
