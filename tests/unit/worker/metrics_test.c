/* metrics: what the page of a worker says after passes of the engine on fake units. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/trace.h"
#include "kernels/ops.h"
#include "tests/unit/rpc/ops_page.h"
#include "tests/unit/worker/fake_units.h"
#include "worker/metrics.h"

#define PREFIX "laminar_worker_"

struct fixture {
    struct tiny_model tiny;
    struct lam_units *units;
    struct lam_engine *engine;
    struct lam_worker_metrics metrics;
    struct lam_buf page;
};

static int setup(void **state)
{
    static struct fixture f;
    struct lam_engine_config config = {.ops = lam_kernels_ref(),
        .n_threads = 1,
        .n_ctx = 24,
        .max_seqs = 3,
        .max_rows = 16,
        .page_tokens = 8,
        .kv_pages = 9};

    f = (struct fixture){.page = LAM_BUF(1 << 16)};
    tiny_model_make(&f.tiny, false);
    f.units = fake_units_create(&f.tiny);
    assert_int_equal(lam_engine_create(&config, f.units, &f.engine, NULL), LAM_OK);
    lam_worker_metrics_init(&f.metrics, f.engine);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    lam_engine_destroy(f->engine);
    lam_units_destroy(f->units);
    tiny_model_done(&f->tiny);
    lam_buf_done(&f->page);
    return 0;
}

static double value_of(struct fixture *f, const char *series)
{
    char name[128];

    lam_buf_clear(&f->page);
    assert_true(lam_worker_metrics_write(&f->metrics, &f->page));
    snprintf(name, sizeof name, PREFIX "%s", series);
    return ops_page_value(f->page.data, name);
}

static void step(struct fixture *f, uint32_t n_tokens)
{
    static const int32_t tokens[] = {7, 1, 299, 42, 0, 8, 8, 150, 77, 3};
    struct lam_engine_rows rows = {.tokens = tokens, .n_tokens = n_tokens, .sample = true};
    struct lam_engine_result result;

    rows.params.repetition_penalty = 1;
    rows.params.top_p = 1;
    assert_int_equal(lam_engine_step(f->engine, &rows, 1, &result, NULL), LAM_OK);
    lam_worker_metrics_step(&f->metrics, f->engine, true, 1);
}

static void every_metric_is_listed(void **state)
{
    struct fixture *f = *state;

    assert_true(lam_worker_metrics_write(&f->metrics, &f->page));
    ops_page_is_listed(f->page.data, PREFIX);
}

static void health_is_the_attachment(void **state)
{
    struct fixture *f = *state;

    assert_string_equal(lam_worker_metrics_unhealthy(&f->metrics), "not attached to a gateway\n");
    lam_worker_metrics_attached(&f->metrics, true);
    assert_null(lam_worker_metrics_unhealthy(&f->metrics));
    assert_true(value_of(f, "attached") == 1);
    lam_worker_metrics_attached(&f->metrics, false);
    assert_non_null(lam_worker_metrics_unhealthy(&f->metrics));
}

static void passes_are_counted_by_their_profile(void **state)
{
    struct fixture *f = *state;
    double seconds = 0, floor_seconds = 0, bytes = 0;
    double shares;

    for (uint32_t n = 9; n <= 10; n++) {
        step(f, n);
        seconds += (double)lam_engine_profile(f->engine)->wall_ns * 1e-9;
        floor_seconds += (double)lam_engine_profile(f->engine)->floor_ns * 1e-9;
        bytes += (double)lam_engine_profile(f->engine)->resident_bytes;
    }
    assert_true(value_of(f, "passes_total") == 2);
    assert_true(value_of(f, "rows_total") == 9 + 10);
    assert_true(value_of(f, "tokens_total") == 2);
    assert_true(value_of(f, "pass_seconds_count") == 2);
    assert_true(fabs(value_of(f, "pass_seconds_sum") - seconds) < 1e-6);
    assert_true(fabs(value_of(f, "floor_seconds_total") - floor_seconds) < 1e-6);
    assert_true(value_of(f, "weight_bytes_total{tier=\"resident\"}") == bytes);
    shares = value_of(f, "wait_seconds_total{cause=\"disk\"}") +
             value_of(f, "wait_seconds_total{cause=\"link\"}") +
             value_of(f, "compute_seconds_total");
    assert_true(shares > 0 && shares <= seconds + 1e-6);
    assert_true(value_of(f, "kv_pages") == 9);
    assert_true(value_of(f, "kv_pages_used") == 2);
    assert_true(value_of(f, "memory_bytes{kind=\"measured\"}") > 0);
    assert_true(value_of(f, "memory_bytes{kind=\"measured\"}") ==
                value_of(f, "memory_bytes{kind=\"planned\"}"));

    /* A step that only frees a slot is no pass. */
    lam_engine_free(f->engine, 0);
    lam_worker_metrics_step(&f->metrics, f->engine, false, 0);
    assert_true(value_of(f, "passes_total") == 2);
    assert_true(value_of(f, "kv_pages_used") == 0);
}

/* Waits and arithmetic follow each other within the pass, unit by unit. */
static void a_pass_is_traced(void **state)
{
    struct lam_trace_mark mark = lam_trace_start();
    static struct lam_trace_span spans[LAM_TRACE_SPANS];
    struct lam_trace_span pass = {0};
    uint32_t n_units = 0;
    uint64_t lost, last_ns = 0;
    size_t n;

    step(*state, 9);
    lam_trace_stop();
    n = lam_trace_read(&mark, spans, LAM_TRACE_SPANS, &lost);
    for (size_t i = 0; i < n; i++)
        if (spans[i].track == LAM_TRACE_PASS)
            pass = spans[i];
    for (size_t i = 0; i < n; i++) {
        if (spans[i].track != LAM_TRACE_COMPUTE)
            continue;
        assert_int_equal(spans[i].unit, n_units++);
        assert_true(spans[i].begin_ns >= pass.begin_ns && spans[i].end_ns <= pass.end_ns);
        assert_true(spans[i].begin_ns >= last_ns);
        last_ns = spans[i].end_ns;
    }
    assert_int_equal(n_units, lam_engine_plan(((struct fixture *)*state)->engine)->n_pieces);
    assert_int_equal(spans[n - 1].track, LAM_TRACE_SAMPLE);
    assert_true(spans[n - 1].begin_ns >= pass.end_ns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_metric_is_listed, setup, teardown),
        cmocka_unit_test_setup_teardown(health_is_the_attachment, setup, teardown),
        cmocka_unit_test_setup_teardown(passes_are_counted_by_their_profile, setup, teardown),
        cmocka_unit_test_setup_teardown(a_pass_is_traced, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
