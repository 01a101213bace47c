/* Steps of a gateway's, checked and computed as service.c does it: rows of tokens that only the
 * worker knows. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "kernels/ops.h"
#include "tests/kernels/emulated/emulated.h"
#include "tests/unit/worker/fake_units.h"
#include "worker/step.h"

#define MAX_SEQS 2u
#define MAX_ROWS 16u
#define DRAWN 5u
#define SEQS_MANY 24u

static const int32_t prompts[SEQS_MANY + 1] = {7, 1, 299, 42, 0, 8, 8, 150, 77, 3, 12, 201, 7, 99,
    250, 31, 5, 64, 111, 2, 290, 14, 9, 60, 222};

struct fixture {
    struct tiny_model tiny;
    struct lam_units *units;
    struct lam_engine *engine;
    uint32_t epochs[MAX_SEQS];
};

static int setup(void **state)
{
    static struct fixture f;
    const struct lam_engine_config config = {.ops = lam_kernels_ref(),
        .n_threads = 1,
        .n_ctx = 24,
        .max_seqs = MAX_SEQS,
        .max_rows = MAX_ROWS,
        .max_logit_rows = MAX_SEQS,
        .kv_given = true,
        .kv_dtype = LAM_F32,
        .page_tokens = 8};

    tiny_model_make(&f.tiny, false);
    f.units = fake_units_create(&f.tiny);
    assert_int_equal(lam_engine_create(&config, f.units, &f.engine, NULL), LAM_OK);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    lam_engine_destroy(f->engine);
    lam_units_destroy(f->units);
    tiny_model_done(&f->tiny);
    return 0;
}

/* A step of one sequence's rows. *ret_token: what was drawn. */
static enum lam_status step(
    struct fixture *f, Laminar__V1__SequenceRows *rows, int32_t *ret_token, struct lam_err *err)
{
    const struct lam_step_limits limits = {MAX_SEQS, MAX_ROWS};
    Laminar__V1__Step message = LAMINAR__V1__STEP__INIT;
    struct lam_engine_rows read[MAX_SEQS];
    struct lam_engine_result result;
    enum lam_status status;

    message.rows = &rows;
    message.n_rows = 1;
    status = lam_step_read(&message, &limits, f->epochs, read, err);
    if (status == LAM_OK)
        status = lam_engine_step(f->engine, read, 1, &result, err);
    if (status != LAM_OK)
        return status;
    f->epochs[rows->seq] = rows->epoch;
    *ret_token = result.token;
    return LAM_OK;
}

static Laminar__V1__SequenceRows rows_of(
    uint32_t seq, uint32_t position, const int32_t *tokens, size_t n_tokens)
{
    Laminar__V1__SequenceRows rows = LAMINAR__V1__SEQUENCE_ROWS__INIT;

    rows.seq = seq;
    rows.epoch = 1 + seq;
    rows.position = position;
    rows.tokens = (int32_t *)(uintptr_t)tokens;
    rows.n_tokens = n_tokens;
    rows.sampled = n_tokens == 0;
    rows.sample = true;
    return rows;
}

/* A sequence goes on with what was drawn as with the same tokens brought along. */
static void test_goes_on_with_what_was_drawn(void **state)
{
    struct fixture *f = *state;
    const int32_t text[3] = {7, 1, 299};
    int32_t drawn[DRAWN], brought[DRAWN];

    for (uint32_t i = 0; i < DRAWN; i++) {
        Laminar__V1__SequenceRows rows =
            i == 0 ? rows_of(0, 0, text, 3) : rows_of(0, 2 + i, NULL, 0);
        assert_int_equal(step(f, &rows, &drawn[i], NULL), LAM_OK);
        rows = i == 0 ? rows_of(1, 0, text, 3) : rows_of(1, 2 + i, &brought[i - 1], 1);
        assert_int_equal(step(f, &rows, &brought[i], NULL), LAM_OK);
    }
    assert_memory_equal(drawn, brought, sizeof drawn);
}

static void expect_refusal(struct fixture *f, Laminar__V1__SequenceRows rows, const char *text)
{
    struct lam_err err = {0};
    int32_t token;

    assert_int_equal(step(f, &rows, &token, &err), LAM_INVALID_ARGUMENT);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" is not in \"%s\"", text, err.text);
}

static void test_refuses_what_was_not_drawn(void **state)
{
    struct fixture *f = *state;
    const int32_t text[3] = {7, 1, 299};
    Laminar__V1__SequenceRows rows = rows_of(0, 0, text, 3);
    int32_t token;

    rows.sample = false;
    assert_int_equal(step(f, &rows, &token, NULL), LAM_OK);
    expect_refusal(f, rows_of(0, 3, NULL, 0), "but none was"); /* nothing was asked for */
    rows = rows_of(0, 3, text, 1);
    assert_int_equal(step(f, &rows, &token, NULL), LAM_OK);
    rows = rows_of(0, 4, text, 1);
    rows.sampled = true;
    expect_refusal(f, rows, "brings 1 tokens");
    expect_refusal(f, rows_of(0, 5, NULL, 0), "holds 4 positions");
    expect_refusal(f, rows_of(0, 0, NULL, 0), "but none was");
    rows = rows_of(0, 4, NULL, 0);
    rows.epoch++;
    expect_refusal(f, rows, "belongs to epoch 1");
    lam_engine_free(f->engine, 0); /* as the step's list of free slots does */
    expect_refusal(f, rows_of(0, 4, NULL, 0), "holds 0 positions");
}

/* Draws of SEQS_MANY sequences, one token each after their prompts. */
static void draw_many(const struct fixture *f, struct lam_engine_config config, int32_t *tokens)
{
    struct lam_units *units = fake_units_create(&f->tiny);
    struct lam_engine *engine = NULL;
    struct lam_engine_rows rows[SEQS_MANY];
    struct lam_engine_result results[SEQS_MANY];
    struct lam_err err = {0};

    config.max_seqs = SEQS_MANY;
    config.max_logit_rows = SEQS_MANY;
    if (lam_engine_create(&config, units, &engine, &err) != LAM_OK)
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < SEQS_MANY; i++) {
        rows[i] = (struct lam_engine_rows){.seq = i,
            .tokens = prompts + i,
            .n_tokens = 1 + i % 2,
            .sample = i % 4 != 3,
            .params = lam_sample_defaults()};
        rows[i].params.seed = i;
        rows[i].params.top_k = i % 3 ? 50 : 0;
    }
    assert_int_equal(lam_engine_step(engine, rows, SEQS_MANY, results, &err), LAM_OK);
    for (uint32_t i = 0; i < SEQS_MANY; i++)
        tokens[i] = results[i].token;
    lam_engine_destroy(engine);
    lam_units_destroy(units);
}

/* Beside a device several threads draw: each the token that one alone would. */
static void test_rows_are_drawn_side_by_side(void **state)
{
    const struct fixture *f = *state;
    const struct emulated_options options = {.seed = 1};
    struct lam_engine_config config = {.ops = lam_kernels_ref(),
        .n_threads = 4,
        .n_ctx = 24,
        .max_rows = 2 * SEQS_MANY,
        .kv_given = true,
        .kv_dtype = LAM_F32,
        .page_tokens = 8,
        .pin_bytes = (uint64_t)64 << 10};
    int32_t one_by_one[SEQS_MANY], together[SEQS_MANY];

    draw_many(f, config, one_by_one);
    emulated_set(&options);
    config.ops = emulated_backend()->ops;
    config.device = emulated_backend()->device;
    config.vram = "256MiB";
    draw_many(f, config, together);
    assert_memory_equal(one_by_one, together, sizeof together);
    for (uint32_t i = 0; i < SEQS_MANY; i++)
        assert_int_equal(together[i] >= 0, i % 4 != 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_goes_on_with_what_was_drawn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refuses_what_was_not_drawn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_are_drawn_side_by_side, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
