/* metrics: the operations port of a real loader. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/loader/live_loader.h"
#include "tests/unit/rpc/ops_page.h"

#define PREFIX "laminar_loader_"

static double value_of(const char *text, const char *series)
{
    char name[128];

    snprintf(name, sizeof(name), PREFIX "%s", series);
    return ops_page_value(text, name);
}

static const char *get(int port, const char *path)
{
    char address[32];

    snprintf(address, sizeof(address), "127.0.0.1:%d", port);
    return ops_page(address, path);
}

static struct lam_loader *start_with_ops(void)
{
    struct lam_loader *loader;
    char text[32];

    live_ops = "127.0.0.1:0";
    loader = live_start(live_share(40, text), LAM_READER_AUTO);
    live_ops = NULL;
    return loader;
}

static void every_metric_is_listed(void **state)
{
    struct lam_loader *loader = start_with_ops();

    (void)state;
    ops_page_is_listed(get(lam_loader_ops_port(loader), "/metrics"), PREFIX);
    lam_loader_destroy(loader);
}

static void values_are_those_of_what_happened(void **state)
{
    struct lam_loader *loader = start_with_ops();
    int port = lam_loader_ops_port(loader);
    Laminar__V1__GetStatsResponse *stats;
    struct pool_event event = {.kept = true};
    struct pool_worker worker;
    uint64_t disk_bytes, n_granted;
    const char *text;
    double ratio, n_ended;

    (void)state;
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 3);
    while (event.kept)
        assert_int_equal(pool_worker_next(&worker, &event, NULL), LAM_OK);
    do { /* look-ahead comes to its end */
        stats = pool_worker_stats(&worker);
        disk_bytes = stats->disk_bytes;
        n_granted = stats->units_granted;
        lam_sleep_ns(60 * LAM_NS_PER_MS);
        text = get(port, "/metrics");
        stats = pool_worker_stats(&worker);
    } while (value_of(text, "disk_queue_depth{model=\"1\"}") > 0 ||
             stats->disk_bytes > disk_bytes || stats->units_granted > n_granted);
    assert_true(value_of(text, "disk_bytes_total{model=\"1\"}") == (double)stats->disk_bytes);
    assert_true(value_of(text, "units_granted_total{model=\"1\"}") == (double)stats->units_granted);
    assert_true(value_of(text, "units_kept{model=\"1\"}") == stats->units_kept);
    assert_true(value_of(text, "leases{model=\"1\"}") == stats->leases);
    /* One worker: what is kept is not read again, nor what stays in the lanes that it does not
     * stream through. What was read ahead of the third walk's end counts as read. */
    ratio = value_of(text, "hit_ratio{model=\"1\"}") * live_manifest.n_units;
    assert_true(ratio > stats->units_kept - 1.0);
    assert_true(ratio < stats->units_kept + LAM_KEPT_LANES_WANTED - 1);
    assert_true(value_of(text, "pool_bytes") == (double)stats->pool_bytes);
    assert_true(value_of(text, "pool_ready_bytes") > 0); /* the first region, at the least */
    assert_true(value_of(text, "pool_ready_bytes") <= (double)stats->pool_bytes);
    assert_true(value_of(text, "pool_ready_seconds") > 0);
    assert_true(stats->pool_ready_bytes > 0 && stats->pool_ready_ns > 0);
    assert_true(value_of(text, "sessions{model=\"1\"}") == 1);
    assert_true(value_of(text, "read_seconds_count{model=\"1\"}") >= (double)stats->disk_reads);
    /* One in each lane may have begun early, and waits for its place. */
    n_ended = value_of(text, "unit_seconds_count{model=\"1\"}");
    assert_true(n_ended <= (double)stats->units_loaded);
    assert_true(n_ended + LAM_KEPT_LANES_WANTED >= (double)stats->units_loaded);
    assert_true(value_of(text, "disk_busy_seconds_total{model=\"1\"}") > 0);
    assert_true(value_of(text, "stall_seconds_total{model=\"1\",cause=\"disk\"}") > 0);
    assert_true(value_of(text, "slots{model=\"1\",state=\"held\"}") >= 1);
    assert_true(value_of(text, "lease_age_max_seconds{model=\"1\"}") >= 0.05);
    assert_true(value_of(text, "worker_deaths_total{model=\"1\"}") == 0);

    close(worker.connection); /* as when it is killed */
    worker.connection = -1;
    assert_int_equal(live_leases_after(&worker, LIVE_LIMIT_NS), 0);
    text = get(port, "/metrics");
    assert_true(value_of(text, "worker_deaths_total{model=\"1\"}") == 1);
    assert_true(value_of(text, "lease_age_max_seconds{model=\"1\"}") == 0);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

static void health_ends_with_the_file(void **state)
{
    struct lam_loader *loader = start_with_ops();
    int port = lam_loader_ops_port(loader);
    uint64_t until_ns = lam_now_ns() + 60 * LAM_NS_PER_S;

    (void)state;
    assert_string_equal(get(port, "/healthz"), "ok\n");
    assert_int_equal(truncate(live_path, (off_t)live_model.n_bytes - 4096), 0);
    while (strstr(get(port, "/healthz"), "503: a model file has changed") == NULL)
        assert_true(lam_now_ns() < until_ns);
    lam_loader_destroy(loader);
    live_drop_model();
    live_use_model(96);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_metric_is_listed),
        cmocka_unit_test(values_are_those_of_what_happened),
        cmocka_unit_test(health_ends_with_the_file),
    };

    lam_log_init("metrics_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, live_set_up, live_tear_down);
}
