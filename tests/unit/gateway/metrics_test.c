/* metrics: the operations port of a real gateway, before, during and after requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/trace.h"
#include "tests/unit/gateway/service_world.h"
#include "tests/unit/rpc/ops_page.h"

#define PREFIX "laminar_gateway_"

static char ops[128];

static double value_of(const char *series)
{
    char name[128];

    snprintf(name, sizeof name, PREFIX "%s", series);
    return ops_page_value(ops_page(ops, "/metrics"), name);
}

/* Events reach the page a moment after the client has its answer. */
static void wait_for(const char *series, double value)
{
    uint64_t give_up_ns = lam_now_ns() + 60 * LAM_NS_PER_S;

    while (value_of(series) != value)
        if (lam_now_ns() > give_up_ns)
            fail_msg("%s is %g, wanted %g", series, value_of(series), value);
}

static void every_metric_is_listed(void **state)
{
    struct world world;

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    ops_page_is_listed(ops_page(ops, "/metrics"), PREFIX);
    world_stop(&world);
}

static void generate(struct world *world, Laminar__V1__GenerateRequest *request)
{
    struct reading reading;

    reading_open(world, request, &reading);
    reading_all(world, &reading);
    reading_done(&reading);
}

static void values_are_those_of_what_happened(void **state)
{
    Laminar__V1__GenerateRequest request = world_ask("hello", 20);
    static struct fake_worker worker;
    struct reading reading;
    struct world world;

    (void)state;
    world_start(&world, 8, 4 * LAM_NS_PER_S); /* time to see a request that waits in vain */
    assert_non_null(strstr(ops_page(ops, "/healthz"), "503: no worker"));
    world_worker(&world, &worker, "w", 1);
    world_wait(&world, 1, true);
    assert_string_equal(ops_page(ops, "/healthz"), "ok\n");
    assert_true(value_of("workers") == 1);
    generate(&world, &request);
    wait_for("requests_total{result=\"length\"}", 1);
    assert_true(value_of("prompt_tokens_total") == 6);
    assert_true(value_of("tokens_total") == 20);
    assert_true(value_of("passes_total") == 20);
    assert_true(value_of("rows_total") == 6 + 19);
    assert_true(value_of("first_token_seconds_count") == 1);
    assert_true(value_of("first_token_seconds_sum") >= value_of("queue_seconds_sum"));
    assert_true(value_of("step_seconds_sum") >= 20 * 0.001);
    assert_true(value_of("step_seconds_count") == 20);
    assert_true(value_of("requests_open") == 0);

    request.max_tokens = TINY_CONTEXT + 1;
    generate(&world, &request);
    wait_for("requests_total{result=\"refused\"}", 1);
    request.max_tokens = 20;
    fake_worker_kill(&worker);
    wait_for("workers", 0);
    assert_true(value_of("workers_lost_total") == 1);
    reading_open(&world, &request, &reading); /* waits for a worker, in vain */
    wait_for("requests_waiting", 1);
    assert_true(value_of("requests_open") == 1);
    reading_all(&world, &reading);
    reading_done(&reading);
    wait_for("requests_total{result=\"failed\"}", 1);
    assert_true(value_of("requests_waiting") == 0);
    world_stop(&world);
}

/* The stretches of a request follow each other, and each step lies in one of them. */
static void steps_and_requests_are_traced(void **state)
{
    Laminar__V1__GenerateRequest request = world_ask("hello", 20);
    static struct lam_trace_span spans[LAM_TRACE_SPANS];
    uint64_t ends[3] = {0}, begins[3] = {0};
    struct lam_trace_mark mark;
    static struct fake_worker worker;
    struct world world;
    size_t n, n_steps = 0;
    uint64_t lost;

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 1);
    world_wait(&world, 1, true);
    mark = lam_trace_start();
    generate(&world, &request);
    wait_for("requests_open", 0);
    lam_trace_stop();
    n = lam_trace_read(&mark, spans, LAM_TRACE_SPANS, &lost);
    for (size_t i = 0; i < n; i++) {
        static const char *const names[] = {"queued", "prompt", "generation"};

        n_steps += spans[i].track == LAM_TRACE_STEP;
        for (size_t k = 0; k < 3; k++)
            if (strcmp(spans[i].name, names[k]) == 0) {
                begins[k] = spans[i].begin_ns;
                ends[k] = spans[i].end_ns;
            }
    }
    assert_int_equal(n_steps, 20);
    assert_true(begins[0] >= mark.since_ns);
    assert_true(ends[0] == begins[1] && ends[1] == begins[2] && ends[2] > begins[2]);
    fake_worker_kill(&worker);
    world_stop(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_metric_is_listed),
        cmocka_unit_test(values_are_those_of_what_happened),
        cmocka_unit_test(steps_and_requests_are_traced),
    };

    lam_log_init("metrics_test", LAM_LOG_OFF);
    snprintf(ops, sizeof ops, "unix:/tmp/laminar-metrics-test-%d.sock", (int)getpid());
    world_ops = ops;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
