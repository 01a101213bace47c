/*
 * The engine on the reference kernels and a small model whose units disappear at release: right
 * logits, and the same bits however sequences are cut and mixed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/mem.h"
#include "common/size.h"
#include "kernels/ops.h"
#include "tests/unit/worker/fake_units.h"
#include "tests/unit/worker/tiny_model.h"
#include "worker/engine.h"

#define T_LONG 21 /* three KV pages and a bit */
#define ROWS_MAX 32

struct fixture {
    struct tiny_model tiny;
    struct lam_units *units;
    struct lam_engine *engine;
};

static const int32_t text_a[T_LONG] = {
    7, 1, 299, 42, 0, 8, 8, 150, 77, 3, 12, 201, 7, 99, 250, 31, 5, 64, 111, 2, 290};
static const int32_t text_b[T_LONG] = {
    290, 14, 9, 9, 9, 60, 222, 1, 0, 135, 86, 4, 299, 17, 71, 183, 40, 6, 6, 28, 100};

static struct lam_engine_config default_config(void)
{
    return (struct lam_engine_config){
        .ops = lam_kernels_ref(),
        .n_threads = 1,
        .n_ctx = 24,
        .max_seqs = 3,
        .max_rows = ROWS_MAX,
        .max_logit_rows = ROWS_MAX,
        .kv_given = true,
        .kv_dtype = LAM_F32,
        .page_tokens = 8,
    };
}

static void make_engine(struct fixture *f, const struct lam_engine_config *config)
{
    struct lam_err err = {0};

    f->units = fake_units_create(&f->tiny);
    if (lam_engine_create(config, f->units, &f->engine, &err) != LAM_OK)
        fail_msg("%s", err.text);
}

static void drop_engine(struct fixture *f)
{
    lam_engine_destroy(f->engine);
    lam_units_destroy(f->units);
}

static int setup(void **state)
{
    static struct fixture fixture;
    struct lam_engine_config config = default_config();

    tiny_model_make(&fixture.tiny, false);
    make_engine(&fixture, &config);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    drop_engine(f);
    tiny_model_done(&f->tiny);
    return 0;
}

static struct lam_engine_rows rows_of(
    uint32_t seq, const int32_t *text, uint32_t position, uint32_t n_tokens)
{
    return (struct lam_engine_rows){
        .seq = seq,
        .position = position,
        .tokens = text + position,
        .n_tokens = n_tokens,
        .logit_rows = n_tokens,
        .params = lam_sample_defaults(),
    };
}

static void must_step(struct fixture *f, const struct lam_engine_rows *rows, uint32_t n,
    struct lam_engine_result *results)
{
    struct lam_err err = {0};

    if (lam_engine_step(f->engine, rows, n, results, &err) != LAM_OK)
        fail_msg("%s", err.text);
    assert_int_equal(fake_units_held(f->units), 0);
}

/* Logits of all n positions of a text, fed in chunks to slot `seq`. Free with lam_free. */
static float *logits_in_chunks(
    struct fixture *f, uint32_t seq, const int32_t *text, uint32_t n, uint32_t chunk)
{
    uint32_t n_vocab = f->tiny.model.spec.n_vocab;
    float *logits = lam_calloc((size_t)n * n_vocab, sizeof *logits);

    assert_non_null(logits);
    for (uint32_t at = 0; at < n; at += chunk) {
        uint32_t n_now = n - at < chunk ? n - at : chunk;
        struct lam_engine_rows rows = rows_of(seq, text, at, n_now);
        struct lam_engine_result result;
        must_step(f, &rows, 1, &result);
        assert_int_equal(result.token, -1);
        memcpy(
            logits + (size_t)at * n_vocab, result.logits, (size_t)n_now * n_vocab * sizeof *logits);
    }
    return logits;
}

static void expect_refusal(struct fixture *f, const struct lam_engine_rows *rows, uint32_t n,
    enum lam_status status, const char *text)
{
    struct lam_engine_result results[4];
    struct lam_err err = {0};
    uint64_t n_acquired = fake_units_acquired(f->units);

    assert_int_equal(lam_engine_step(f->engine, rows, n, results, &err), status);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    assert_int_equal(fake_units_acquired(f->units), n_acquired);
    assert_true(lam_engine_usable(f->engine));
}

static void check_against_naive(struct fixture *f, const int32_t *text, double tolerance)
{
    uint32_t n_vocab = f->tiny.model.spec.n_vocab;
    size_t count = (size_t)T_LONG * n_vocab;
    double *wanted = lam_calloc(count, sizeof *wanted);
    float *got = logits_in_chunks(f, 0, text, T_LONG, T_LONG);
    double spread = 0;

    assert_non_null(wanted);
    tiny_model_logits(&f->tiny, text, T_LONG, wanted);
    for (size_t i = 0; i < count; i++) {
        if (!(fabs((double)got[i] - wanted[i]) <= tolerance))
            fail_msg("position %zu, token %zu: %g, expected %g", i / n_vocab, i % n_vocab,
                (double)got[i], wanted[i]);
        spread = fmax(spread, fabs(wanted[i]));
    }
    assert_true(spread > 1); /* the model says something */
    lam_free(wanted);
    lam_free(got);
}

static void test_logits_equal_a_naive_computation(void **state)
{
    check_against_naive(*state, text_a, 2e-5);
    check_against_naive(*state, text_b, 2e-5);
}

static void test_rope_factors_count(void **state)
{
    struct lam_engine_config config = default_config();
    struct fixture f = {0};

    (void)state;
    tiny_model_make(&f.tiny, true);
    make_engine(&f, &config);
    check_against_naive(&f, text_a, 2e-5);
    drop_engine(&f);
    tiny_model_done(&f.tiny);
}

static void test_half_precision_cache_is_close(void **state)
{
    struct lam_engine_config config = default_config();
    struct fixture f = *(struct fixture *)*state;

    config.kv_dtype = LAM_F16;
    make_engine(&f, &config);
    check_against_naive(&f, text_a, 2e-2);
    drop_engine(&f);
}

static void test_chunks_change_no_bit(void **state)
{
    struct fixture *f = *state;
    size_t bytes = (size_t)T_LONG * f->tiny.model.spec.n_vocab * sizeof(float);
    float *whole = logits_in_chunks(f, 0, text_a, T_LONG, T_LONG);

    for (uint32_t chunk = 1; chunk < T_LONG; chunk += 3) {
        float *cut = logits_in_chunks(f, chunk % 3, text_a, T_LONG, chunk);
        assert_memory_equal(whole, cut, bytes);
        lam_free(cut);
    }
    lam_free(whole);
}

static void test_company_changes_no_bit(void **state)
{
    struct fixture *f = *state;
    uint32_t n_vocab = f->tiny.model.spec.n_vocab;
    float *alone_a = logits_in_chunks(f, 0, text_a, T_LONG, 8);
    float *alone_b = logits_in_chunks(f, 0, text_b, T_LONG, 8);
    uint32_t at_a = 0;
    uint32_t at_b = 0;

    /* b comes later, in other slots and other portions; both end at different steps. */
    for (uint32_t step = 0; at_a < T_LONG || at_b < T_LONG; step++) {
        struct lam_engine_rows rows[2];
        struct lam_engine_result results[2];
        const float *wanted[2];
        uint32_t n = 0;
        if (at_b < T_LONG && step >= 2) {
            wanted[n] = alone_b + (size_t)at_b * n_vocab;
            rows[n++] = rows_of(2, text_b, at_b, at_b + 7 <= T_LONG ? 7 : T_LONG - at_b);
            at_b += rows[n - 1].n_tokens;
        }
        if (at_a < T_LONG) {
            wanted[n] = alone_a + (size_t)at_a * n_vocab;
            rows[n++] = rows_of(1, text_a, at_a, at_a + 4 <= T_LONG ? 4 : T_LONG - at_a);
            at_a += rows[n - 1].n_tokens;
        }
        must_step(f, rows, n, results);
        for (uint32_t i = 0; i < n; i++)
            assert_memory_equal(
                results[i].logits, wanted[i], (size_t)rows[i].n_tokens * n_vocab * sizeof(float));
    }
    lam_free(alone_a);
    lam_free(alone_b);
}

static void test_slot_begins_anew(void **state)
{
    struct fixture *f = *state;
    size_t bytes = (size_t)T_LONG * f->tiny.model.spec.n_vocab * sizeof(float);
    float *fresh = logits_in_chunks(f, 1, text_b, T_LONG, 10);
    float *again;

    lam_free(logits_in_chunks(f, 1, text_a, T_LONG, 10));
    again = logits_in_chunks(f, 1, text_b, T_LONG, 10);
    assert_memory_equal(fresh, again, bytes);
    lam_engine_free(f->engine, 1);
    lam_free(again);
    again = logits_in_chunks(f, 1, text_b, T_LONG, 10);
    assert_memory_equal(fresh, again, bytes);
    lam_free(again);
    lam_free(fresh);
}

static void test_samples_the_largest_logit(void **state)
{
    struct fixture *f = *state;
    uint32_t n_vocab = f->tiny.model.spec.n_vocab;
    struct lam_engine_rows rows = rows_of(0, text_a, 0, 9);
    struct lam_engine_result result;
    int32_t best = 0;

    rows.params.temperature = 0;
    rows.sample = true;
    rows.logit_rows = 2;
    must_step(f, &rows, 1, &result);
    for (uint32_t i = 1; i < n_vocab; i++)
        if (result.logits[n_vocab + i] > result.logits[n_vocab + (uint32_t)best])
            best = (int32_t)i;
    assert_int_equal(result.token, best);
    rows.logit_rows = 0; /* nobody looks at the logits: the same token */
    must_step(f, &rows, 1, &result);
    assert_null(result.logits);
    assert_int_equal(result.token, best);
}

/* A frequency penalty counts generated tokens only, and the caller's logits do not show it. */
static void test_penalties_see_the_history(void **state)
{
    struct fixture *f = *state;
    uint32_t n_vocab = f->tiny.model.spec.n_vocab;
    struct lam_engine_rows rows = rows_of(0, text_a, 0, 9);
    struct lam_engine_result result;
    int32_t first;
    int32_t repeated[10];
    float *plain;

    memcpy(repeated, text_a, sizeof repeated);
    rows.params.temperature = 0;
    rows.sample = true;
    must_step(f, &rows, 1, &result);
    first = result.token;
    /* The same context, but the last token of it is what the model would say next. */
    repeated[9] = first;
    rows.tokens = repeated;
    rows.n_tokens = 10;
    rows.logit_rows = 1;
    must_step(f, &rows, 1, &result);
    plain = lam_calloc(n_vocab, sizeof *plain);
    assert_non_null(plain);
    memcpy(plain, result.logits, n_vocab * sizeof *plain);
    /* Forbid, by a huge penalty, what it says now: as a prompt it does not count, generated it
     * does. */
    repeated[8] = result.token;
    must_step(f, &rows, 1, &result);
    first = result.token;
    repeated[9] = first;
    rows.params.repetition_penalty = 1e6f;
    rows.n_prompt = 10;
    must_step(f, &rows, 1, &result);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_not_equal(result.token, repeated[i]);
    lam_free(plain);
}

static void test_seed_and_position_decide(void **state)
{
    struct fixture *f = *state;
    struct lam_engine_rows rows = rows_of(0, text_a, 0, 9);
    struct lam_engine_result result;
    uint32_t n_different = 0;
    int32_t first = -1;

    rows.sample = true;
    rows.logit_rows = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        int32_t token;
        rows.params.seed = seed;
        rows.seq = 0;
        must_step(f, &rows, 1, &result);
        token = result.token;
        rows.seq = 2;
        must_step(f, &rows, 1, &result);
        assert_int_equal(result.token, token); /* the slot does not matter */
        n_different += first >= 0 && token != first;
        first = token;
    }
    assert_true(n_different > 0);
}

static void test_refuses_bad_rows(void **state)
{
    const int32_t negative[] = {1, -1};
    const int32_t beyond[] = {300};
    struct fixture *f = *state;
    struct lam_engine_result result;
    struct lam_engine_rows rows = rows_of(0, text_a, 0, 5);
    struct lam_engine_rows twice[2] = {rows, rows};

    must_step(f, &rows, 1, &result);
    rows = rows_of(0, text_a, 4, 1);
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "position 4");
    rows = rows_of(0, text_a, 6, 1);
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "holds 5 positions");
    rows = rows_of(3, text_a, 0, 1);
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "sequence 3");
    rows = rows_of(1, text_a, 0, 0);
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "no tokens");
    rows = rows_of(1, negative, 0, 2);
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "token -1");
    rows = rows_of(1, beyond, 0, 1);
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "token 300");
    rows = rows_of(1, text_a, 0, UINT32_MAX);
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "beyond the context");
    rows = rows_of(0, text_a, 5, 20);
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "beyond the context");
    rows = rows_of(1, text_a, 0, 3);
    rows.logit_rows = 4;
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "logits of 4 rows");
    rows = rows_of(1, text_a, 0, 3);
    rows.params.temperature = NAN;
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "temperature");
    rows = rows_of(1, text_a, 0, 3);
    rows.n_prompt = 25;
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "prompt of 25");
    expect_refusal(f, twice, 2, LAM_INVALID_ARGUMENT, "twice");
    twice[0] = rows_of(1, text_a, 0, 20);
    twice[1] = rows_of(2, text_b, 0, 20);
    expect_refusal(f, twice, 2, LAM_INVALID_ARGUMENT, "40 rows");
    rows = rows_of(0, text_a, 5, 1);
    rows.sampled = true; /* nothing was asked for */
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "none was");
    rows = rows_of(0, text_a, 0, 1);
    rows.sampled = true;
    expect_refusal(f, &rows, 1, LAM_INVALID_ARGUMENT, "none was");
    /* After all this, sequence 0 goes on where it was. */
    rows = rows_of(0, text_a, 5, 1);
    must_step(f, &rows, 1, &result);
}

static void test_out_of_pages(void **state)
{
    struct lam_engine_config config = default_config();
    struct fixture f = *(struct fixture *)*state;
    struct lam_engine_result results[2];
    struct lam_engine_rows rows[2];
    float *before;
    float *after;

    config.kv_pages = 4;
    make_engine(&f, &config);
    before = logits_in_chunks(&f, 0, text_a, 20, 16); /* 3 pages */
    rows[0] = rows_of(1, text_b, 0, 8);
    must_step(&f, rows, 1, results);
    rows[0] = rows_of(1, text_b, 8, 1);
    expect_refusal(&f, rows, 1, LAM_RESOURCE_EXHAUSTED, "no free KV page");
    rows[0] = rows_of(2, text_b, 0, 1);
    expect_refusal(&f, rows, 1, LAM_RESOURCE_EXHAUSTED, "no free KV page");
    /* Beginning a slot anew pays with its own pages. */
    rows[0] = rows_of(1, text_b, 0, 1);
    must_step(&f, rows, 1, results);
    lam_engine_free(f.engine, 0);
    rows[0] = rows_of(1, text_b, 1, 12);
    rows[1] = rows_of(2, text_b, 0, 16);
    must_step(&f, rows, 2, results);
    lam_engine_free(f.engine, 1);
    lam_engine_free(f.engine, 2);
    after = logits_in_chunks(&f, 0, text_a, 20, 16);
    assert_memory_equal(before, after, 20 * f.tiny.model.spec.n_vocab * sizeof(float));
    lam_free(before);
    lam_free(after);
    drop_engine(&f);
}

static void test_fault_of_a_unit_breaks_the_pass(void **state)
{
    struct lam_engine_config config = default_config();
    struct fixture f = *(struct fixture *)*state;
    struct lam_engine_rows rows = rows_of(0, text_a, 0, 5);
    uint32_t n_units = f.tiny.model.manifest.n_units;

    for (uint64_t nth = 1; nth <= n_units; nth++) {
        struct lam_engine_result result;
        struct lam_err err = {0};
        make_engine(&f, &config);
        fake_units_fail_acquire(f.units, nth);
        assert_int_equal(lam_engine_step(f.engine, &rows, 1, &result, &err), LAM_DATA_LOSS);
        assert_non_null(strstr(err.text, "cannot be read"));
        assert_false(lam_engine_usable(f.engine));
        drop_engine(&f);
    }
}

static void test_stop_ends_a_pass(void **state)
{
    struct lam_engine_config config = default_config();
    struct fixture f = *(struct fixture *)*state;
    struct lam_engine_rows rows = rows_of(0, text_a, 0, 5);
    struct lam_engine_result result;

    make_engine(&f, &config);
    lam_units_stop(f.units);
    assert_int_equal(lam_engine_step(f.engine, &rows, 1, &result, NULL), LAM_CANCELLED);
    drop_engine(&f);
}

static void test_empty_step_walks_nowhere(void **state)
{
    struct fixture *f = *state;
    uint64_t n_acquired = fake_units_acquired(f->units);

    must_step(f, NULL, 0, NULL);
    assert_int_equal(fake_units_acquired(f->units), n_acquired);
}

static void test_steps_allocate_nothing(void **state)
{
    struct fixture *f = *state;
    struct lam_engine_rows rows = rows_of(0, text_a, 0, 9);
    struct lam_engine_result result;

    rows.sample = true;
    lam_fault_arm("alloc", 1);
    must_step(f, &rows, 1, &result);
    assert_false(lam_fault_fired());
    lam_fault_arm("alloc", 0);
}

static void test_out_of_memory_at_creation(void **state)
{
    struct lam_engine_config config = default_config();
    struct fixture *f = *state;
    struct lam_units *units = fake_units_create(&f->tiny);
    struct lam_engine *engine = NULL;
    uint64_t nth = 0;
    enum lam_status status;

    do {
        struct lam_err err = {0};
        lam_fault_arm("alloc", ++nth);
        status = lam_engine_create(&config, units, &engine, &err);
        if (status != LAM_OK) {
            assert_int_equal(status, LAM_RESOURCE_EXHAUSTED);
            assert_null(engine);
            assert_true(err.text[0] != '\0');
        }
    } while (lam_fault_fired());
    assert_int_equal(status, LAM_OK);
    assert_true(nth > 2);
    lam_fault_arm("alloc", 0);
    lam_engine_destroy(engine);
    lam_units_destroy(units);
}

static void test_config_is_resolved(void **state)
{
    struct lam_engine_config config = default_config();
    struct fixture *f = *state;
    const struct lam_spec *spec = &f->tiny.model.spec;
    struct lam_units *units = fake_units_create(&f->tiny);
    struct lam_engine *engine;
    struct lam_err err = {0};
    uint32_t n_ctx = spec->n_ctx_train < 8192 ? spec->n_ctx_train : 8192;

    config.n_ctx = 0;
    assert_int_equal(lam_engine_create(&config, units, &engine, &err), LAM_OK);
    assert_int_equal(lam_engine_config(engine)->n_ctx, n_ctx);
    assert_int_equal(lam_engine_config(engine)->kv_pages, 3 * ((n_ctx + 7) / 8));
    lam_engine_destroy(engine);
    config.max_rows = 2; /* every sequence has a row */
    assert_int_equal(lam_engine_create(&config, units, &engine, &err), LAM_OK);
    assert_int_equal(lam_engine_config(engine)->max_rows, 3);
    lam_engine_destroy(engine);
    config.n_ctx = spec->n_ctx_train + 1;
    assert_int_equal(lam_engine_create(&config, units, &engine, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "--ctx"));
    lam_units_destroy(units);
}

/* The arena is the plan's, and what the engine keeps for itself fits into what that leaves. */
static void test_memory_is_what_the_plan_says(void **state)
{
    struct fixture *f = *state;
    const struct lam_plan *plan = lam_engine_plan(f->engine);
    const struct lam_plan_arena *arena = &plan->arenas[0];

    assert_true(plan->fits);
    assert_int_equal(plan->page_tokens, 8);
    assert_int_equal(plan->n_logit_rows, ROWS_MAX);
    assert_int_equal(lam_engine_device_bytes(f->engine), arena->arena_bytes);
    assert_int_equal(arena->regions[LAM_REGION_KV].bytes / arena->n_layers,
        lam_align_up(2 * plan->n_pages * plan->kv_page_bytes, LAM_PLAN_ALIGN));
}

static void test_profile_tells_rows_and_bytes(void **state)
{
    struct fixture *f = *state;
    struct lam_engine_rows rows = rows_of(0, text_a, 0, 9);
    struct lam_engine_result result;
    const struct lam_pass_profile *profile;

    must_step(f, &rows, 1, &result);
    profile = lam_engine_profile(f->engine);
    assert_int_equal(profile->n_rows, 9);
    assert_int_equal(profile->resident_bytes, f->tiny.model.manifest.unit_bytes_total);
    assert_int_equal(profile->link_bytes, 0);
    assert_true(profile->wall_ns >= profile->compute_ns + profile->disk_wait_ns);
    assert_true(profile->compute_ns > 0 && profile->floor_ns > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_equal_a_naive_computation),
        cmocka_unit_test(test_rope_factors_count),
        cmocka_unit_test(test_half_precision_cache_is_close),
        cmocka_unit_test(test_chunks_change_no_bit),
        cmocka_unit_test(test_company_changes_no_bit),
        cmocka_unit_test(test_slot_begins_anew),
        cmocka_unit_test(test_samples_the_largest_logit),
        cmocka_unit_test(test_penalties_see_the_history),
        cmocka_unit_test(test_seed_and_position_decide),
        cmocka_unit_test(test_refuses_bad_rows),
        cmocka_unit_test(test_out_of_pages),
        cmocka_unit_test(test_fault_of_a_unit_breaks_the_pass),
        cmocka_unit_test(test_stop_ends_a_pass),
        cmocka_unit_test(test_empty_step_walks_nowhere),
        cmocka_unit_test(test_steps_allocate_nothing),
        cmocka_unit_test(test_out_of_memory_at_creation),
        cmocka_unit_test(test_config_is_resolved),
        cmocka_unit_test(test_memory_is_what_the_plan_says),
        cmocka_unit_test(test_profile_tells_rows_and_bytes),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
