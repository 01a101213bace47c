/* trace: what a real loader records while a worker walks: nothing is leased before it was read and
 * checked. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/log.h"
#include "common/trace.h"
#include "tests/unit/loader/live_loader.h"

static struct lam_trace_span spans[LAM_TRACE_SPANS];
static size_t n_spans;

/* How many bytes of the unit have been through this until then. */
static uint64_t bytes_until(enum lam_trace_track track, uint32_t unit, uint64_t until_ns)
{
    uint64_t n_bytes = 0;

    for (size_t i = 0; i < n_spans; i++) {
        const struct lam_trace_span *span = &spans[i];

        if (span->track == track && span->unit == unit && span->end_ns <= until_ns)
            n_bytes += span->bytes;
    }
    return n_bytes;
}

static void reads_and_checks_end_before_leases_begin(void **state)
{
    struct lam_trace_mark mark = lam_trace_start();
    struct lam_loader *loader;
    struct pool_worker worker;
    uint32_t n_leases = 0, n_kept = 0;
    char text[32];
    uint64_t lost;

    (void)state;
    loader = live_start(live_share(40, text), LAM_READER_AUTO);
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 2);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
    lam_trace_stop();
    n_spans = lam_trace_read(&mark, spans, LAM_TRACE_SPANS, &lost);
    assert_int_equal(lost, 0);
    for (size_t i = 0; i < n_spans; i++) {
        const struct lam_trace_span *span = &spans[i];
        uint64_t unit_bytes;

        if (span->track != LAM_TRACE_LEASE)
            continue;
        unit_bytes = live_manifest.units[span->unit].bytes;
        assert_true(bytes_until(LAM_TRACE_DISK, span->unit, span->begin_ns) >= unit_bytes);
        assert_true(bytes_until(LAM_TRACE_CHECK, span->unit, span->begin_ns) >= unit_bytes);
        n_leases += strcmp(span->name, "lease") == 0;
        n_kept += strcmp(span->name, "kept") == 0;
    }
    assert_true(n_kept > 0 && n_kept < live_manifest.n_units);
    assert_true(n_leases >= 2 * (live_manifest.n_units - n_kept) - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_checks_end_before_leases_begin),
    };

    lam_log_init("trace_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, live_set_up, live_tear_down);
}
