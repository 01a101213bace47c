/* verify: laminar.v1.Loader/Verify over a drive whose bits flip and whose reads hang. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "loader/verify.h"
#include "tests/fault/faulty_mount.h"
#include "tests/unit/loader/live_loader.h"

/* What one call told, to its end. */
struct told {
    uint64_t done_bytes; /* the last progress */
    uint32_t n_findings;
    uint64_t offset, bytes; /* of the last finding */
    char part[LAM_VERIFY_PART_BYTES];
    uint32_t n_summaries;
    uint64_t total_bytes, chunks, compared, recorded, different;
};

static void take(const Laminar__V1__VerifyResponse *response, struct told *told)
{
    assert_int_equal(told->n_summaries, 0); /* it comes last */
    if (response->kind_case == LAMINAR__V1__VERIFY_RESPONSE__KIND_PROGRESS) {
        assert_true(response->progress->done_bytes >= told->done_bytes);
        told->done_bytes = response->progress->done_bytes;
        told->total_bytes = response->progress->total_bytes;
    } else if (response->kind_case == LAMINAR__V1__VERIFY_RESPONSE__KIND_FINDING) {
        told->n_findings++;
        told->offset = response->finding->offset;
        told->bytes = response->finding->bytes;
        snprintf(told->part, sizeof(told->part), "%s", response->finding->part);
    } else {
        assert_int_equal(response->kind_case, LAMINAR__V1__VERIFY_RESPONSE__KIND_SUMMARY);
        told->n_summaries++;
        assert_int_equal(told->total_bytes, response->summary->total_bytes);
        told->chunks = response->summary->chunks;
        told->compared = response->summary->compared;
        told->recorded = response->summary->recorded;
        told->different = response->summary->different;
    }
}

/* How the call ended. */
static enum lam_status listen_to(
    struct pool_worker *worker, struct lam_rpc_stream *stream, struct told *told)
{
    Laminar__V1__VerifyResponse *response;
    struct lam_err err = {0};
    enum lam_status status;

    memset(told, 0, sizeof(*told));
    do {
        status = pool_worker_verified(worker, stream, &response, &err);
        if (status == LAM_OK && response != NULL)
            take(response, told);
    } while (status == LAM_OK && response != NULL);
    lam_rpc_stream_destroy(stream);
    return status;
}

static struct told verify(struct pool_worker *worker)
{
    struct told told;

    assert_int_equal(listen_to(worker, pool_worker_verify(worker), &told), LAM_OK);
    assert_int_equal(told.n_summaries, 1);
    assert_int_equal(told.done_bytes, told.total_bytes);
    assert_int_equal(told.compared + told.recorded, told.chunks);
    return told;
}

/* A loader of the model on the faulty drive, and a worker that knows it. */
static struct lam_loader *start(bool no_checksums, struct pool_worker *worker)
{
    struct lam_loader *loader;
    char text[32];

    faulty_need();
    loader = faulty_start(live_share(24, text), LAM_READER_AUTO, no_checksums);
    pool_worker_connect(worker, live_model.dir);
    return loader;
}

/* The first call makes the record that the units are compared with, and the other way round. */
static void it_records_compares_and_finds(void **state)
{
    const struct lam_unit *unit = &live_manifest.units[3];
    uint64_t offset = unit->file_offset + unit->bytes / 2;
    struct lam_loader *loader;
    struct pool_worker worker;
    struct told told;

    (void)state;
    loader = start(false, &worker);
    told = verify(&worker);
    assert_true(told.total_bytes >= live_manifest.unit_bytes_total);
    assert_int_equal(told.different, 0);
    told = verify(&worker);
    assert_int_equal(told.compared, told.chunks);
    assert_int_equal(told.n_findings, 0);

    faulty_set("flip %" PRIu64 " 3", offset);
    told = verify(&worker);
    assert_int_equal(told.different, 1);
    assert_int_equal(told.n_findings, 1);
    assert_true(told.offset <= offset && offset < told.offset + told.bytes);
    assert_string_equal(told.part, "layer 3");
    faulty_set("clear");
    assert_int_equal(verify(&worker).different, 0);
    pool_worker_open(&worker);
    live_walk(&worker, 2);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

/* On a drive that hangs, so that there is a meanwhile. */
static void one_at_a_time_until_it_is_given_up(void **state)
{
    struct lam_loader *loader;
    struct pool_worker worker;
    struct lam_rpc_stream *first;
    struct told told;

    (void)state;
    loader = start(false, &worker);
    told = verify(&worker);
    faulty_set("stall 600000");
    first = pool_worker_verify(&worker);
    assert_int_equal(listen_to(&worker, pool_worker_verify(&worker), &told), LAM_ALREADY_EXISTS);
    lam_rpc_stream_destroy(first); /* a client that goes away */
    faulty_set("clear");
    do { /* the read that is under way ends first */
        lam_sleep_ns(20 * LAM_NS_PER_MS);
    } while (listen_to(&worker, pool_worker_verify(&worker), &told) == LAM_ALREADY_EXISTS);
    assert_int_equal(told.n_summaries, 1);
    assert_int_equal(told.compared, told.chunks);

    /* Nor does the end of the loader wait for more than the read that is under way. */
    faulty_set("stall 2000");
    first = pool_worker_verify(&worker);
    faulty_wait_stalled();
    lam_loader_destroy(loader);
    assert_int_not_equal(listen_to(&worker, first, &told), LAM_OK);
    faulty_set("clear");
    pool_worker_disconnect(&worker);
}

/* It rests nine times as long as it works while somebody streams, and work is at least what the
 * drive takes, however fast or busy the machine is. */
static void sessions_come_first(void **state)
{
    uint64_t n_reads, begin_ns, took_ns;
    struct lam_loader *loader;
    struct pool_worker worker;

    (void)state;
    loader = start(false, &worker);
    n_reads = faulty_reads();
    verify(&worker);
    n_reads = faulty_reads() - n_reads;
    faulty_set("stall 20");
    pool_worker_open(&worker);
    begin_ns = lam_now_ns();
    verify(&worker);
    took_ns = lam_now_ns() - begin_ns;
    assert_true(took_ns > 9 * n_reads * 20 * LAM_NS_PER_MS);
    faulty_set("clear");
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

static void without_checksums_there_is_nothing_to_compare(void **state)
{
    struct lam_loader *loader;
    struct pool_worker worker;
    struct told told;

    (void)state;
    loader = start(true, &worker);
    assert_int_equal(
        listen_to(&worker, pool_worker_verify(&worker), &told), LAM_FAILED_PRECONDITION);
    worker.model = 7;
    assert_int_equal(listen_to(&worker, pool_worker_verify(&worker), &told), LAM_NOT_FOUND);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_records_compares_and_finds),
        cmocka_unit_test(one_at_a_time_until_it_is_given_up),
        cmocka_unit_test(sessions_come_first),
        cmocka_unit_test(without_checksums_there_is_nothing_to_compare),
    };

    lam_log_init("verify_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, faulty_set_up, faulty_tear_down);
}
