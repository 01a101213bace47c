/* Embedding rows that are read where they lie, in units that the loader keeps, and for which it is
 * asked nothing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <string.h>

#include "common/clock.h"
#include "common/size.h"
#include "tests/unit/model/gguf_builder.h"
#include "tests/unit/worker/fake_loader.h"
#include "tests/unit/worker/tiny_model.h"
#include "worker/units.h"

#define TIMEOUT_NS (60 * LAM_NS_PER_S)

static struct tiny_model tied, untied;

static int setup(void **state)
{
    struct lam_spec spec = gguf_builder_small_spec();

    (void)state;
    tiny_model_make_of(&tied, &spec, false);
    spec.tied_head = false;
    tiny_model_make_of(&untied, &spec, false);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tiny_model_done(&tied);
    tiny_model_done(&untied);
    return 0;
}

/* n_kept: see fake_loader.h. */
static struct lam_units *connect_to(struct fake_loader *loader, const struct tiny_model *model,
    enum fake_mode mode, uint32_t n_kept)
{
    struct lam_units_config config;
    struct lam_units *units = NULL;
    struct lam_err err = {0};

    fake_loader_start(loader, model, mode, 0, n_kept);
    config = (struct lam_units_config){.loader = loader->address,
        .pool_socket = loader->pool_path,
        .max_rows = 16,
        .timeout_ns = TIMEOUT_NS};
    if (lam_units_connect(&config, &units, &err) != LAM_OK)
        fail_msg("%s", err.text);
    return units;
}

/* All rows right, and in the pool or not. */
static void check_rows(struct lam_units *units, const struct tiny_model *model, bool in_place)
{
    const struct lam_extent *embedding = &model->model.manifest.embedding;
    struct lam_units_pool pool = lam_units_pool(units);
    const int32_t ids[] = {5, 299, 0, 5, 17};
    const void *rows[5];

    assert_int_equal(lam_units_embedding_rows(units, ids, 5, rows, NULL), LAM_OK);
    for (int i = 0; i < 5; i++) {
        const unsigned char *row = rows[i];

        assert_memory_equal(row,
            model->image + embedding->file_offset + (uint64_t)ids[i] * embedding->row_bytes,
            embedding->row_bytes);
        assert_int_equal(row >= pool.base && row < pool.base + pool.bytes, in_place);
    }
}

static void check_session(const struct tiny_model *model, enum fake_mode mode, bool in_place)
{
    const struct lam_units_session session = {.rows = true};
    struct fake_loader loader;
    struct lam_units *units = connect_to(&loader, model, mode, 2);

    assert_int_equal(lam_units_table_kept(units), mode == FAKE_TABLE);
    assert_int_equal(lam_units_open(units, &session, NULL), LAM_OK);
    /* Unit 1 streams: it comes after all that is kept. */
    for (uint32_t u = 0; u < 2; u++) {
        const void *base;

        assert_int_equal(lam_units_acquire(units, u, &base, NULL), LAM_OK);
        lam_units_release(units, u);
    }
    for (int round = 0; round < 3; round++)
        check_rows(units, model, in_place);
    assert_int_equal(atomic_load(&loader.n_extents), in_place ? 0 : 1);
    lam_units_destroy(units);
    assert_int_equal(atomic_load(&loader.n_wrong), 0);
    fake_loader_stop(&loader);
}

static void test_rows_lie_in_kept_units(void **state)
{
    (void)state;
    assert_true(untied.model.manifest.has_table && !tied.model.manifest.has_table);
    check_session(&untied, FAKE_TABLE, true);
    check_session(&untied, FAKE_OBEDIENT, false);
    check_session(&tied, FAKE_OBEDIENT, true); /* in the head, unit 2 */
}

/* All units are on a device: what is left of a session is the table. Until it is here the loader is
 * asked, then never again. */
static void test_a_session_for_rows_alone(void **state)
{
    const uint32_t none[] = {0};
    const struct lam_units_session session = {.cycle = none, .rows = true};
    uint32_t table = untied.model.manifest.n_units;
    struct fake_loader loader;
    struct lam_units *units = connect_to(&loader, &untied, FAKE_TABLE, 0);
    uint32_t n_asked;

    (void)state;
    check_rows(units, &untied, false); /* without a session */
    assert_int_equal(lam_units_open(units, &session, NULL), LAM_OK);
    while (lam_units_find_kept(units, table) == NULL)
        lam_sleep_ns(LAM_NS_PER_MS);
    n_asked = atomic_load(&loader.n_extents);
    check_rows(units, &untied, true);
    assert_int_equal(atomic_load(&loader.n_extents), n_asked);
    lam_units_destroy(units);
    assert_int_equal(atomic_load(&loader.n_sent), 1);
    fake_loader_stop(&loader);
}

/* A loader that streams what it said it keeps is not believed: rows would be read from a place that
 * it fills again. */
static void test_a_table_that_streams_is_refused(void **state)
{
    const struct lam_units_session session = {.rows = true};
    struct fake_loader loader;
    struct lam_units *units = connect_to(&loader, &untied, FAKE_TABLE_LOOSE, 0);
    struct lam_err err = {0};
    const void *base;

    (void)state;
    assert_int_equal(lam_units_open(units, &session, NULL), LAM_OK);
    assert_int_equal(lam_units_acquire(units, 0, &base, &err), LAM_DATA_LOSS);
    assert_non_null(strstr(err.text, "streams"));
    lam_units_destroy(units);
    fake_loader_stop(&loader);
}

/* What a reading has come to. */
struct reading {
    const unsigned char *wanted;
    uint64_t n_bytes;
};

static void compare_part(void *arg, uint64_t offset, const void *bytes, uint64_t n_bytes)
{
    struct reading *reading = arg;

    assert_int_equal(offset, reading->n_bytes); /* in order */
    assert_memory_equal(bytes, reading->wanted + offset, n_bytes);
    reading->n_bytes += n_bytes;
}

/* A whole table is read by questions of 1 MiB, four of them under way: this loader answers none
 * before it has four. */
static void test_questions_are_under_way_together(void **state)
{
    struct lam_spec spec = gguf_builder_small_spec();
    struct tiny_model large;
    struct fake_loader loader;
    struct lam_units *units;
    const struct lam_extent *embedding = &large.model.manifest.embedding;
    struct reading reading = {0};

    (void)state;
    spec.n_vocab = 20000; /* 5 MB */
    tiny_model_make_of(&large, &spec, false);
    units = connect_to(&loader, &large, FAKE_OBEDIENT, 0);
    loader.n_together = 4;
    reading.wanted = large.image + embedding->file_offset;
    assert_int_equal(lam_units_read_parts(units, embedding, compare_part, &reading, NULL), LAM_OK);
    assert_int_equal(reading.n_bytes, embedding->bytes);
    assert_int_equal(atomic_load(&loader.n_extents), (embedding->bytes - 1) / LAM_MIB + 1);
    lam_units_destroy(units);
    fake_loader_stop(&loader);
    tiny_model_done(&large);
}

/* The answers behind one that is wrong are waited for, and the next reading is a new one. */
static void test_an_error_ends_all_questions(void **state)
{
    struct lam_spec spec = gguf_builder_small_spec();
    struct tiny_model large;
    struct fake_loader loader;
    struct lam_units *units;
    const struct lam_extent *embedding = &large.model.manifest.embedding;

    (void)state;
    spec.n_vocab = 20000;
    tiny_model_make_of(&large, &spec, false);
    units = connect_to(&loader, &large, FAKE_SHORT_EXTENT, 0);
    for (uint32_t round = 1; round <= 2; round++) {
        struct reading reading = {.wanted = large.image + embedding->file_offset};
        struct lam_err err = {0};

        assert_int_equal(
            lam_units_read_parts(units, embedding, compare_part, &reading, &err), LAM_DATA_LOSS);
        assert_int_equal(reading.n_bytes, 0);
        assert_int_equal(atomic_load(&loader.n_extents), 4 * round);
    }
    lam_units_destroy(units);
    fake_loader_stop(&loader);
    tiny_model_done(&large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_lie_in_kept_units),
        cmocka_unit_test(test_a_session_for_rows_alone),
        cmocka_unit_test(test_a_table_that_streams_is_refused),
        cmocka_unit_test(test_questions_are_under_way_together),
        cmocka_unit_test(test_an_error_ends_all_questions),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
