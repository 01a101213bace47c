/* The loader's client against a loader in this process: right bytes, fair credits, and a clear word
 * for each way in which a loader can fail or lie. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "tests/unit/worker/fake_loader.h"
#include "tests/unit/worker/tiny_model.h"
#include "worker/units.h"

#define TIMEOUT_NS (60 * LAM_NS_PER_S) /* or it hangs */
#define SHORT_NS (2 * LAM_NS_PER_S)    /* runs out in these tests, and a connection takes less */

static struct tiny_model tiny;

static int setup(void **state)
{
    (void)state;
    tiny_model_make(&tiny, true);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tiny_model_done(&tiny);
    return 0;
}

static struct lam_units_config config_of(const struct fake_loader *loader)
{
    return (struct lam_units_config){
        .loader = loader->address,
        .pool_socket = loader->pool_path,
        .credits = 2,
        .max_rows = 16,
        .timeout_ns = TIMEOUT_NS,
    };
}

static struct lam_units *must_connect(const struct lam_units_config *config)
{
    const struct lam_units_session all = {0};
    struct lam_units *units = NULL;
    struct lam_err err = {0};

    if (lam_units_connect(config, &units, &err) != LAM_OK ||
        lam_units_open(units, &all, &err) != LAM_OK)
        fail_msg("%s", err.text);
    return units;
}

/* Acquires, compares with the file, releases. */
static enum lam_status use_unit(struct lam_units *units, uint32_t index, struct lam_err *err)
{
    const struct lam_unit *unit = &tiny.model.manifest.units[index];
    const void *base;
    enum lam_status status = lam_units_acquire(units, index, &base, err);

    if (status != LAM_OK)
        return status;
    assert_memory_equal(base, tiny.image + unit->file_offset, unit->bytes);
    assert_int_equal((uintptr_t)base % 4096, unit->file_offset % 4096);
    lam_units_release(units, index);
    return LAM_OK;
}

static void test_model_arrives_whole(void **state)
{
    struct fake_loader loader;
    struct lam_units_config config;
    struct lam_units *units;
    const struct lam_model *model;

    (void)state;
    fake_loader_start(&loader, &tiny, FAKE_OBEDIENT, 0, 0);
    config = config_of(&loader);
    units = must_connect(&config);
    model = lam_units_model(units);
    assert_int_equal(model->digest, 4711);
    assert_int_equal(model->header_bytes, tiny.model.header_bytes);
    assert_memory_equal(model->header, tiny.image, model->header_bytes);
    assert_int_equal(model->manifest.n_units, tiny.model.manifest.n_units);
    assert_int_equal(lam_units_check(units, NULL), LAM_OK);
    lam_units_destroy(units);
    fake_loader_stop(&loader);
}

/* A request covers `layer_batch` units: one message after so many releases, whatever the length of
 * a pass, and never a unit more than there is credit for. */
static void test_requests_cover_batches(void **state)
{
    uint32_t n_units = tiny.model.manifest.n_units;

    (void)state;
    for (uint32_t batch = 1; batch <= n_units; batch++) {
        struct fake_loader loader;
        struct lam_units_config config;
        struct lam_units *units;
        struct lam_err err = {0};
        uint64_t limit_ns;

        fake_loader_start(&loader, &tiny, FAKE_OBEDIENT, 0, 0);
        config = config_of(&loader);
        config.layer_batch = batch;
        config.credits = batch + 1;
        units = must_connect(&config);
        for (uint32_t i = 0; i < 6 * n_units; i++) {
            if (use_unit(units, i % n_units, &err) != LAM_OK)
                fail_msg("batch %u, unit %u: %s", batch, i, err.text);
        }
        limit_ns = lam_now_ns() + TIMEOUT_NS;
        while (atomic_load(&loader.n_released) < 6 * n_units ||
               atomic_load(&loader.n_requests) < 1 + 6 * n_units / batch) {
            assert_true(lam_now_ns() < limit_ns);
            lam_sleep_ns(LAM_NS_PER_MS);
        }
        lam_units_destroy(units);
        fake_loader_stop(&loader);
        assert_int_equal(atomic_load(&loader.n_requests), 1 + 6 * n_units / batch);
        assert_in_range(atomic_load(&loader.n_held_most), 1, batch + 1);
    }
}

static void test_passes_in_credit(void **state)
{
    uint32_t n_units = tiny.model.manifest.n_units;

    (void)state;
    assert_true(n_units >= 3);
    for (uint32_t credits = 1; credits <= 3; credits++)
        for (uint32_t n_kept = 0; n_kept <= (n_units + 1) / 2; n_kept++) {
            struct fake_loader loader;
            struct lam_units_config config;
            struct lam_units *units;
            uint32_t n_found = 0;
            fake_loader_start(&loader, &tiny, FAKE_OBEDIENT, 0, n_kept);
            config = config_of(&loader);
            config.credits = credits;
            units = must_connect(&config);
            for (uint32_t i = 0; i < 5 * n_units; i++) {
                struct lam_err err = {0};
                if (use_unit(units, i % n_units, &err) != LAM_OK)
                    fail_msg("%u credits, %u kept: %s", credits, n_kept, err.text);
            }
            for (uint32_t i = 0; i < n_units; i++) {
                const struct lam_unit *unit = &tiny.model.manifest.units[i];
                const void *base = lam_units_find_kept(units, i);
                n_found += base != NULL;
                if (base)
                    assert_memory_equal(base, tiny.image + unit->file_offset, unit->bytes);
            }
            assert_int_equal(n_found, n_kept);
            lam_units_destroy(units);
            assert_in_range(atomic_load(&loader.n_held_most), 1, credits);
            assert_int_equal(atomic_load(&loader.n_wrong), 0);
            fake_loader_stop(&loader);
        }
}

/* A walk of some units, two of them held at a time, then a session that goes round the others; the
 * first one asks for no unit that it does not use. */
static void test_sessions_go_round_some_units(void **state)
{
    const uint32_t some[] = {0, 2};
    const uint32_t others[] = {1};
    struct fake_loader loader;
    struct lam_units_config config;
    struct lam_units *units = NULL;
    struct lam_pool_ready ready;
    const void *base[2];

    (void)state;
    assert_int_equal(tiny.model.manifest.n_units, 3);
    fake_loader_start(&loader, &tiny, FAKE_OBEDIENT, 0, 0);
    config = config_of(&loader);
    config.credits = 5;
    assert_int_equal(lam_units_connect(&config, &units, NULL), LAM_OK);
    assert_int_equal(lam_units_check(units, NULL), LAM_OK);
    assert_int_equal(
        lam_units_open(units,
            &(struct lam_units_session){.cycle = some, .n_units = 2, .n_ahead = 1, .once = true},
            NULL),
        LAM_OK);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(lam_units_acquire(units, some[i], &base[i], NULL), LAM_OK);
    for (uint32_t i = 0; i < 2; i++) {
        const struct lam_unit *unit = &tiny.model.manifest.units[some[i]];
        assert_memory_equal(base[i], tiny.image + unit->file_offset, unit->bytes);
        lam_units_release(units, some[i]);
    }
    ready = lam_units_pool_ready(units);
    assert_int_equal(ready.bytes, FAKE_READY_BYTES + 2);
    assert_int_equal(ready.ns, 2);
    lam_units_close(units);
    assert_int_equal(atomic_load(&loader.n_sent), 2);
    assert_int_equal(lam_units_pool_ready(units).ns, 2);
    assert_int_equal(
        lam_units_open(units, &(struct lam_units_session){.cycle = others, .n_units = 1}, NULL),
        LAM_OK);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(use_unit(units, 1, NULL), LAM_OK);
    assert_false(lam_units_pool(units).base == NULL);
    lam_units_destroy(units);
    assert_int_equal(atomic_load(&loader.n_sessions), 2);
    assert_int_equal(atomic_load(&loader.n_wrong), 0);
    fake_loader_stop(&loader);
}

/* Ready tells whether acquire would block, and a stop is an end of waiting too. */
static void test_ready_tells_whether_acquire_blocks(void **state)
{
    const struct lam_units_session all = {0};
    struct fake_loader loader;
    struct lam_units_config config;
    struct lam_units *units;

    (void)state;
    fake_loader_start(&loader, &tiny, FAKE_SILENCE, 1, 0);
    config = config_of(&loader);
    units = must_connect(&config);
    assert_int_equal(use_unit(units, 0, NULL), LAM_OK);
    assert_false(lam_units_ready(units, 1));
    lam_units_stop(units);
    assert_true(lam_units_ready(units, 1));
    lam_units_close(units);
    assert_int_equal(lam_units_open(units, &all, NULL), LAM_OK);
    assert_int_equal(use_unit(units, 0, NULL), LAM_CANCELLED); /* stopped for good */
    lam_units_destroy(units);
    fake_loader_stop(&loader);
}

static void test_embedding_rows(void **state)
{
    const struct lam_extent *embedding = &tiny.model.manifest.embedding;
    const int32_t ids[] = {5, 299, 0, 5, 17};
    const void *rows[5];
    struct fake_loader loader;
    struct lam_units_config config;
    struct lam_units *units;

    (void)state;
    fake_loader_start(&loader, &tiny, FAKE_OBEDIENT, 0, 0);
    config = config_of(&loader);
    units = must_connect(&config);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(lam_units_embedding_rows(units, ids, 5, rows, NULL), LAM_OK);
        for (int i = 0; i < 5; i++)
            assert_memory_equal(rows[i],
                tiny.image + embedding->file_offset + (uint64_t)ids[i] * embedding->row_bytes,
                embedding->row_bytes);
    }
    assert_int_equal(atomic_load(&loader.n_extents), 1); /* the second round was in the cache */
    lam_units_destroy(units);
    fake_loader_stop(&loader);
}

static void test_extents(void **state)
{
    const struct lam_extent *norm = &tiny.model.manifest.output_norm;
    struct fake_loader loader;
    struct lam_units_config config;
    struct lam_units *units;
    float *out = lam_calloc(norm->bytes, 1);

    (void)state;
    assert_non_null(out);
    fake_loader_start(&loader, &tiny, FAKE_OBEDIENT, 0, 0);
    config = config_of(&loader);
    units = must_connect(&config);
    assert_int_equal(lam_units_read_extent(units, norm, out, NULL), LAM_OK);
    assert_memory_equal(out, tiny.image + norm->file_offset, norm->bytes);
    lam_units_destroy(units);
    fake_loader_stop(&loader);
    lam_free(out);
}

static void test_refuses_a_wrong_loader(void **state)
{
    static const struct {
        enum fake_mode mode;
        enum lam_status status;
        const char *text;
    } cases[] = {
        {FAKE_NO_DESCRIPTOR, LAM_UNAVAILABLE, "0 descriptors"},
        {FAKE_TWO_DESCRIPTORS, LAM_UNAVAILABLE, "2 descriptors"},
        {FAKE_WRONG_MAGIC, LAM_DATA_LOSS, "magic"},
        {FAKE_WRONG_SIZE, LAM_DATA_LOSS, "not as large"},
        {FAKE_UNSEALED, LAM_DATA_LOSS, "not sealed"},
        {FAKE_SHORT_GREETING, LAM_UNAVAILABLE, "31 bytes"},
        {FAKE_SHORT_HEADER, LAM_DATA_LOSS, "bytes of a header"},
        {FAKE_LONG_HEADER, LAM_DATA_LOSS, "of the header"},
        {FAKE_HUGE_HEADER, LAM_DATA_LOSS, "announces a header"},
        {FAKE_WRONG_UNITS, LAM_FAILED_PRECONDITION, "one version"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fake_loader loader;
        struct lam_units_config config;
        struct lam_units *units = NULL;
        struct lam_err err = {0};
        fake_loader_start(&loader, &tiny, cases[i].mode, 0, 0);
        config = config_of(&loader);
        assert_int_equal(lam_units_connect(&config, &units, &err), cases[i].status);
        assert_null(units);
        if (!strstr(err.text, cases[i].text))
            fail_msg("\"%s\" does not say \"%s\"", err.text, cases[i].text);
        fake_loader_stop(&loader);
    }
}

static void test_refuses_a_short_extent(void **state)
{
    const int32_t ids[] = {5};
    const void *rows[1];
    struct fake_loader loader;
    struct lam_units_config config;
    struct lam_units *units;
    struct lam_err err = {0};

    (void)state;
    fake_loader_start(&loader, &tiny, FAKE_SHORT_EXTENT, 0, 0);
    config = config_of(&loader);
    units = must_connect(&config);
    assert_int_equal(lam_units_embedding_rows(units, ids, 1, rows, &err), LAM_DATA_LOSS);
    /* A row that did not come is not taken from the cache the next time. */
    assert_int_equal(lam_units_embedding_rows(units, ids, 1, rows, &err), LAM_DATA_LOSS);
    lam_units_destroy(units);
    fake_loader_stop(&loader);
}

static void test_bad_news_of_a_unit(void **state)
{
    static const struct {
        enum fake_mode mode;
        enum lam_status status;
        const char *text;
    } cases[] = {
        {FAKE_FAULT, LAM_DATA_LOSS, "the disk said no"},
        {FAKE_SILENCE, LAM_DEADLINE_EXCEEDED, "did not bring unit 1"},
        {FAKE_END, LAM_UNAVAILABLE, "shutting down"},
        {FAKE_UNIT_BEYOND, LAM_DATA_LOSS, "sent unit"},
        {FAKE_OFFSET_BEYOND, LAM_DATA_LOSS, "where it cannot be"},
        {FAKE_OFFSET_SKEWED, LAM_DATA_LOSS, "where it cannot be"},
        {FAKE_GARBAGE, LAM_INVALID_ARGUMENT, "lost the loader"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fake_loader loader;
        struct lam_units_config config;
        struct lam_units *units;
        struct lam_err err = {0};
        enum lam_status status = LAM_OK;
        fake_loader_start(&loader, &tiny, cases[i].mode, 1, 0);
        config = config_of(&loader);
        config.credits = 1;
        config.timeout_ns = cases[i].mode == FAKE_SILENCE ? SHORT_NS : TIMEOUT_NS;
        units = must_connect(&config);
        for (uint32_t u = 0; status == LAM_OK && u < 3; u++)
            status = use_unit(units, u, &err);
        assert_int_equal(status, cases[i].status);
        if (!strstr(err.text, cases[i].text))
            fail_msg("\"%s\" does not say \"%s\"", err.text, cases[i].text);
        if (cases[i].mode == FAKE_SILENCE)
            assert_true(lam_units_stall_ns(units) >= SHORT_NS);
        lam_units_destroy(units);
        fake_loader_stop(&loader);
    }
}

/* A unit in use that is announced again may lie elsewhere, or be overwritten: the session ends. */
static void test_unit_in_use_is_sent_again(void **state)
{
    struct fake_loader loader;
    struct lam_units_config config;
    struct lam_units *units;
    struct lam_err err = {0};
    const void *base;

    (void)state;
    fake_loader_start(&loader, &tiny, FAKE_TWICE, 0, 0);
    config = config_of(&loader);
    units = must_connect(&config);
    assert_int_equal(lam_units_acquire(units, 0, &base, &err), LAM_OK);
    while (lam_units_check(units, &err) == LAM_OK)
        lam_sleep_ns(LAM_NS_PER_MS);
    assert_int_equal(err.status, LAM_DATA_LOSS);
    assert_non_null(strstr(err.text, "again before its release"));
    lam_units_destroy(units);
    fake_loader_stop(&loader);
}

static void note_loss(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

/* What is here stays usable; what is not, is named; and the owner is told once. */
static void test_loader_dies(void **state)
{
    struct fake_loader loader;
    struct lam_units_config config;
    struct lam_units *units;
    struct lam_err err = {0};
    atomic_int n_losses = 0;
    const void *base;

    (void)state;
    fake_loader_start(&loader, &tiny, FAKE_OBEDIENT, 0, 1);
    config = config_of(&loader);
    config.credits = 1;
    config.on_lost = note_loss;
    config.lost_arg = &n_losses;
    units = must_connect(&config);
    assert_int_equal(use_unit(units, 0, &err), LAM_OK);
    assert_int_equal(lam_units_acquire(units, 1, &base, &err), LAM_OK);
    fake_loader_kill(&loader);
    while (lam_units_check(units, &err) == LAM_OK)
        lam_sleep_ns(LAM_NS_PER_MS);
    assert_non_null(strstr(err.text, loader.address));
    assert_memory_equal(base, tiny.image + tiny.model.manifest.units[1].file_offset,
        tiny.model.manifest.units[1].bytes);
    lam_units_release(units, 1);
    assert_int_not_equal(lam_units_acquire(units, 2, &base, &err), LAM_OK);
    assert_non_null(strstr(err.text, "lost the loader"));
    lam_units_destroy(units);
    assert_int_equal(atomic_load(&n_losses), 1);
    fake_loader_stop(&loader);
}

static void *stop_later(void *arg)
{
    lam_sleep_ns(50 * LAM_NS_PER_MS);
    lam_units_stop(arg);
    return NULL;
}

static void test_stop_wakes_acquire(void **state)
{
    struct fake_loader loader;
    struct lam_units_config config;
    struct lam_units *units;
    struct lam_err err = {0};
    pthread_t thread;

    (void)state;
    fake_loader_start(&loader, &tiny, FAKE_SILENCE, 0, 0);
    config = config_of(&loader);
    units = must_connect(&config);
    assert_int_equal(pthread_create(&thread, NULL, stop_later, units), 0);
    assert_int_equal(use_unit(units, 0, &err), LAM_CANCELLED);
    assert_int_equal(use_unit(units, 0, &err), LAM_CANCELLED);
    pthread_join(thread, NULL);
    lam_units_destroy(units);
    fake_loader_stop(&loader);
}

static void test_no_loader(void **state)
{
    struct lam_units_config config = {.loader = "unix:/tmp/lam-there-is-no-loader.sock",
        .pool_socket = "/tmp/lam-there-is-no-pool.sock",
        .max_rows = 1,
        .timeout_ns = SHORT_NS};
    struct fake_loader loader;
    struct lam_units *units = NULL;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_units_connect(&config, &units, &err), LAM_UNAVAILABLE);
    assert_non_null(strstr(err.text, config.loader));
    fake_loader_start(&loader, &tiny, FAKE_OBEDIENT, 0, 0);
    config.loader = loader.address;
    assert_int_equal(lam_units_connect(&config, &units, &err), LAM_UNAVAILABLE);
    assert_non_null(strstr(err.text, config.pool_socket));
    assert_null(units);
    fake_loader_stop(&loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_arrives_whole),
        cmocka_unit_test(test_passes_in_credit),
        cmocka_unit_test(test_requests_cover_batches),
        cmocka_unit_test(test_sessions_go_round_some_units),
        cmocka_unit_test(test_ready_tells_whether_acquire_blocks),
        cmocka_unit_test(test_embedding_rows),
        cmocka_unit_test(test_extents),
        cmocka_unit_test(test_refuses_a_wrong_loader),
        cmocka_unit_test(test_refuses_a_short_extent),
        cmocka_unit_test(test_bad_news_of_a_unit),
        cmocka_unit_test(test_unit_in_use_is_sent_again),
        cmocka_unit_test(test_loader_dies),
        cmocka_unit_test(test_stop_wakes_acquire),
        cmocka_unit_test(test_no_loader),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
