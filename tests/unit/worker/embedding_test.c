/*
 * Where embedding rows come from: the same logits from a table on the device, from a head that is
 * the same matrix, and from the loader; the loader is asked only where it must be, and a pass
 * brings what it needs from the host in one piece.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/size.h"
#include "tests/kernels/emulated/emulated.h"
#include "tests/unit/worker/fake_units.h"
#include "worker/engine.h"

#define T 11u
#define N_VOCAB 10000u /* the table takes 5 MB: more than an arena's rounding */
#define PASSES 3

struct run {
    bool tied;
    bool kept;        /* the loader keeps all units */
    bool table;       /* ... and the embedding */
    uint32_t cap_mib; /* 0: on the CPU */
};

/* What a run left behind. */
struct trail {
    struct lam_plan_arena arena;
    uint64_t n_gathered;
    uint32_t n_sessions;
    double pass_seconds;
};

static const int32_t text[T] = {0, 9999, 7, 7, 5000, 1, 4095, 4096, 8191, 8192, 301};

static uint32_t n_uploads;

static void count_upload(struct lam_kernels *kernels, void *to, const void *from, uint64_t bytes)
{
    n_uploads++;
    emulated_backend()->device->upload(kernels, to, from, bytes);
}

static enum lam_status create(const struct run *run, struct lam_units *units,
    struct lam_engine **ret_engine, struct lam_err *err)
{
    static struct lam_device_ops device;
    const struct emulated_options options = {.seed = 1};
    char vram[24];
    struct lam_engine_config config = {.ops = lam_kernels_ref(),
        .n_threads = 1,
        .n_ctx = 16,
        .max_seqs = 1,
        .max_rows = T,
        .kv_given = true,
        .kv_dtype = LAM_F32,
        .page_tokens = 8,
        .pin_bytes = 64 * LAM_KIB};

    fake_units_set(units, 3, 0);
    if (run->kept)
        fake_units_keep(units);
    if (run->table)
        fake_units_keep_table(units);
    if (run->cap_mib > 0) {
        snprintf(vram, sizeof vram, "%uMiB", run->cap_mib);
        emulated_set(&options);
        config.ops = emulated_backend()->ops;
        device = *emulated_backend()->device;
        device.upload = count_upload;
        config.device = &device;
        config.vram = vram;
    }
    return lam_engine_create(&config, units, ret_engine, err);
}

/* logits: [N_VOCAB] of the text's last row. */
static struct trail follow(const struct tiny_model *tiny, const struct run *run, float *logits)
{
    struct lam_engine_rows rows = {
        .tokens = text, .n_tokens = T, .logit_rows = 1, .params = lam_sample_defaults()};
    struct lam_units *units = fake_units_create(tiny);
    struct lam_engine *engine = NULL;
    struct lam_engine_result result;
    struct lam_err err = {0};
    struct trail trail;

    if (create(run, units, &engine, &err) != LAM_OK)
        fail_msg("cap %u MiB: %s", run->cap_mib, err.text);
    for (int pass = 0; pass < PASSES; pass++)
        if (lam_engine_step(engine, &rows, 1, &result, &err) != LAM_OK)
            fail_msg("cap %u MiB: %s", run->cap_mib, err.text);
    memcpy(logits, result.logits, N_VOCAB * sizeof *logits);
    trail = (struct trail){.arena = lam_engine_plan(engine)->arenas[0],
        .n_gathered = fake_units_gathered(units),
        .n_sessions = fake_units_sessions(units),
        .pass_seconds = lam_engine_plan(engine)->pass_seconds};
    lam_engine_destroy(engine);
    lam_units_destroy(units);
    return trail;
}

static uint32_t least_cap_mib(const struct tiny_model *tiny)
{
    struct run run = {.cap_mib = 16};
    struct lam_units *units = fake_units_create(tiny);
    struct lam_engine *engine = NULL;

    while (create(&run, units, &engine, NULL) == LAM_RESOURCE_EXHAUSTED)
        run.cap_mib++;
    lam_engine_destroy(engine);
    lam_units_destroy(units);
    return run.cap_mib;
}

/* From the smallest cap on: streamed, resident without room for the table, then with it. */
static void test_the_table_is_resident_where_there_is_room(void **state)
{
    struct lam_spec spec = tiny_model_shape(2, N_VOCAB, false);
    struct tiny_model tiny;
    float *wanted = lam_calloc(N_VOCAB, sizeof *wanted);
    float *logits = lam_calloc(N_VOCAB, sizeof *logits);
    uint32_t n_without = 0, n_with = 0;
    double slower = 0;

    (void)state;
    assert_true(wanted && logits);
    tiny_model_make_of(&tiny, &spec, false);
    assert_int_equal(follow(&tiny, &(struct run){0}, wanted).n_gathered, PASSES * T);
    for (struct run run = {.cap_mib = least_cap_mib(&tiny)}; n_with < 2; run.cap_mib++) {
        struct trail trail = follow(&tiny, &run, logits);
        uint64_t bytes = trail.arena.regions[LAM_REGION_EMBEDDING].bytes;

        assert_true(run.cap_mib < 200);
        assert_memory_equal(logits, wanted, N_VOCAB * sizeof *logits);
        assert_true(slower <= 0 || trail.pass_seconds <= slower);
        slower = trail.pass_seconds;
        if (bytes == 0) {
            assert_int_equal(n_with, 0); /* more memory never takes it away */
            assert_int_equal(trail.n_gathered, PASSES * T);
            n_without += trail.arena.n_slots == 0;
            continue;
        }
        assert_int_equal(trail.arena.n_slots, 0);
        assert_true(bytes >= tiny.model.manifest.embedding.bytes);
        assert_int_equal(trail.n_gathered, 0);
        n_with++;
    }
    assert_true(n_without > 0);
    tiny_model_done(&tiny);
    lam_free(wanted);
    lam_free(logits);
}

/* The loader keeps the table: no row is asked for, neither by a CPU, nor by a device that streams,
 * nor by one that holds all else. One that has the table opens no session for it. */
static void test_rows_of_a_kept_table_are_not_asked_for(void **state)
{
    struct lam_spec spec = tiny_model_shape(2, N_VOCAB, false);
    struct tiny_model tiny;
    float *wanted = lam_calloc(N_VOCAB, sizeof *wanted);
    float *logits = lam_calloc(N_VOCAB, sizeof *logits);
    bool streamed = false, alone = false, on_device = false;

    (void)state;
    assert_true(wanted && logits);
    tiny_model_make_of(&tiny, &spec, false);
    assert_int_equal(follow(&tiny, &(struct run){.table = true}, wanted).n_gathered, 0);
    for (struct run run = {.table = true, .cap_mib = least_cap_mib(&tiny)}; !on_device;
         run.cap_mib++) {
        struct trail trail = follow(&tiny, &run, logits);

        assert_true(run.cap_mib < 200);
        assert_memory_equal(logits, wanted, N_VOCAB * sizeof *logits);
        assert_int_equal(trail.n_gathered, 0);
        on_device = trail.arena.regions[LAM_REGION_EMBEDDING].bytes > 0;
        streamed = streamed || trail.arena.n_slots > 0;
        alone = alone || (trail.arena.n_slots == 0 && !on_device);
        if (trail.arena.n_slots == 0)
            assert_int_equal(trail.n_sessions, on_device ? 1 : 2);
    }
    assert_true(streamed && alone);
    tiny_model_done(&tiny);
    lam_free(wanted);
    lam_free(logits);
}

/* A tied head is read where it stays: on the device, or in the loader's pool. */
static void test_rows_of_a_tied_head_are_not_asked_for(void **state)
{
    static const struct run runs[] = {{.tied = true, .kept = true}, {.tied = true, .cap_mib = 160}};
    struct lam_spec spec = tiny_model_shape(2, N_VOCAB, true);
    struct tiny_model tiny;
    float *wanted = lam_calloc(N_VOCAB, sizeof *wanted);
    float *logits = lam_calloc(N_VOCAB, sizeof *logits);

    (void)state;
    assert_true(wanted && logits);
    tiny_model_make_of(&tiny, &spec, false);
    assert_true(tiny.model.manifest.n_units > spec.n_layers + 1); /* tiles */
    assert_int_equal(follow(&tiny, &(struct run){.tied = true}, wanted).n_gathered, PASSES * T);
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        struct trail trail = follow(&tiny, &runs[i], logits);

        assert_memory_equal(logits, wanted, N_VOCAB * sizeof *logits);
        assert_int_equal(trail.n_gathered, 0);
        assert_int_equal(trail.arena.regions[LAM_REGION_EMBEDDING].bytes, 0); /* not twice */
    }
    tiny_model_done(&tiny);
    lam_free(wanted);
    lam_free(logits);
}

/* Positions and rows lie behind each other; the page table comes when it has a page more. */
static void test_a_pass_brings_one_piece(void **state)
{
    struct lam_spec spec = tiny_model_shape(2, N_VOCAB, false);
    struct lam_engine_rows rows = {.tokens = text, .n_tokens = 6, .params = lam_sample_defaults()};
    struct tiny_model tiny;

    (void)state;
    tiny_model_make_of(&tiny, &spec, false);
    struct run run = {.cap_mib = least_cap_mib(&tiny)};
    struct lam_units *units = fake_units_create(&tiny);
    struct lam_engine *engine = NULL;
    struct lam_engine_result result;
    assert_int_equal(create(&run, units, &engine, NULL), LAM_OK);
    for (uint32_t position = 0; position < 10; position += rows.n_tokens) {
        rows.position = position;
        rows.n_tokens = position == 0 ? 6 : 1;
        n_uploads = 0;
        assert_int_equal(lam_engine_step(engine, &rows, 1, &result, NULL), LAM_OK);
        assert_int_equal(n_uploads, position == 0 || position == 8 ? 2 : 1); /* a page has 8 */
    }
    assert_int_equal(fake_units_gathered(units), 10);
    lam_engine_destroy(engine);
    lam_units_destroy(units);
    tiny_model_done(&tiny);
}

static void test_out_of_memory_at_creation(void **state)
{
    const struct run run = {.cap_mib = 160};
    struct lam_spec spec = tiny_model_shape(2, N_VOCAB, false);
    struct tiny_model tiny;
    uint64_t nth = 0;
    enum lam_status status;

    (void)state;
    tiny_model_make_of(&tiny, &spec, false);
    do {
        struct lam_units *units = fake_units_create(&tiny);
        struct lam_engine *engine = NULL;
        struct lam_err err = {0};

        lam_fault_arm("alloc", ++nth);
        status = create(&run, units, &engine, &err);
        lam_engine_destroy(engine);
        if (!lam_fault_fired())
            nth = 0;
        lam_fault_arm("alloc", 0);
        lam_units_destroy(units);
    } while (nth > 0);
    assert_int_equal(status, LAM_OK);
    tiny_model_done(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_table_is_resident_where_there_is_room),
        cmocka_unit_test(test_rows_of_a_kept_table_are_not_asked_for),
        cmocka_unit_test(test_rows_of_a_tied_head_are_not_asked_for),
        cmocka_unit_test(test_a_pass_brings_one_piece),
        cmocka_unit_test(test_out_of_memory_at_creation),
    };

    lam_log_init("embedding_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
