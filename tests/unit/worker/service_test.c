/* The worker's service between a gateway in this process and the engine on fake units: what it
 * says, what it refuses and survives, and how it ends. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "kernels/ops.h"
#include "tests/unit/worker/fake_gateway.h"
#include "tests/unit/worker/fake_units.h"
#include "worker/engine.h"
#include "worker/service.h"

struct fixture {
    struct tiny_model tiny;
    struct fake_gateway gateway;
    struct lam_units *units;
    struct lam_engine *engine;
    struct lam_service *service;
    pthread_t thread;
    enum lam_status status; /* of run, after join */
    struct lam_err err;
};

static void *run_main(void *arg)
{
    struct fixture *f = arg;

    f->status = lam_service_run(f->service, &f->err);
    return NULL;
}

static int setup(void **state)
{
    static struct fixture f;
    struct lam_engine_config config = {.ops = lam_kernels_ref(),
        .n_threads = 1,
        .n_ctx = 24,
        .max_seqs = 3,
        .max_rows = 16,
        .max_logit_rows = 3,
        .kv_given = true,
        .kv_dtype = LAM_F32,
        .page_tokens = 8,
        .kv_pages = 4};
    struct lam_service_config service;

    f = (struct fixture){0};
    lam_log_init("service_test", LAM_LOG_OFF);
    tiny_model_make(&f.tiny, false);
    f.units = fake_units_create(&f.tiny);
    assert_int_equal(lam_engine_create(&config, f.units, &f.engine, NULL), LAM_OK);
    fake_gateway_start(&f.gateway);
    service = (struct lam_service_config){.gateway = f.gateway.address,
        .worker_id = "w1",
        .device = "cpu",
        .units = f.units,
        .engine = f.engine};
    assert_int_equal(lam_service_create(&service, &f.service, NULL), LAM_OK);
    assert_int_equal(pthread_create(&f.thread, NULL, run_main, &f), 0);
    *state = &f;
    return 0;
}

static void join(struct fixture *f)
{
    pthread_join(f->thread, NULL);
    f->thread = 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    lam_service_stop(f->service);
    if (f->thread)
        join(f);
    fake_gateway_stop(&f->gateway);
    lam_service_destroy(f->service);
    lam_engine_destroy(f->engine);
    lam_units_destroy(f->units);
    tiny_model_done(&f->tiny);
    return 0;
}

static const int32_t text[] = {7, 1, 299, 42, 0, 8, 8, 150, 77, 3, 12, 201, 7, 99, 250, 31, 5};

static struct fake_rows rows_of(uint32_t seq, uint32_t epoch, uint32_t position, size_t n_tokens)
{
    return (struct fake_rows){.seq = seq,
        .epoch = epoch,
        .position = position,
        .tokens = text,
        .n_tokens = n_tokens,
        .sample = true};
}

/* The greedy token after text[0, n), by the independent computation. */
static int32_t expected_token(const struct fixture *f, uint32_t n)
{
    static double logits[17 * 512];
    uint32_t n_vocab = f->tiny.model.spec.n_vocab;
    int32_t best = 0;

    assert_true(n_vocab <= 512);
    tiny_model_logits(&f->tiny, text, n, logits);
    for (uint32_t i = 1; i < n_vocab; i++)
        if (logits[(n - 1) * n_vocab + i] > logits[(n - 1) * n_vocab + (uint32_t)best])
            best = (int32_t)i;
    return best;
}

static void test_hello_tells_what_it_can(void **state)
{
    struct fixture *f = *state;
    struct fake_gateway_seen seen;

    assert_true(fake_gateway_wait_attached(&f->gateway, 1, &seen));
    assert_string_equal(seen.worker_id, "w1");
    assert_string_equal(seen.device, "cpu");
    assert_int_equal(seen.context_tokens, 24);
    assert_int_equal(seen.max_sequences, 3);
    assert_int_equal(seen.max_rows, 16);
    assert_int_equal(seen.kv_page_tokens, 8);
    assert_int_equal(seen.kv_pages, 4);
    assert_int_equal(seen.max_steps, 2);
    assert_int_equal(seen.header_bytes, f->tiny.model.header_bytes);
    assert_int_equal(seen.header.size, f->tiny.model.header_bytes);
    assert_memory_equal(seen.header.data, f->tiny.image, seen.header.size);
}

static void test_steps_are_answered(void **state)
{
    struct fixture *f = *state;
    struct fake_rows rows[2] = {rows_of(0, 5, 0, 9), rows_of(2, 6, 0, 4)};
    struct fake_result result;

    assert_true(fake_gateway_wait_attached(&f->gateway, 1, NULL));
    rows[1].sample = false;
    fake_gateway_step(&f->gateway, 11, rows, 2, NULL, 0);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    assert_int_equal(result.id, 11);
    assert_int_equal(result.n_tokens, 1);
    assert_int_equal(result.tokens[0].seq, 0);
    assert_int_equal(result.tokens[0].epoch, 5);
    assert_int_equal(result.tokens[0].token, expected_token(f, 9));
    rows[0] = rows_of(2, 6, 4, 3);
    rows[0].tokens = text + 4;
    fake_gateway_step(&f->gateway, 12, rows, 1, NULL, 0);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    assert_int_equal(result.id, 12);
    assert_int_equal(result.tokens[0].token, expected_token(f, 7));
    /* Each unit of both passes was a page and a microsecond more (fake_units.c). */
    assert_int_equal(result.pool_ready_bytes, 2 * f->tiny.model.manifest.n_units * 4096);
    assert_true(result.pool_ready_seconds == (double)result.pool_ready_bytes / 4096 * 1000 / 1e9);
}

/* Two steps without an answer: the second goes on with the token that the first one draws. */
static void test_a_step_ahead(void **state)
{
    struct fixture *f = *state;
    struct fake_rows first = rows_of(0, 5, 0, 9);
    struct fake_rows second = {.seq = 0, .epoch = 5, .position = 9, .sampled = true};
    struct fake_rows third = rows_of(1, 6, 0, 10);
    struct fake_result results[3];
    int32_t whole[10];

    second.sample = true;
    assert_true(fake_gateway_wait_attached(&f->gateway, 1, NULL));
    fake_gateway_step(&f->gateway, 21, &first, 1, NULL, 0);
    fake_gateway_step(&f->gateway, 22, &second, 1, NULL, 0);
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(fake_gateway_wait_result(&f->gateway, &results[i]));
        assert_int_equal(results[i].id, 21 + i);
        assert_int_equal(results[i].n_tokens, 1);
    }
    assert_int_equal(results[0].tokens[0].token, expected_token(f, 9));
    /* The same text as one prompt. */
    memcpy(whole, text, 9 * sizeof *text);
    whole[9] = results[0].tokens[0].token;
    third.tokens = whole;
    fake_gateway_step(&f->gateway, 23, &third, 1, NULL, 0);
    assert_true(fake_gateway_wait_result(&f->gateway, &results[2]));
    assert_int_equal(results[2].tokens[0].token, results[1].tokens[0].token);
}

/* What the unit that is asked for next waits for, on the worker's thread. */
static struct {
    struct fixture *f;
    uint32_t n_calls, n_units;
    bool answered;
    struct fake_result result;
    atomic_bool over;
} held;

/* The second pass gets no unit before the answer to the first step is here. */
static void hold_second_pass(uint64_t ns)
{
    (void)ns;
    if (held.n_calls++ != held.n_units)
        return;
    held.answered = fake_gateway_wait_result(&held.f->gateway, &held.result);
    atomic_store(&held.over, true);
}

/* When the next step is here, the answer goes behind the beginning of its pass, but does not wait
 * for anything that this one waits for. */
static void test_an_answer_does_not_wait_for_the_next_pass(void **state)
{
    struct fixture *f = *state;
    struct fake_rows first = rows_of(0, 5, 0, 9);
    struct fake_rows second = rows_of(1, 6, 0, 10);
    struct fake_result result;

    memset(&held, 0, sizeof held);
    held.f = f;
    held.n_units = f->tiny.model.manifest.n_units;
    assert_true(fake_gateway_wait_attached(&f->gateway, 1, NULL));
    fake_units_slow(f->units, 1, hold_second_pass);
    fake_gateway_step(&f->gateway, 31, &first, 1, NULL, 0);
    fake_gateway_step(&f->gateway, 32, &second, 1, NULL, 0);
    while (!atomic_load(&held.over)) /* the wait has a limit */
        lam_sleep_ns(LAM_NS_PER_MS / 10);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    assert_int_equal(result.id, 32);
    assert_true(held.answered);
    assert_int_equal(held.result.id, 31);
    assert_int_equal(held.result.tokens[0].token, expected_token(f, 9));
    assert_int_equal(result.tokens[0].token, expected_token(f, 10));
}

/* Sends one bad step: the attachment ends, a new one works. */
static void expect_reattach(
    struct fixture *f, uint32_t nth, const struct fake_rows *rows, size_t n, const char *what)
{
    struct fake_rows good = rows_of(0, 1, 0, 3);
    struct fake_result result;

    assert_true(fake_gateway_wait_attached(&f->gateway, nth, NULL));
    fake_gateway_step(&f->gateway, nth, rows, n, NULL, 0);
    if (!fake_gateway_wait_attached(&f->gateway, nth + 1, NULL))
        fail_msg("%s: the worker did not come back", what);
    fake_gateway_step(&f->gateway, 1000 + nth, &good, 1, NULL, 0);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    assert_int_equal(result.id, 1000 + nth);
    assert_int_equal(result.tokens[0].token, expected_token(f, 3));
}

static void test_survives_bad_steps(void **state)
{
    struct fixture *f = *state;
    const int32_t beyond[] = {300};
    struct fake_rows rows[4];

    rows[0] = rows_of(3, 1, 0, 1);
    expect_reattach(f, 1, rows, 1, "slot");
    rows[0] = rows_of(1, 1, 0, 17);
    expect_reattach(f, 2, rows, 1, "rows");
    rows[0] = rows_of(1, 1, 0, 1);
    rows[0].tokens = beyond;
    expect_reattach(f, 3, rows, 1, "token");
    for (uint32_t i = 0; i < 4; i++)
        rows[i] = rows_of(i % 3, 1, 0, 1);
    expect_reattach(f, 4, rows, 4, "sequences");
    rows[0] = rows_of(0, 1, 3, 1); /* slot 0 has drawn a token; it cannot bring one as well */
    rows[0].sampled = true;
    expect_reattach(f, 5, rows, 1, "drawn and brought");
    rows[0] = rows_of(1, 1, 0, 0);
    rows[0].sampled = true;
    expect_reattach(f, 6, rows, 1, "nothing drawn");
    rows[0] = rows_of(0, 2, 3, 1); /* slot 0 holds 3 positions of epoch 1 */
    expect_reattach(f, 7, rows, 1, "epoch");
}

/* A gateway that went away and came back begins with free slots. */
static void test_slots_are_free_after_a_loss(void **state)
{
    struct fixture *f = *state;
    struct fake_rows rows[2] = {rows_of(0, 1, 0, 8), rows_of(1, 1, 0, 8)};
    struct fake_result result;

    assert_true(fake_gateway_wait_attached(&f->gateway, 1, NULL));
    fake_gateway_step(&f->gateway, 1, rows, 2, NULL, 0);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    fake_gateway_drop(&f->gateway);
    assert_true(fake_gateway_wait_attached(&f->gateway, 2, NULL));
    rows[0] = rows_of(2, 1, 0, 16); /* with the pages that 0 and 1 had: 4 in all */
    fake_gateway_step(&f->gateway, 2, rows, 1, NULL, 0);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    rows[0] = rows_of(2, 1, 16, 1);
    fake_gateway_step(&f->gateway, 3, rows, 1, NULL, 0);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    assert_int_equal(result.id, 3);
}

static void test_free_gives_pages_back(void **state)
{
    struct fixture *f = *state;
    const uint32_t both[] = {0, 1};
    struct fake_rows rows[2] = {rows_of(0, 1, 0, 8), rows_of(1, 1, 0, 8)};
    struct fake_result result;

    assert_true(fake_gateway_wait_attached(&f->gateway, 1, NULL));
    fake_gateway_step(&f->gateway, 1, rows, 2, NULL, 0);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    rows[0] = rows_of(0, 2, 0, 16);
    fake_gateway_step(&f->gateway, 2, rows, 1, both, 2);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    rows[0] = rows_of(2, 1, 0, 9);
    fake_gateway_step(&f->gateway, 3, rows, 1, NULL, 0);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    assert_int_equal(result.id, 3);
}

static void test_stop_while_idle(void **state)
{
    struct fixture *f = *state;

    assert_true(fake_gateway_wait_attached(&f->gateway, 1, NULL));
    lam_service_stop(f->service);
    join(f);
    assert_int_equal(f->status, LAM_OK);
}

static void test_stop_lets_the_pass_end(void **state)
{
    struct fixture *f = *state;
    struct fake_rows rows = rows_of(0, 1, 0, 16);
    struct fake_result result;
    uint64_t n_acquired = fake_units_acquired(f->units);

    assert_true(fake_gateway_wait_attached(&f->gateway, 1, NULL));
    fake_gateway_step(&f->gateway, 1, &rows, 1, NULL, 0);
    while (fake_units_acquired(f->units) == n_acquired)
        lam_sleep_ns(LAM_NS_PER_MS / 10);
    lam_service_stop(f->service);
    join(f);
    assert_int_equal(f->status, LAM_OK);
    assert_true(fake_gateway_wait_result(&f->gateway, &result));
    assert_int_equal(result.tokens[0].token, expected_token(f, 16));
}

static void test_fault_of_a_unit_ends_the_worker(void **state)
{
    struct fixture *f = *state;
    struct fake_rows rows = rows_of(0, 1, 0, 3);

    assert_true(fake_gateway_wait_attached(&f->gateway, 1, NULL));
    fake_units_fail_acquire(f->units, 2);
    fake_gateway_step(&f->gateway, 1, &rows, 1, NULL, 0);
    join(f);
    assert_int_equal(f->status, LAM_DATA_LOSS);
    assert_non_null(strstr(f->err.text, "cannot be read"));
}

static void test_loss_of_the_loader_ends_an_idle_worker(void **state)
{
    struct fixture *f = *state;

    assert_true(fake_gateway_wait_attached(&f->gateway, 1, NULL));
    lam_units_stop(f->units); /* the fake's check fails from now on */
    lam_service_lose_loader(f->service);
    join(f);
    assert_int_equal(f->status, LAM_UNAVAILABLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hello_tells_what_it_can, setup, teardown),
        cmocka_unit_test_setup_teardown(test_steps_are_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_step_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_an_answer_does_not_wait_for_the_next_pass, setup, teardown),
        cmocka_unit_test_setup_teardown(test_survives_bad_steps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slots_are_free_after_a_loss, setup, teardown),
        cmocka_unit_test_setup_teardown(test_free_gives_pages_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_while_idle, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_lets_the_pass_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fault_of_a_unit_ends_the_worker, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_loss_of_the_loader_ends_an_idle_worker, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
