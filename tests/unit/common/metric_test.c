/* metric: the text that Prometheus will read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/metric.h"

static void writes_counters_and_gauges(void **state)
{
    static struct lam_metric disk = {
        .name = "d_total", .help = "Waits.", .labels = "cause=\"disk\"", .unit = LAM_UNIT_SECONDS};
    static struct lam_metric slot = {
        .name = "d_total", .labels = "cause=\"slot\"", .unit = LAM_UNIT_SECONDS};
    static struct lam_metric used = {.name = "u", .help = "Bytes.", .kind = LAM_GAUGE};
    const struct lam_metric *const all[] = {&disk, &slot, &used};
    struct lam_buf out = LAM_BUF(4096);

    (void)state;
    lam_metric_add(&disk, 1500000000);
    lam_metric_add(&disk, 500000000);
    lam_metric_set(&used, 18446744073709551615u);
    assert_true(lam_metrics_write(all, 3, &out));
    assert_string_equal(out.data, "# HELP d_total Waits.\n# TYPE d_total counter\n"
                                  "d_total{cause=\"disk\"} 2\nd_total{cause=\"slot\"} 0\n"
                                  "# HELP u Bytes.\n# TYPE u gauge\nu 18446744073709551615\n");
    lam_buf_done(&out);
}

static void writes_cumulative_buckets(void **state)
{
    static struct lam_metric latency = {.name = "l_seconds",
        .help = "Reads.",
        .kind = LAM_HISTOGRAM,
        .unit = LAM_UNIT_SECONDS,
        .bounds = {1000000, 10000000}};
    const struct lam_metric *const all[] = {&latency};
    struct lam_buf out = LAM_BUF(4096);

    (void)state;
    lam_metric_observe(&latency, 1000000);
    lam_metric_observe(&latency, 1000001);
    lam_metric_observe(&latency, 20000000);
    assert_true(lam_metrics_write(all, 1, &out));
    assert_string_equal(out.data,
        "# HELP l_seconds Reads.\n# TYPE l_seconds histogram\n"
        "l_seconds_bucket{le=\"0.001\"} 1\nl_seconds_bucket{le=\"0.01\"} 2\n"
        "l_seconds_bucket{le=\"+Inf\"} 3\nl_seconds_sum 0.022000001\nl_seconds_count 3\n");
    lam_buf_done(&out);
}

static void full_buffer_is_reported(void **state)
{
    static struct lam_metric gauge = {.name = "g", .help = "G.", .kind = LAM_GAUGE};
    const struct lam_metric *const all[] = {&gauge};
    struct lam_buf out = LAM_BUF(8);

    (void)state;
    assert_false(lam_metrics_write(all, 1, &out));
    lam_buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writes_counters_and_gauges),
        cmocka_unit_test(writes_cumulative_buckets),
        cmocka_unit_test(full_buffer_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
