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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_lease_is_the_one_that_counts),
        cmocka_unit_test(each_moment_of_a_session_has_one_cause),
        cmocka_unit_test(loads_are_timed_from_their_own_begin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
