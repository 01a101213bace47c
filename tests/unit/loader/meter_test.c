/* meter: depth, time with at least one request, and the share of it in the last interval. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/clock.h"
#include "loader/meter.h"

#define MS LAM_NS_PER_MS

static void overlapping_requests_count_their_time_once(void **state)
{
    struct lam_meter meter;
    struct lam_meter_counts counts;

    (void)state;
    lam_meter_init(&meter);
    lam_meter_begin(&meter, 100 * MS);
    lam_meter_begin(&meter, 110 * MS);
    lam_meter_count(&meter, 115 * MS, &counts);
    assert_int_equal(counts.depth, 2);
    assert_int_equal(counts.busy_ns, 15 * MS);
    lam_meter_end(&meter, 100 * MS, 120 * MS);
    lam_meter_end(&meter, 110 * MS, 130 * MS);
    lam_meter_begin(&meter, 200 * MS);
    lam_meter_end(&meter, 200 * MS, 205 * MS);
    lam_meter_count(&meter, 300 * MS, &counts);
    assert_int_equal(counts.depth, 0);
    assert_int_equal(counts.busy_ns, 35 * MS);
    assert_int_equal(lam_metric_get(&meter.latency), (20 + 20 + 5) * MS);
    lam_meter_done(&meter);
}

static void the_ratio_is_that_of_the_last_interval(void **state)
{
    struct lam_meter meter;
    struct lam_meter_counts counts;

    (void)state;
    lam_meter_init(&meter);
    lam_meter_begin(&meter, 0);
    lam_meter_tick(&meter, 1000 * MS);
    lam_meter_end(&meter, 0, 1250 * MS);
    lam_meter_tick(&meter, 2000 * MS);
    lam_meter_count(&meter, 2000 * MS, &counts);
    assert_in_range(counts.busy_ppm, 249900, 250000);
    lam_meter_tick(&meter, 3000 * MS);
    lam_meter_count(&meter, 3000 * MS, &counts);
    assert_int_equal(counts.busy_ppm, 0);
    lam_meter_done(&meter);
}

/* Two threads read the clock in one order and come to the meter in the other: nothing wraps. */
static void a_late_end_does_not_wrap(void **state)
{
    struct lam_meter meter;
    struct lam_meter_counts counts;

    (void)state;
    lam_meter_init(&meter);
    lam_meter_tick(&meter, 1 * MS);
    lam_meter_begin(&meter, 10 * MS);
    lam_meter_tick(&meter, 50 * MS);
    lam_meter_end(&meter, 10 * MS, 49 * MS);
    lam_meter_tick(&meter, 51 * MS);
    lam_meter_begin(&meter, 60 * MS);
    lam_meter_count(&meter, 59 * MS, &counts);
    assert_int_equal(counts.busy_ns, 39 * MS);
    assert_in_range(counts.busy_ppm, 0, 1000000);
    lam_meter_done(&meter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overlapping_requests_count_their_time_once),
        cmocka_unit_test(the_ratio_is_that_of_the_last_interval),
        cmocka_unit_test(a_late_end_does_not_wrap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
