/* reader: both engines, direct or not, bring the same bytes, despite failures. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "loader/file.h"
#include "loader/pool.h"
#include "loader/reader.h"
#include "tests/unit/loader/model_file.h"

#define LOADS 16u

static struct model_file model;
static struct lam_file file;
static struct lam_pool pool;
static struct lam_region regions[2];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct lam_load_end ends[LOADS];
static uint32_t n_ends;

static int set_up(void **state)
{
    struct lam_err err = {0};

    (void)state;
    model_file_make(&model, 32);
    assert_int_equal(lam_file_open(model.path, NULL, &file, &err), LAM_OK);
    regions[0] = (struct lam_region){.pool_offset = 0, .bytes = 1 << 20};
    regions[1] = (struct lam_region){.pool_offset = 1 << 20, .bytes = 15 << 20};
    return (int)lam_pool_init(16 << 20, 16 << 20, &pool, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    lam_pool_done(&pool);
    lam_file_close(&file);
    model_file_remove(&model);
    return 0;
}

static void on_done(void *arg, const struct lam_load_end *end)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    assert_true(n_ends < LOADS);
    ends[n_ends++] = *end;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static struct lam_reader *start(enum lam_reader_choice choice)
{
    struct lam_reader_config config = {.file = &file,
        .pool_base = pool.base,
        .regions = regions,
        .n_regions = 2,
        .choice = choice,
        .request_bytes = 64 << 10,
        .depth = 8,
        .on_done = on_done};
    struct lam_reader *reader = NULL;

    n_ends = 0;
    memset(pool.base, 0, pool.bytes);
    assert_int_equal(lam_reader_create(&config, &reader, NULL), LAM_OK);
    lam_reader_add_region(reader, 1);
    return reader;
}

/* Loads units 0..LOADS-1 of the model back to back; returns how many failed. */
static uint32_t load_all(struct lam_reader *reader, uint32_t n_loads)
{
    uint64_t at = 0;
    uint32_t n_failed = 0;
    uint64_t offsets[LOADS];

    for (uint32_t u = 0; u < n_loads; u++) {
        struct lam_load load = {.place = u,
            .generation = u + 1,
            .window = lam_policy_window(&file.manifest.units[u], file.align),
            .pool_offset = at};

        offsets[u] = at;
        at += load.window.bytes;
        assert_true(at <= pool.bytes);
        lam_reader_load(reader, &load);
    }
    pthread_mutex_lock(&lock);
    while (n_ends < n_loads)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    for (uint32_t e = 0; e < n_loads; e++) {
        const struct lam_unit *unit = &file.manifest.units[ends[e].place];

        assert_int_equal(ends[e].generation, ends[e].place + 1);
        if (ends[e].status != LAM_OK) {
            n_failed++;
            continue;
        }
        assert_memory_equal(pool.base + offsets[ends[e].place] + unit->file_offset % file.align,
            model.bytes + unit->file_offset, unit->bytes);
    }
    return n_failed;
}

static void each_engine_brings_every_byte(void **state)
{
    (void)state;
    for (int buffered = 0; buffered < 2; buffered++) {
        int direct_fd = file.parts[0].direct_fd;

        if (buffered)
            file.parts[0].direct_fd = -1;
        for (enum lam_reader_choice c = LAM_READER_IO_URING; c <= LAM_READER_PREAD; c++) {
            struct lam_reader *reader = start(c);
            struct lam_reader_info info;
            uint64_t want = 0;

            assert_int_equal(load_all(reader, 13), 0);
            for (uint32_t u = 0; u < 13; u++)
                want += file.manifest.units[u].bytes;
            lam_reader_info(reader, &info);
            assert_string_equal(info.engine, c == LAM_READER_PREAD ? "pread" : "io_uring");
            if (buffered)
                assert_false(info.direct);
            assert_int_equal(strlen(info.note) > 0, !info.direct);
            assert_in_range(info.bytes, want, want + 14 * 2 * file.align);
            assert_true(info.reads >= want / (64 << 10));
            lam_reader_destroy(reader);
        }
        file.parts[0].direct_fd = direct_fd;
    }
}

/* One failure is repaired by the next try; nothing ends twice and nothing is lost. */
static void one_failing_read_is_repaired(void **state)
{
    (void)state;
    for (enum lam_reader_choice c = LAM_READER_IO_URING; c <= LAM_READER_PREAD; c++) {
        uint64_t nth = 0;

        do {
            struct lam_reader *reader = start(c);

            lam_fault_arm("read", ++nth);
            assert_int_equal(load_all(reader, 2), 0);
            lam_reader_destroy(reader);
        } while (lam_fault_fired());
        lam_fault_arm("read", 0);
        assert_true(nth > 10);
    }
}

static void a_reader_can_end_with_loads_under_way(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        struct lam_reader *reader = start(round % 2 == 0 ? LAM_READER_IO_URING : LAM_READER_PREAD);

        for (uint32_t u = 0; u < 10; u++) {
            struct lam_load load = {.place = u,
                .generation = 1,
                .window = lam_policy_window(&file.manifest.units[u], file.align),
                .pool_offset = u << 20};

            lam_reader_load(reader, &load);
        }
        lam_reader_destroy(reader);
        assert_true(n_ends <= 10);
    }
}

static void on_issued(void *arg, const struct lam_load *load)
{
    (void)load;
    pthread_mutex_lock(&lock);
    ++*(uint32_t *)arg;
    pthread_mutex_unlock(&lock);
}

/* A region of a GiB may take the kernel seconds to register. The thread of the ring was away for
 * that, for all regions in one go and before it asked the drive for anything, and a read that the
 * drive had answered long ago failed for being late. */
static void reads_do_not_wait_for_slow_registration(void **state)
{
    struct lam_region three[] = {{0, 1 << 20}, {1 << 20, 1 << 20}, {2 << 20, 14 << 20}};
    uint32_t n_issued = 0;
    struct lam_reader_config config = {.file = &file,
        .pool_base = pool.base,
        .regions = three,
        .n_regions = 3,
        .choice = LAM_READER_IO_URING,
        .request_bytes = 1 << 20,
        .depth = 8,
        .deadline_ns = 1,
        .on_done = on_done,
        .on_issued = on_issued,
        .arg = &n_issued};
    struct lam_reader *reader = NULL;

    (void)state;
    n_ends = 0;
    assert_int_equal(lam_reader_create(&config, &reader, NULL), LAM_OK);
    lam_fault_hold("register", 0);
    lam_reader_add_region(reader, 2);
    lam_fault_await(); /* the thread is away */
    for (uint32_t u = 0; u < 2; u++) {
        struct lam_load load = {.place = u,
            .generation = 1,
            .window = lam_policy_window(&file.manifest.units[u], file.align),
            .pool_offset = (2 + u * 6) << 20};

        lam_reader_load(reader, &load);
    }
    lam_reader_add_region(reader, 1);
    lam_fault_hold("register", 1);
    lam_fault_await();           /* away again, but it has been back */
    lam_sleep_ns(LAM_NS_PER_MS); /* a million deadlines */
    lam_reader_tick(reader);
    pthread_mutex_lock(&lock);
    assert_int_equal(n_issued, 2);
    assert_int_equal(n_ends, 0);
    pthread_mutex_unlock(&lock);
    lam_fault_hold(NULL, 0);
    pthread_mutex_lock(&lock);
    while (n_ends < 2)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    for (uint32_t u = 0; u < 2; u++) {
        const struct lam_unit *unit = &file.manifest.units[u];

        assert_int_equal(ends[u].status, LAM_OK);
        assert_memory_equal(pool.base + ((2 + u * 6) << 20) + unit->file_offset % file.align,
            model.bytes + unit->file_offset, unit->bytes);
    }
    lam_reader_destroy(reader);
}

/* The kernel was slow with one region: the next one is left as it is, and read all the same. */
static void a_slow_registration_is_the_last(void **state)
{
    struct lam_region three[] = {{0, 1 << 20}, {1 << 20, 1 << 20}, {2 << 20, 14 << 20}};
    struct lam_reader_config config = {.file = &file,
        .pool_base = pool.base,
        .regions = three,
        .n_regions = 3,
        .choice = LAM_READER_IO_URING,
        .on_done = on_done};
    const struct lam_unit *unit = &file.manifest.units[0];
    struct lam_load load = {
        .generation = 1, .window = lam_policy_window(unit, file.align), .pool_offset = 2 << 20};
    struct lam_reader_info info;
    struct lam_reader *reader = NULL;

    (void)state;
    n_ends = 0;
    assert_int_equal(lam_reader_create(&config, &reader, NULL), LAM_OK);
    lam_reader_info(reader, &info);
    assert_true(info.fixed_buffers);
    lam_fault_arm("slow register", 1);
    lam_reader_add_region(reader, 1);
    lam_reader_add_region(reader, 2);
    lam_reader_load(reader, &load);
    pthread_mutex_lock(&lock);
    while (n_ends < 1)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    for (info.fixed_buffers = true; info.fixed_buffers; lam_reader_info(reader, &info))
        lam_sleep_ns(LAM_NS_PER_MS);
    assert_true(lam_fault_fired());
    lam_fault_arm("slow register", 1);
    lam_reader_destroy(reader);
    assert_false(lam_fault_fired()); /* nobody has tried the third */
    lam_fault_arm(NULL, 0);
    assert_int_equal(ends[0].status, LAM_OK);
    assert_memory_equal(pool.base + (2 << 20) + unit->file_offset % file.align,
        model.bytes + unit->file_offset, unit->bytes);
}

/* Before the first start on a drive its speed is measured. When a read failed for good in that
 * time, nothing more was asked for, and the start waited for an answer for ever. */
static void a_file_that_fails_while_it_is_measured_is_told_by_its_loads(void **state)
{
    char io_cache[] = "/tmp/reader_test.XXXXXX";
    struct model_file cut_model;
    struct lam_file cut_file;
    struct lam_reader_config config = {.file = &cut_file,
        .pool_base = pool.base,
        .regions = regions,
        .n_regions = 2,
        .choice = LAM_READER_IO_URING,
        .io_cache = io_cache,
        .on_done = on_done};
    struct lam_reader *reader = NULL;
    struct lam_load load;

    (void)state;
    n_ends = 0;
    assert_non_null(mkdtemp(io_cache));
    model_file_make(&cut_model, 32);
    assert_int_equal(lam_file_open(cut_model.path, NULL, &cut_file, NULL), LAM_OK);
    assert_int_equal(truncate(cut_model.path, (off_t)cut_file.align), 0);
    assert_int_equal(lam_reader_create(&config, &reader, NULL), LAM_OK);
    load = (struct lam_load){
        .generation = 1, .window = lam_policy_window(&cut_file.manifest.units[0], cut_file.align)};
    lam_reader_load(reader, &load);
    pthread_mutex_lock(&lock);
    while (n_ends < 1)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    assert_int_equal(ends[0].status, LAM_DATA_LOSS);
    lam_reader_destroy(reader);
    lam_file_close(&cut_file);
    model_file_remove(&cut_model);
    assert_int_equal(rmdir(io_cache), 0); /* and nothing about it is remembered */
}

static void without_memory_there_is_no_reader_and_no_leak(void **state)
{
    uint64_t n = 0;

    (void)state;
    for (enum lam_reader_choice c = LAM_READER_IO_URING; c <= LAM_READER_PREAD; c++) {
        n = 0;
        do {
            struct lam_reader_config config = {.file = &file,
                .pool_base = pool.base,
                .regions = regions,
                .n_regions = 2,
                .choice = c,
                .on_done = on_done};
            struct lam_reader *reader = NULL;

            lam_fault_arm("alloc", ++n);
            if (lam_reader_create(&config, &reader, NULL) == LAM_OK)
                assert_false(lam_fault_fired());
            lam_reader_destroy(reader);
        } while (lam_fault_fired());
        lam_fault_arm("alloc", 0);
        assert_true(n > 2);
    }
}

static void a_refused_ring_is_named(void **state)
{
    struct lam_reader_config config = {.file = &file,
        .pool_base = pool.base,
        .regions = regions,
        .n_regions = 2,
        .choice = LAM_READER_IO_URING,
        .on_done = on_done};
    struct lam_reader *reader = NULL;
    struct lam_reader_info info;
    struct lam_err err = {0};

    (void)state;
    lam_fault_arm("io_uring", 1);
    assert_int_equal(lam_reader_create(&config, &reader, &err), LAM_UNIMPLEMENTED);
    assert_true(lam_fault_fired());
    assert_non_null(strstr(err.text, "--engine auto"));
    config.choice = LAM_READER_AUTO;
    lam_fault_arm("io_uring", 1);
    assert_int_equal(lam_reader_create(&config, &reader, &err), LAM_OK);
    lam_fault_arm("io_uring", 0);
    lam_reader_info(reader, &info);
    assert_string_equal(info.engine, "pread");
    assert_non_null(strstr(info.note, "io_uring"));
    lam_reader_destroy(reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_engine_brings_every_byte),
        cmocka_unit_test(one_failing_read_is_repaired),
        cmocka_unit_test(a_reader_can_end_with_loads_under_way),
        cmocka_unit_test(reads_do_not_wait_for_slow_registration),
        cmocka_unit_test(a_slow_registration_is_the_last),
        cmocka_unit_test(a_file_that_fails_while_it_is_measured_is_told_by_its_loads),
        cmocka_unit_test(without_memory_there_is_no_reader_and_no_leak),
        cmocka_unit_test(a_refused_ring_is_named),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
