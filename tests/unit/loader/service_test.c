/* service: every method of laminar.v1.Loader, over a real loader in this process. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "loader/extent.h"
#include "tests/unit/loader/live_loader.h"

/* ---- bytes ---- */

static void check_passes(enum lam_reader_choice engine, uint32_t percent)
{
    char text[32];
    struct lam_loader *loader = live_start(live_share(percent, text), engine);
    Laminar__V1__GetStatsResponse *stats;
    struct pool_worker worker;
    uint64_t once;

    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 4);
    stats = pool_worker_stats(&worker);
    once = live_manifest.unit_bytes_total;
    assert_string_equal(stats->engine, engine == LAM_READER_PREAD ? "pread" : "io_uring");
    assert_int_equal(stats->sessions, 1);
    assert_true(stats->pool_bytes <= once * percent / 100 + live_manifest.n_units * 8192ull + 4096);
    assert_int_equal(stats->units_kept, stats->units_kept_loaded);
    assert_true(stats->disk_bytes >= once);
    if (percent == 100) {
        assert_int_equal(stats->units_kept, live_manifest.n_units);
        assert_int_equal(stats->units_loaded, live_manifest.n_units);
        assert_true(stats->disk_bytes < once + live_manifest.n_units * 8192ull);
    } else {
        uint64_t streamed = live_manifest.n_units - stats->units_kept;
        uint64_t places = 2 * LAM_KEPT_LANES_WANTED + 1;
        uint64_t at_least = streamed > places ? streamed - places : 0;

        /* Each pass reads what neither is kept nor stayed in one of the places, as it may when the
         * reader is slow; the look-ahead runs on beyond the last one. */
        assert_true(stats->units_loaded >= stats->units_kept + streamed + 3 * at_least);
        assert_true(stats->disk_bytes <= 4 * once + 8 * live_manifest.unit_bytes_max);
    }
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

static void every_byte_of_every_pass_is_that_of_the_file(void **state)
{
    static const uint32_t percents[] = {25, 50, 95, 100};

    (void)state;
    for (size_t i = 0; i < sizeof(percents) / sizeof(*percents); i++) {
        check_passes(LAM_READER_AUTO, percents[i]);
        check_passes(LAM_READER_PREAD, percents[i]);
    }
}

static void units_at_any_alignment_arrive_whole(void **state)
{
    static const uint64_t shifts[] = {0, 32, 4064, 4096};

    (void)state;
    for (size_t i = 0; i < sizeof(shifts) / sizeof(*shifts); i++) {
        live_drop_model();
        live_use_model(shifts[i]);
        check_passes(LAM_READER_AUTO, 25);
    }
}

static void two_workers_in_phase_cost_one_read(void **state)
{
    char text[32];
    struct lam_loader *loader = live_start(live_share(40, text), LAM_READER_AUTO);
    struct pool_worker workers[2];
    uint32_t streamed;
    Laminar__V1__GetStatsResponse *stats;

    (void)state;
    for (int w = 0; w < 2; w++) {
        pool_worker_connect(&workers[w], live_model.dir);
        pool_worker_open(&workers[w]);
    }
    stats = pool_worker_stats(&workers[0]);
    streamed = live_manifest.n_units - stats->units_kept;
    for (int w = 0; w < 2; w++) {
        for (uint32_t i = 0; i < stats->units_kept; i++) {
            struct pool_event event;

            assert_int_equal(pool_worker_next(&workers[w], &event, NULL), LAM_OK);
            assert_true(event.kept);
            live_check_unit(&workers[w], &event);
        }
    }
    for (uint32_t i = 0; i < 5 * streamed; i++) {
        struct pool_event events[2];

        for (int w = 0; w < 2; w++)
            pool_worker_credit(&workers[w], 1);
        for (int w = 0; w < 2; w++) {
            assert_int_equal(pool_worker_next(&workers[w], &events[w], NULL), LAM_OK);
            live_check_unit(&workers[w], &events[w]);
        }
        for (int w = 0; w < 2; w++)
            pool_worker_release(&workers[w], events[w].unit, events[w].generation);
    }
    stats = pool_worker_stats(&workers[0]);
    assert_true(stats->units_loaded >= stats->units_kept + 5 * (streamed - 2));
    assert_true(
        stats->disk_bytes <= 5 * live_manifest.unit_bytes_total + 8 * live_manifest.unit_bytes_max);
    assert_true(stats->units_hit >= 5 * streamed);
    pool_worker_disconnect(&workers[0]);
    pool_worker_disconnect(&workers[1]);
    lam_loader_destroy(loader);
}

/* ---- the rest of the protocol ---- */

static void the_model_is_described_and_its_header_is_readable(void **state)
{
    struct lam_loader *loader = live_start("auto", LAM_READER_AUTO);
    Laminar__V1__RegisterModelResponse *it;
    struct pool_worker worker;
    struct lam_err err = {0};
    struct lam_rpc_stream *stream;
    static const unsigned char request[] = {0x08, 0x01}; /* model: 1 */
    struct lam_buf chunk = LAM_BUF(2 << 20);
    uint64_t header_bytes;
    uint64_t have = 0;
    bool end = false;

    (void)state;
    pool_worker_connect(&worker, live_model.dir);
    it = pool_worker_register(&worker, "", &err);
    assert_non_null(it);
    assert_int_equal(it->model, 1);
    assert_int_equal(it->units, live_manifest.n_units);
    assert_int_equal(it->unit_bytes_total, live_manifest.unit_bytes_total);
    assert_int_equal(it->file_bytes, live_model.n_bytes);
    assert_int_equal(it->header_bytes, live_manifest.embedding.file_offset);
    assert_int_equal(it->units_kept, live_manifest.n_units);
    header_bytes = it->header_bytes;
    assert_non_null(pool_worker_register(&worker, live_model.path, &err));
    assert_null(pool_worker_register(&worker, "/other.gguf", &err));
    assert_int_equal(err.status, LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, "/other.gguf"));

    assert_int_equal(lam_rpc_stream_open(worker.channel, "/laminar.v1.Loader/ReadHeader",
                         LAM_RPC_NO_TIMEOUT, &stream, NULL),
        LAM_OK);
    assert_int_equal(lam_rpc_stream_send(stream, request, sizeof(request), NULL), LAM_OK);
    assert_int_equal(lam_rpc_stream_half_close(stream, NULL), LAM_OK);
    for (;;) {
        assert_int_equal(lam_rpc_stream_recv(stream, &chunk, &end, &err), LAM_OK);
        if (end)
            break;
        have += chunk.size;
    }
    /* The chunks and a few bytes of framing each. */
    assert_in_range(have, header_bytes, header_bytes + 32);
    assert_memory_equal(chunk.data + chunk.size - 64, live_model.bytes + header_bytes - 64, 64);
    lam_buf_done(&chunk);
    lam_rpc_stream_destroy(stream);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

static void rows_come_from_the_pool_or_from_the_disk(void **state)
{
    static const uint32_t percents[] = {25, 100};
    const struct lam_extent *rows = &live_manifest.embedding;
    Laminar__V1__ReadExtentResponse *response = NULL;

    (void)state;
    for (size_t p = 0; p < 2; p++) {
        char text[32];
        struct lam_loader *loader = live_start(live_share(percents[p], text), LAM_READER_AUTO);
        struct lam_err err = {0};
        struct pool_worker worker;
        uint64_t offsets[512];

        pool_worker_connect(&worker, live_model.dir);
        for (int repeat = 0; repeat < 2; repeat++) {
            for (uint64_t i = 0; i < 512; i++)
                offsets[i] = rows->file_offset + i * 7919 % rows->n_rows * rows->row_bytes;
            assert_int_equal(
                pool_worker_extent(&worker, offsets, 512, rows->row_bytes, &response, &err),
                LAM_OK);
            assert_int_equal(response->data.len, 512 * rows->row_bytes);
            for (uint64_t i = 0; i < 512; i++)
                assert_memory_equal(response->data.data + i * rows->row_bytes,
                    live_model.bytes + offsets[i], rows->row_bytes);
        }
        offsets[0] = live_model.n_bytes - 10;
        assert_int_equal(pool_worker_extent(&worker, offsets, 1, 10, &response, &err), LAM_OK);
        assert_int_equal(
            pool_worker_extent(&worker, offsets, 1, 11, &response, &err), LAM_OUT_OF_RANGE);
        offsets[0] = UINT64_MAX - 3;
        assert_int_equal(
            pool_worker_extent(&worker, offsets, 1, 11, &response, &err), LAM_OUT_OF_RANGE);
        assert_int_equal(
            pool_worker_extent(&worker, offsets, 512, 4096, &response, &err), LAM_INVALID_ARGUMENT);
        assert_int_equal(
            pool_worker_extent(&worker, offsets, 0, 10, &response, &err), LAM_INVALID_ARGUMENT);
        assert_int_equal(
            pool_worker_extent(&worker, offsets, 2, UINT64_MAX / 2 + 1, &response, &err),
            LAM_INVALID_ARGUMENT);
        pool_worker_disconnect(&worker);
        lam_loader_destroy(loader);
    }
}

/* Calls that have ended leave their requests in the queue of a slow drive. Nobody counted these: a
 * client that asked and hung up, again and again, took all of the loader's memory. */
static void what_waits_for_rows_is_bounded(void **state)
{
    Laminar__V1__ReadExtentResponse *response = NULL;
    uint64_t timeout_ns = 5 * LAM_NS_PER_MS, begin_ns = lam_now_ns();
    enum lam_status status = LAM_DEADLINE_EXCEEDED;
    struct lam_err err = {0};
    struct pool_worker worker;
    struct lam_loader *loader;
    uint64_t offset = 0; /* of the header, which is in no unit */
    uint32_t n = 0;
    char text[32];

    (void)state;
    loader = live_start(live_share(25, text), LAM_READER_AUTO);
    pool_worker_connect(&worker, live_model.dir);
    lam_fault_hold("extent", 0);
    for (; status == LAM_DEADLINE_EXCEEDED && lam_now_ns() - begin_ns < 2 * LIVE_LIMIT_NS; n++) {
        worker.timeout_ns = timeout_ns;
        status = pool_worker_extent(&worker, &offset, 1, 10, &response, &err);
        if (n % 1000 == 999)
            timeout_ns *= 2; /* a machine so busy that requests do not arrive in time */
    }
    worker.timeout_ns = 0;
    lam_fault_hold(NULL, 0);
    assert_int_equal(status, LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "wait for the drive"));
    assert_true(n > LAM_EXTENT_WAITING_MAX);
    while (status == LAM_RESOURCE_EXHAUSTED)
        status = pool_worker_extent(&worker, &offset, 1, 10, &response, &err);
    assert_int_equal(status, LAM_OK);
    assert_memory_equal(response->data.data, live_model.bytes, 10);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

/* A session that names the table gets it behind all units, and questions for its rows are answered
 * from the pool then; who names nothing causes no reading of it. */
static void check_table(const char *ram, bool kept)
{
    const struct lam_unit *table = &live_manifest.units[live_manifest.n_units];
    struct lam_loader *loader = live_start(ram, LAM_READER_AUTO);
    Laminar__V1__RegisterModelResponse *it;
    Laminar__V1__GetStatsResponse *stats;
    Laminar__V1__ReadExtentResponse *rows = NULL;
    struct pool_worker worker;
    struct pool_event event;
    uint64_t offset = table->file_offset;
    uint32_t units[64];
    uint64_t n_read;

    pool_worker_connect(&worker, live_model.dir);
    it = pool_worker_register(&worker, "", NULL);
    assert_int_equal(it->table_kept, kept);
    assert_int_equal(it->units, live_manifest.n_units);
    assert_int_equal(it->units_kept, live_manifest.n_units);
    pool_worker_open(&worker);
    live_walk(&worker, 2);
    stats = pool_worker_stats(&worker);
    assert_int_equal(stats->units_loaded, live_manifest.n_units);
    assert_int_equal(stats->units_kept_loaded, stats->units_kept);
    pool_worker_disconnect(&worker);

    pool_worker_connect(&worker, live_model.dir);
    for (uint32_t u = 0; u <= live_manifest.n_units; u++)
        units[u] = u;
    worker.units = units;
    worker.n_units = live_manifest.n_units + 1;
    pool_worker_open(&worker);
    if (kept) {
        for (uint32_t u = 0; u <= live_manifest.n_units; u++) {
            assert_int_equal(pool_worker_next(&worker, &event, NULL), LAM_OK);
            assert_true(event.kept);
            live_check_unit(&worker, &event);
        }
        assert_int_equal(event.unit, live_manifest.n_units); /* the only one that was not here */
        n_read = pool_worker_stats(&worker)->disk_bytes;
        assert_int_equal(pool_worker_extent(&worker, &offset, 1, 4096, &rows, NULL), LAM_OK);
        assert_memory_equal(rows->data.data, live_model.bytes + offset, 4096);
        assert_int_equal(pool_worker_stats(&worker)->disk_bytes, n_read);
    } else {
        assert_int_equal(pool_worker_next(&worker, &event, NULL), LAM_INVALID_ARGUMENT);
    }
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

static void the_table_is_kept_where_all_else_is(void **state)
{
    uint64_t table_bytes;
    char text[32];

    (void)state;
    live_drop_model();
    model_file_untied = true;
    live_use_model(32);
    model_file_untied = false;
    assert_true(live_manifest.has_table && live_manifest.n_units < 64);
    table_bytes = live_manifest.units[live_manifest.n_units].bytes;
    check_table("auto", true);
    snprintf(text, sizeof(text), "%" PRIu64 "KiB",
        (live_manifest.unit_bytes_total + live_manifest.n_units * 8192 + table_bytes / 2) / 1024);
    check_table(text, false);
    live_drop_model();
    live_use_model(0);
}

/* Asks again while one of the units is being read. */
static enum lam_status pin_when_quiet(
    struct pool_worker *worker, uint32_t *units, size_t n_units, struct lam_err *err)
{
    enum lam_status status;

    do
        status = pool_worker_pin(worker, units, n_units, err);
    while (status == LAM_ABORTED);
    return status;
}

static void pinned_units_stay(void **state)
{
    char text[32];
    struct lam_loader *loader = live_start(live_share(60, text), LAM_READER_AUTO);
    uint32_t layers[] = {0, 1}, all[64], beyond = 4711;
    struct pool_worker worker;
    struct pool_event event;
    struct lam_err err = {0};

    (void)state;
    pool_worker_connect(&worker, live_model.dir);
    if (pin_when_quiet(&worker, layers, 2, &err) != LAM_OK)
        fail_msg("%s", err.text);
    for (uint32_t u = 0; u < live_manifest.n_units; u++)
        all[u] = u;
    assert_int_equal(
        pin_when_quiet(&worker, all, live_manifest.n_units, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "unpin one"));
    assert_int_equal(pool_worker_unpin(&worker, all + 2, live_manifest.n_units - 2, &err), LAM_OK);
    assert_int_equal(pool_worker_pin(&worker, &beyond, 1, &err), LAM_INVALID_ARGUMENT);
    pool_worker_open(&worker);
    live_walk(&worker, 1);
    /* Of a second pass only what streams: both are not among it. */
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(pool_worker_next(&worker, &event, &err), LAM_OK);
        if (event.kept)
            continue;
        assert_true(event.unit > 1);
        pool_worker_release(&worker, event.unit, event.generation);
        pool_worker_credit(&worker, 1);
    }
    worker.model = 9;
    assert_int_equal(pool_worker_pin(&worker, layers, 2, &err), LAM_NOT_FOUND);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

static void a_stale_release_ends_the_session(void **state)
{
    char text[32];
    struct lam_loader *loader = live_start(live_share(25, text), LAM_READER_AUTO);
    struct pool_worker worker;
    struct pool_event event = {.kept = true};
    struct lam_err err = {0};

    (void)state;
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    pool_worker_credit(&worker, 1);
    while (event.kept)
        assert_int_equal(pool_worker_next(&worker, &event, &err), LAM_OK);
    pool_worker_release(&worker, event.unit, event.generation);
    pool_worker_release(&worker, event.unit, event.generation);
    assert_int_equal(live_end_of(&worker, &err), LAM_FAILED_PRECONDITION);
    assert_non_null(strstr(err.text, "generation"));
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

/* Takes and gives back n units that stream; each has to be one of the cycle, in its order. */
static void walk_cycle(struct pool_worker *worker, uint32_t n)
{
    uint32_t last = UINT32_MAX;

    pool_worker_credit(worker, 1);
    while (n > 0) {
        struct pool_event event;
        struct lam_err err = {0};
        size_t i = 0;

        if (pool_worker_next(worker, &event, &err) != LAM_OK)
            fail_msg("%s", err.text);
        while (i < worker->n_units && worker->units[i] != event.unit)
            i++;
        assert_true(i < worker->n_units);
        live_check_unit(worker, &event);
        if (event.kept)
            continue;
        assert_true(last == UINT32_MAX || event.unit > last || event.unit < worker->units[2]);
        last = event.unit;
        n--;
        pool_worker_release(worker, event.unit, event.generation);
        pool_worker_credit(worker, 1);
    }
}

/* A worker that copies some units into its device, and then streams the others. */
static void one_token_opens_cycles_one_after_the_other(void **state)
{
    char text[32];
    struct lam_loader *loader = live_start(live_share(20, text), LAM_READER_AUTO);
    uint32_t units[64];
    struct pool_worker worker;
    struct lam_err err = {0};

    (void)state;
    for (uint32_t u = 0; u < live_manifest.n_units; u++)
        units[u] = u;
    pool_worker_connect(&worker, live_model.dir);
    for (uint32_t half = 0; half < 2; half++) {
        worker.n_units = live_manifest.n_units / 2;
        worker.units = units + half * worker.n_units;
        pool_worker_open(&worker);
        walk_cycle(&worker, 3 * live_manifest.n_units);
        assert_int_equal(lam_rpc_stream_half_close(worker.stream, NULL), LAM_OK);
        assert_int_equal(live_end_of(&worker, &err), LAM_CANCELLED); /* a good end */
        assert_int_equal(pool_worker_stats(&worker)->leases, 0);
        lam_rpc_stream_destroy(worker.stream);
    }
    units[0] = live_manifest.n_units;
    worker.units = units;
    worker.n_units = 1;
    pool_worker_open(&worker);
    assert_int_equal(live_end_of(&worker, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "for a cycle"));
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

static void sessions_need_a_token_and_come_one_to_a_connection(void **state)
{
    struct lam_loader *loader = live_start("auto", LAM_READER_AUTO);
    struct pool_worker worker, forger;
    struct lam_err err = {0};

    (void)state;
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_connect(&forger, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 1);

    memcpy(forger.token, worker.token, sizeof(forger.token));
    pool_worker_open(&forger);
    assert_int_equal(live_end_of(&forger, &err), LAM_FAILED_PRECONDITION);
    lam_rpc_stream_destroy(forger.stream);
    forger.token[3] ^= 1;
    pool_worker_open(&forger);
    assert_int_equal(live_end_of(&forger, &err), LAM_PERMISSION_DENIED);

    live_walk(&worker, 0);
    assert_int_equal(pool_worker_stats(&worker)->sessions, 1);
    pool_worker_disconnect(&forger);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_of_every_pass_is_that_of_the_file),
        cmocka_unit_test(units_at_any_alignment_arrive_whole),
        cmocka_unit_test(two_workers_in_phase_cost_one_read),
        cmocka_unit_test(the_model_is_described_and_its_header_is_readable),
        cmocka_unit_test(rows_come_from_the_pool_or_from_the_disk),
        cmocka_unit_test(what_waits_for_rows_is_bounded),
        cmocka_unit_test(the_table_is_kept_where_all_else_is),
        cmocka_unit_test(pinned_units_stay),
        cmocka_unit_test(a_stale_release_ends_the_session),
        cmocka_unit_test(one_token_opens_cycles_one_after_the_other),
        cmocka_unit_test(sessions_need_a_token_and_come_one_to_a_connection),
    };

    lam_log_init("service_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, live_set_up, live_tear_down);
}
