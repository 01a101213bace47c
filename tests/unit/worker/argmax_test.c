/*
 * Who chooses a step's tokens: the device where all of them are the largest logit of their row, so
 * that four bytes a row come to the host; else the sampler, with the logits. The tokens are those
 * of an engine on a CPU, whose sampler draws all of them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "common/size.h"
#include "tests/kernels/emulated/emulated.h"
#include "tests/unit/worker/fake_units.h"
#include "worker/engine.h"

#define N_VOCAB 300
#define SEQS 3
#define PROMPT 7u

/* The sequences of a step and what they want. */
struct step {
    const char *seqs; /* "02": 0 and 2 */
    bool argmax;      /* the device is to choose */
    bool begin;       /* with their prompts, else with the token that was drawn */
    bool no_draw;     /* a portion of a prompt with more to come */
    uint32_t logit_rows;
};

/* Sequence 0 and 1 are greedy; 2 draws. */
static const struct step steps[] = {
    {.seqs = "0", .argmax = true, .begin = true},
    {.seqs = "0", .argmax = true},
    {.seqs = "01", .argmax = true, .begin = true},
    {.seqs = "01", .argmax = true},
    {.seqs = "10", .argmax = true},
    {.seqs = "0", .logit_rows = 1},
    {.seqs = "10", .argmax = true},
    {.seqs = "2", .begin = true},
    {.seqs = "02"},
    {.seqs = "210"},
    {.seqs = "01", .argmax = true},
    {.seqs = "2"},
    {.seqs = "12", .begin = true, .no_draw = true},
    {.seqs = "0", .argmax = true},
};

struct outcome {
    int32_t tokens[SEQS]; /* of each step, in its order */
    float logits[N_VOCAB];
};

static const int32_t prompts[SEQS][PROMPT] = {
    {7, 1, 299, 42, 0, 8, 8}, {290, 14, 9, 9, 9, 60, 222}, {5, 64, 111, 2, 290, 3, 3}};

/* vram: NULL: on the CPU. NULL: it does not fit. */
static struct lam_engine *make(
    const struct tiny_model *tiny, const char *vram, uint32_t seed, struct lam_units **ret_units)
{
    const struct emulated_options options = {.seed = seed};
    struct lam_engine_config config = {
        .ops = lam_kernels_ref(),
        .n_threads = 2,
        .n_ctx = 24,
        .max_seqs = SEQS,
        .max_rows = SEQS * PROMPT,
        .kv_given = true,
        .kv_dtype = LAM_F32,
        .page_tokens = 8,
    };
    struct lam_engine *engine = NULL;
    enum lam_status status;
    struct lam_err err = {0};

    *ret_units = fake_units_create(tiny);
    fake_units_set(*ret_units, 3, 0);
    if (vram) {
        emulated_set(&options);
        config.ops = emulated_backend()->ops;
        config.device = emulated_backend()->device;
        config.vram = vram;
        config.pin_bytes = 64 * LAM_KIB;
    }
    status = lam_engine_create(&config, *ret_units, &engine, &err);
    if (status != LAM_OK && status != LAM_RESOURCE_EXHAUSTED)
        fail_msg("%s", err.text);
    return engine;
}

static struct lam_engine_rows rows_of(
    const struct step *step, uint32_t seq, const uint32_t *positions)
{
    struct lam_engine_rows rows = {
        .seq = seq,
        .position = step->begin ? 0 : positions[seq],
        .tokens = prompts[seq],
        .n_tokens = step->begin ? PROMPT : 1,
        .sampled = !step->begin,
        .sample = !step->no_draw,
        .logit_rows = step->logit_rows,
        .params = lam_sample_defaults(),
    };

    rows.params.seed = 11;
    if (seq < 2)
        rows.params.temperature = 0;
    return rows;
}

/* penalty: of sequence 1, 1 for none. */
static void run(const struct tiny_model *tiny, const char *vram, uint32_t seed, float penalty,
    struct outcome *outcomes)
{
    uint64_t row_bytes = N_VOCAB * sizeof(float);
    uint32_t positions[SEQS] = {0};
    struct lam_units *units;
    struct lam_engine *engine = make(tiny, vram, seed, &units);
    struct lam_err err = {0};

    assert_non_null(engine);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        const struct step *step = &steps[i];
        bool argmax = step->argmax && (penalty == 1 || !strchr(step->seqs, '1'));
        struct emulated_counts before = emulated_counts(), after;
        struct lam_engine_rows rows[SEQS];
        struct lam_engine_result results[SEQS];
        uint32_t n = 0, n_drawn = 0;

        for (const char *seq = step->seqs; *seq; seq++, n++) {
            rows[n] = rows_of(step, (uint32_t)(*seq - '0'), positions);
            positions[rows[n].seq] = rows[n].position + rows[n].n_tokens;
            if (rows[n].seq == 1)
                rows[n].params.repetition_penalty = penalty;
            n_drawn += rows[n].sample;
        }
        if (lam_engine_step(engine, rows, n, results, &err) != LAM_OK)
            fail_msg("step %zu: %s", i, err.text);
        after = emulated_counts();
        for (uint32_t s = 0; s < n; s++)
            outcomes[i].tokens[s] = results[s].token;
        assert_int_equal(results[0].logits != NULL, step->logit_rows > 0);
        if (results[0].logits)
            memcpy(outcomes[i].logits, results[0].logits, row_bytes);
        if (vram) {
            assert_int_equal(after.n_argmax - before.n_argmax, argmax);
            assert_int_equal(after.download_bytes - before.download_bytes,
                n_drawn * (argmax ? sizeof(int32_t) : row_bytes));
        }
    }
    lam_engine_destroy(engine);
    lam_units_destroy(units);
}

/* The smallest cap that fits: layers flow. */
static void find_least(const struct tiny_model *tiny, char *vram, size_t size)
{
    struct lam_engine *engine = NULL;
    struct lam_units *units;

    for (uint32_t mib = 16; !engine; mib++) {
        snprintf(vram, size, "%uMiB", mib);
        engine = make(tiny, vram, 1, &units);
        assert_true(!engine || lam_engine_plan(engine)->arenas[0].streamed_bytes > 0);
        lam_engine_destroy(engine);
        lam_units_destroy(units);
    }
}

/* On devices of n orders. */
static void check(uint32_t n, float penalty)
{
    enum { BYTES = sizeof(struct outcome) * sizeof steps / sizeof *steps };
    struct lam_spec spec = tiny_model_shape(8, N_VOCAB, false);
    struct outcome *wanted = lam_calloc(1, BYTES), *got = lam_calloc(1, BYTES);
    char least[24];
    struct tiny_model tiny;

    assert_true(wanted && got);
    tiny_model_make_of(&tiny, &spec, false);
    find_least(&tiny, least, sizeof least);
    run(&tiny, NULL, 0, penalty, wanted);
    for (uint32_t seed = 1; seed <= n; seed++) {
        memset(got, 0, BYTES);
        run(&tiny, seed % 2 ? least : "1GiB", seed, penalty, got);
        assert_memory_equal(wanted, got, BYTES);
    }
    tiny_model_done(&tiny);
    lam_free(wanted);
    lam_free(got);
}

static void test_the_device_chooses_what_the_sampler_would(void **state)
{
    (void)state;
    check(4, 1);
}

static void test_penalties_are_the_samplers(void **state)
{
    (void)state;
    check(2, 1.5f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_device_chooses_what_the_sampler_would),
        cmocka_unit_test(test_penalties_are_the_samplers),
    };

    lam_log_init("argmax_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
