/*
 * flips: a bit that is not what it was, anywhere in what a worker computes on, is never let
 * through. The parts between the drive and the sessions, for a thousand flips; the whole loader,
 * for a few.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "loader/checker.h"
#include "loader/pool.h"
#include "tests/fault/faulty_mount.h"
#include "tests/unit/loader/live_loader.h"

#define N_FLIPS 1000u

/* ---- reader and checker without sessions ---- */

struct path {
    struct lam_file file;
    struct lam_layout layout;
    struct lam_pool pool;
    struct lam_integrity *integrity;
    struct lam_checker *checker;
    struct lam_reader *reader;
    uint64_t generation;
    uint64_t n_issued;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ended;
    bool lost;
    struct lam_load_end end;
};

static void on_done(void *arg, const struct lam_load_end *end)
{
    struct path *path = arg;

    pthread_mutex_lock(&path->lock);
    path->end = *end;
    path->ended = true;
    pthread_cond_signal(&path->changed);
    pthread_mutex_unlock(&path->lock);
}

static void on_issued(void *arg, const struct lam_load *load)
{
    struct path *path = arg;

    (void)load;
    pthread_mutex_lock(&path->lock);
    path->n_issued++;
    pthread_mutex_unlock(&path->lock);
}

static void on_lost(void *arg, const struct lam_err *err)
{
    struct path *path = arg;

    (void)err;
    pthread_mutex_lock(&path->lock);
    path->lost = true;
    pthread_mutex_unlock(&path->lock);
}

/* Everything has a place of its own in the pool. */
static void open_path(struct path *path)
{
    struct lam_manifest *manifest = &path->file.manifest;
    struct lam_checker_config checker = {.file = &path->file,
        .layout = &path->layout,
        .on_done = on_done,
        .on_issued = on_issued,
        .on_lost = on_lost,
        .arg = path};
    struct lam_reader_config reader = {.file = &path->file,
        .on_done = lam_checker_on_load_end,
        .on_issued = lam_checker_on_issued};
    struct lam_policy_request layout = {
        .budget_bytes = (uint64_t)1 << 30, .lanes_wanted = LAM_KEPT_LANES_WANTED};

    memset(path, 0, sizeof(*path));
    pthread_mutex_init(&path->lock, NULL);
    pthread_cond_init(&path->changed, NULL);
    assert_int_equal(lam_file_open(faulty_path, NULL, &path->file, NULL), LAM_OK);
    layout.n_units = manifest->n_units;
    layout.units = manifest->units;
    layout.align = path->file.align;
    assert_int_equal(lam_policy_layout(&layout, &path->layout, NULL), LAM_OK);
    assert_int_equal(path->layout.n_kept, manifest->n_units);
    assert_int_equal(
        lam_pool_init(path->layout.pool_bytes, path->layout.pool_bytes, &path->pool, NULL), LAM_OK);
    assert_int_equal(lam_integrity_open(&path->file, NULL, &path->integrity, NULL), LAM_OK);
    checker.integrity = path->integrity;
    checker.pool_base = reader.pool_base = path->pool.base;
    assert_int_equal(lam_checker_create(&checker, &path->checker, NULL), LAM_OK);
    reader.arg = path->checker;
    reader.regions = path->layout.regions;
    reader.n_regions = path->layout.n_regions;
    assert_int_equal(lam_reader_create(&reader, &path->reader, NULL), LAM_OK);
    lam_checker_connect(path->checker, path->reader);
}

static void close_path(struct path *path)
{
    lam_checker_stop(path->checker);
    lam_reader_destroy(path->reader);
    lam_checker_destroy(path->checker);
    lam_integrity_close(path->integrity);
    lam_pool_done(&path->pool);
    lam_layout_done(&path->layout);
    lam_file_close(&path->file);
    pthread_cond_destroy(&path->changed);
    pthread_mutex_destroy(&path->lock);
}

/* Reads a unit and says how that ended. */
static enum lam_status load_unit(struct path *path, uint32_t unit)
{
    uint32_t place = path->layout.n_slots + unit;
    struct lam_load load = {.place = place,
        .generation = ++path->generation,
        .window = lam_policy_window(&path->file.manifest.units[unit], path->file.align),
        .pool_offset = path->layout.places[place].pool_offset};
    uint64_t issued_before = path->n_issued;

    path->ended = false;
    lam_checker_load(path->checker, unit, &load);
    pthread_mutex_lock(&path->lock);
    while (!path->ended)
        pthread_cond_wait(&path->changed, &path->lock);
    assert_false(path->lost);
    assert_int_equal(path->n_issued, issued_before + 1); /* however often it was read */
    pthread_mutex_unlock(&path->lock);
    assert_int_equal(path->end.place, place);
    assert_int_equal(path->end.generation, path->generation);
    return path->end.status;
}

/* Reads one chunk, as units or as rows are read. */
static enum lam_status read_chunk(struct path *path, uint64_t chunk, struct lam_err *err)
{
    static unsigned char scratch[LAM_RECORD_SMALL_CHUNK_BYTES];
    static unsigned char bytes[LAM_RECORD_SMALL_CHUNK_BYTES];
    struct lam_record_chunk where = lam_integrity_chunk(path->integrity, chunk);

    for (uint32_t u = 0; u < path->file.manifest.n_units; u++) {
        uint64_t first, n;
        enum lam_status status;

        lam_integrity_chunks_of(path->integrity, u, &first, &n);
        if (chunk < first || chunk >= first + n)
            continue;
        status = load_unit(path, u);
        *err = path->end.err;
        return status;
    }
    return lam_integrity_read(path->integrity, where.file_offset, bytes, where.bytes, scratch, err);
}

/* Every byte of every chunk, beside the file. */
static void check_all(struct path *path)
{
    struct lam_integrity_counts counts;
    struct lam_err err = {0};

    lam_integrity_count(path->integrity, &counts);
    for (uint64_t c = 0; c < counts.chunks; c++)
        assert_int_equal(read_chunk(path, c, &err), LAM_OK);
    for (uint32_t u = 0; u < path->file.manifest.n_units; u++) {
        const struct lam_unit *unit = &path->file.manifest.units[u];
        uint64_t pool_offset = path->layout.places[path->layout.n_slots + u].pool_offset +
                               unit->file_offset % path->layout.align;

        assert_memory_equal(
            path->pool.base + pool_offset, live_model.bytes + unit->file_offset, unit->bytes);
    }
}

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static void a_thousand_flips_are_refused(void **state)
{
    struct path *path = lam_calloc(1, sizeof(*path));
    struct lam_integrity_counts counts;
    uint64_t random = 0x9e3779b97f4a7c15ull;
    uint32_t n_refused = 0;

    (void)state;
    assert_non_null(path);
    faulty_need();
    open_path(path);
    check_all(path); /* first sight */
    lam_integrity_count(path->integrity, &counts);
    assert_int_equal(counts.known, counts.chunks);
    for (uint32_t i = 0; i < N_FLIPS; i++) {
        uint64_t chunk = i % counts.chunks;
        struct lam_record_chunk where = lam_integrity_chunk(path->integrity, chunk);
        uint64_t offset = where.file_offset + next_random(&random) % where.bytes;
        struct lam_err err = {0};
        char begin[32];

        faulty_set("flip %" PRIu64 " %u", offset, (unsigned)(next_random(&random) % 8));
        n_refused += read_chunk(path, chunk, &err) == LAM_DATA_LOSS;
        snprintf(begin, sizeof(begin), "bytes at %" PRIu64 " ", where.file_offset);
        assert_non_null(strstr(err.text, begin));
        assert_non_null(strstr(err.text, faulty_path));
    }
    assert_int_equal(n_refused, N_FLIPS);
    faulty_set("clear");
    check_all(path);
    lam_integrity_count(path->integrity, &counts);
    assert_int_equal(counts.crc_failures, 2 * N_FLIPS); /* each was read twice */
    close_path(path);
    lam_free(path);
}

/* A bit that flips on the way, once: the second read is right, and nobody hears of it. */
static void a_passing_flip_is_read_again(void **state)
{
    struct path *path = lam_calloc(1, sizeof(*path));
    struct lam_integrity_counts counts;
    struct lam_err err = {0};

    (void)state;
    assert_non_null(path);
    faulty_need();
    open_path(path);
    check_all(path);
    lam_integrity_count(path->integrity, &counts);
    for (uint64_t c = 0; c < counts.chunks; c++) {
        struct lam_record_chunk where = lam_integrity_chunk(path->integrity, c);

        faulty_set("glitch %" PRIu64 " 5", where.file_offset + where.bytes - 1);
        assert_int_equal(read_chunk(path, c, &err), LAM_OK);
        lam_integrity_count(path->integrity, &counts);
        assert_int_equal(counts.crc_failures, c + 1);
    }
    check_all(path);
    close_path(path);
    lam_free(path);
}

/* ---- the whole loader ---- */

static uint64_t middle_of(uint32_t unit)
{
    return live_manifest.units[unit].file_offset + live_manifest.units[unit].bytes / 2;
}

/* Walks on until the unit comes, or its fault; all others have to come unharmed. */
static struct pool_event walk_to(struct pool_worker *worker, uint32_t unit)
{
    struct pool_event event;
    struct lam_err err = {0};

    for (;;) {
        if (pool_worker_next(worker, &event, &err) != LAM_OK)
            fail_msg("%s", err.text);
        if (event.fault || event.unit == unit)
            return event;
        live_check_unit(worker, &event);
        pool_worker_release(worker, event.unit, event.generation);
        pool_worker_credit(worker, 1);
    }
}

/* Unit 5 of a model that streams: right in the first pass, flipped in the second. */
static struct pool_event see_flip(struct pool_worker *worker, bool no_checksums)
{
    char text[32];
    struct lam_loader *loader = faulty_start(live_share(24, text), LAM_READER_AUTO, no_checksums);
    struct pool_event event;

    pool_worker_connect(worker, live_model.dir);
    assert_int_equal(pool_worker_register(worker, "", NULL)->units_kept, 0);
    pool_worker_open(worker);
    pool_worker_credit(worker, 1);
    for (uint32_t u = 0; u < live_manifest.n_units; u++) {
        event = walk_to(worker, u);
        assert_false(event.fault);
        pool_worker_release(worker, u, event.generation);
        if (u == 8) /* what follows is read in the next pass */
            faulty_set("flip %" PRIu64 " 0", middle_of(5));
        pool_worker_credit(worker, 1);
    }
    event = walk_to(worker, 5);
    if (no_checksums)
        assert_memory_not_equal(worker->pool + event.pool_offset,
            live_model.bytes + live_manifest.units[5].file_offset, live_manifest.units[5].bytes);
    else
        assert_true(pool_worker_stats(worker)->crc_failures >= 2);
    faulty_set("clear");
    if (!no_checksums) { /* it is tried again, and others were not disturbed */
        struct pool_event later = walk_to(worker, 5);

        while (later.fault)
            later = walk_to(worker, 5);
        live_check_unit(worker, &later);
    }
    pool_worker_disconnect(worker);
    lam_loader_destroy(loader);
    return event;
}

static void the_loader_reports_a_flip_and_grants_nothing(void **state)
{
    struct pool_worker worker;
    struct pool_event event;

    (void)state;
    faulty_need();
    event = see_flip(&worker, false);
    assert_true(event.fault);
    assert_int_equal(event.unit, 5);
    assert_int_equal(event.status, LAM_DATA_LOSS);
    assert_non_null(strstr(event.reason, faulty_path));
}

/* The control: it is the checksums that refuse. */
static void without_checksums_a_flip_goes_through(void **state)
{
    struct pool_worker worker;
    struct pool_event event;

    (void)state;
    faulty_need();
    event = see_flip(&worker, true);
    assert_false(event.fault);
    assert_int_equal(event.unit, 5);
}

static void a_flipped_row_is_refused(void **state)
{
    char text[32];
    struct lam_loader *loader;
    struct pool_worker worker;
    uint64_t offset = live_manifest.embedding.file_offset + 7 * live_manifest.embedding.row_bytes;
    Laminar__V1__ReadExtentResponse *response;
    struct lam_err err = {0};

    (void)state;
    faulty_need();
    loader = faulty_start(live_share(24, text), LAM_READER_AUTO, false);
    pool_worker_connect(&worker, live_model.dir);
    for (int i = 0; i < 3; i++) {
        enum lam_status expected = i == 1 ? LAM_DATA_LOSS : LAM_OK;

        if (i == 1)
            faulty_set("flip %" PRIu64 " 7", offset + 1);
        else
            faulty_set("clear");
        assert_int_equal(pool_worker_extent(&worker, &offset, 1, live_manifest.embedding.row_bytes,
                             &response, &err),
            expected);
        if (expected == LAM_OK)
            assert_memory_equal(
                response->data.data, live_model.bytes + offset, live_manifest.embedding.row_bytes);
    }
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thousand_flips_are_refused),
        cmocka_unit_test(a_passing_flip_is_read_again),
        cmocka_unit_test(the_loader_reports_a_flip_and_grants_nothing),
        cmocka_unit_test(without_checksums_a_flip_goes_through),
        cmocka_unit_test(a_flipped_row_is_refused),
    };

    lam_log_init("flips_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, faulty_set_up, faulty_tear_down);
}
