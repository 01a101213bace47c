/*
 * What clients see of the gateway. What they must read is computed here from the prompt, so a lost,
 * doubled or foreign token shows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/gateway/service_world.h"

#define TIMEOUT_NS (120 * LAM_NS_PER_S) /* or it hangs */
#define STEP_LIMIT_NS (60 * LAM_NS_PER_S)

static void test_generate(void **state)
{
    struct world world;
    static struct fake_worker worker;
    struct reading reading;
    Laminar__V1__GenerateRequest request = world_ask("hello", 20);
    char expected[TINY_CONTEXT];
    uint64_t limit_ns = lam_now_ns() + TIMEOUT_NS;

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 1);
    world_wait(&world, 1, true);
    reading_open(&world, &request, &reading);
    reading_all(&world, &reading);
    world_expected("hello", 20, expected);
    assert_string_equal(reading.text.data, expected);
    assert_int_equal(reading.err.status, LAM_OK);
    assert_int_equal(reading.n_ids, 20);
    assert_true(reading.n_messages > 5); /* streamed, not sent at the end */
    assert_int_equal(reading.finish, LAMINAR__V1__FINISH_REASON__FINISH_REASON_LENGTH);
    assert_int_equal(reading.prompt_tokens, 6);
    assert_int_equal(reading.completion_tokens, 20);
    assert_true(reading.prefill_seconds > 0.0005 && reading.decode_seconds > 0.01);
    reading_done(&reading);
    assert_int_equal(atomic_load(&worker.steps), 20); /* a known end wastes nothing */

    /* Default length: to the end of the context. */
    request._max_tokens_case = LAMINAR__V1__GENERATE_REQUEST___MAX_TOKENS__NOT_SET;
    reading_open(&world, &request, &reading);
    reading_all(&world, &reading);
    assert_int_equal(reading.n_ids, TINY_CONTEXT - 6);
    reading_done(&reading);
    /* Steps are sent ahead of short passes only, and on a busy machine it may take a while until
     * one is short. */
    while (atomic_load(&worker.ahead) == 0) {
        assert_true(lam_now_ns() < limit_ns);
        reading_open(&world, &request, &reading);
        reading_all(&world, &reading);
        reading_done(&reading);
    }
    world_wait(&world, 1, true);
    fake_worker_kill(&worker);
    assert_false(atomic_load(&worker.broken));
    world_stop(&world);
}

static void test_stop_string_frees_the_slot(void **state)
{
    struct world world;
    static struct fake_worker worker;
    struct reading reading;
    Laminar__V1__GenerateRequest request = world_ask("hello", 50);
    char expected[TINY_CONTEXT];
    char stop[4] = "";
    char *stops[] = {stop};

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 1);
    world_wait(&world, 1, true);
    world_expected("hello", 50, expected);
    memcpy(stop, expected + 10, 3);
    request.stop = stops;
    request.n_stop = 1;
    reading_open(&world, &request, &reading);
    reading_all(&world, &reading);
    *strstr(expected, stop) = '\0';
    assert_string_equal(reading.text.data, expected);
    assert_string_equal(reading.stop, stop);
    assert_int_equal(reading.finish, LAMINAR__V1__FINISH_REASON__FINISH_REASON_STOP);
    reading_done(&reading);
    world_wait_for(&worker.held, 0); /* the worker heard of it without a new request */
    assert_true(atomic_load(&worker.steps) <= 14);
    fake_worker_kill(&worker);
    world_stop(&world);
}

static void test_requests_share_passes(void **state)
{
    const char *prompts[] = {"one", "two", "three", "four", "five", "six"};
    struct world world;
    static struct fake_worker worker;
    struct reading readings[6];
    char expected[TINY_CONTEXT];

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 1);
    world_wait(&world, 1, true);
    atomic_store(&worker.hangs, true);
    for (size_t i = 0; i < 6; i++) { /* two more than there are slots */
        Laminar__V1__GenerateRequest request = world_ask(prompts[i], 30);
        reading_open(&world, &request, &readings[i]);
    }
    world_wait_requests(&world, FAKE_SLOTS, 2);
    atomic_store(&worker.hangs, false);
    for (size_t i = 0; i < 6; i++) {
        reading_all(&world, &readings[i]);
        world_expected(prompts[i], 30, expected);
        assert_string_equal(readings[i].text.data, expected);
        reading_done(&readings[i]);
    }
    assert_true(atomic_load(&worker.steps) < 6 * 30 / 2);
    assert_true(atomic_load(&worker.shared) > 20);
    fake_worker_kill(&worker);
    assert_false(atomic_load(&worker.broken));
    world_stop(&world);
}

/* The next rows of a prompt are sent before the answer to those before, once a pass of as many has
 * been seen: the worker does not answer the second step until the third is here. */
static void test_a_step_follows_a_long_pass(void **state)
{
    struct world world;
    static struct fake_worker worker;
    struct reading reading;
    char prompt[60] = "";
    Laminar__V1__GenerateRequest request = world_ask(prompt, 2);
    char expected[TINY_CONTEXT];

    (void)state;
    memset(prompt, 'p', sizeof prompt - 1);
    world_start(&world, 8, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 30); /* longer than those that are followed at once */
    worker.held_step = 2;
    world_wait(&world, 1, true);
    reading_open(&world, &request, &reading);
    reading_all(&world, &reading);
    world_expected(prompt, 2, expected);
    assert_string_equal(reading.text.data, expected);
    reading_done(&reading);
    assert_int_equal(atomic_load(&worker.steps), 5); /* 60 rows, 16 in a pass, and one more */
    fake_worker_kill(&worker);
    assert_false(atomic_load(&worker.broken));
    world_stop(&world);
}

static void test_cancel(void **state)
{
    struct world world;
    static struct fake_worker worker;
    struct reading reading;
    Laminar__V1__GenerateRequest request = world_ask("x", 60);
    unsigned steps;

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 20);
    world_wait(&world, 1, true);
    reading_open(&world, &request, &reading);
    assert_true(reading_one(&world, &reading));
    lam_rpc_stream_cancel(reading.stream);
    world_wait(&world, 1, true);
    steps = atomic_load(&worker.steps);
    world_wait_for(&worker.held, 0);
    assert_true(atomic_load(&worker.steps) <= steps + 2); /* those that were on their way */
    reading_done(&reading);
    fake_worker_kill(&worker);
    world_stop(&world);
}

/* As many as there are slots run, two wait, and the last one is refused. */
static void test_queue_is_bounded(void **state)
{
    struct world world;
    static struct fake_worker worker;
    struct reading readings[FAKE_SLOTS + 3];
    Laminar__V1__GenerateRequest request = world_ask("x", 40);

    (void)state;
    world_start(&world, 2, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 1);
    world_wait(&world, 1, true);
    atomic_store(&worker.hangs, true); /* until all are there */
    for (size_t i = 0; i < FAKE_SLOTS + 3; i++)
        reading_open(&world, &request, &readings[i]);
    reading_all(&world, &readings[FAKE_SLOTS + 2]);
    assert_int_equal(readings[FAKE_SLOTS + 2].err.status, LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(readings[FAKE_SLOTS + 2].err.text, "--max-waiting"));
    atomic_store(&worker.hangs, false);
    for (size_t i = 0; i < FAKE_SLOTS + 2; i++) {
        reading_all(&world, &readings[i]);
        assert_int_equal(readings[i].n_ids, 40);
    }
    for (size_t i = 0; i < FAKE_SLOTS + 3; i++)
        reading_done(&readings[i]);
    fake_worker_kill(&worker);
    world_stop(&world);
}

static void test_bad_request(void **state)
{
    struct world world;
    static struct fake_worker worker;
    struct reading reading;
    Laminar__V1__GenerateRequest request = world_ask("x", 0);

    (void)state;
    world_start(&world, 2, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 1);
    world_wait(&world, 1, true);
    reading_open(&world, &request, &reading);
    reading_all(&world, &reading);
    assert_int_equal(reading.err.status, LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(reading.err.text, "max_tokens is 0; the range is 1..64"));
    reading_done(&reading);
    request = world_ask("x\xff", 1);
    reading_open(&world, &request, &reading);
    reading_all(&world, &reading);
    assert_int_equal(reading.err.status, LAM_INVALID_ARGUMENT);
    reading_done(&reading);
    fake_worker_kill(&worker);
    world_stop(&world);
}

static void test_queries(void **state)
{
    struct world world;
    static struct fake_worker worker;
    Laminar__V1__TokenizeRequest tokenize = LAMINAR__V1__TOKENIZE_REQUEST__INIT;
    Laminar__V1__DetokenizeRequest detokenize = LAMINAR__V1__DETOKENIZE_REQUEST__INIT;
    int32_t ids[] = {TINY_BOS, TINY_BYTE('h'), TINY_BYTE(0xc3), TINY_BYTE(0xa9), TINY_VOCAB};
    const Laminar__V1__GetModelResponse *model;
    const Laminar__V1__TokenizeResponse *tokens;
    ProtobufCMessage *response = NULL;
    struct lam_err err = {0};

    (void)state;
    world_start(&world, 2, LAM_NS_PER_S);
    world_worker(&world, &worker, "w", 1);
    world_wait(&world, 1, true);
    model = world_get_model(&world);
    assert_string_equal(model->name, "tiny");
    assert_string_equal(model->chat_template, "chatml");
    assert_int_equal(model->context_tokens, TINY_CONTEXT);
    assert_int_equal(model->workers[0]->max_kv_tokens, FAKE_SLOTS * TINY_CONTEXT);
    tokenize.prompt_case = LAMINAR__V1__TOKENIZE_REQUEST__PROMPT_TEXT;
    tokenize.text = (char *)(uintptr_t) "h\xc3\xa9";
    assert_int_equal(world_unary(&world, "Tokenize", &tokenize.base,
                         &laminar__v1__tokenize_response__descriptor, &response, &err),
        LAM_OK);
    tokens = (const Laminar__V1__TokenizeResponse *)response;
    assert_int_equal(tokens->n_token_ids, 4);
    assert_memory_equal(tokens->token_ids, ids, 4 * sizeof *ids);
    assert_int_equal(tokens->n_pieces, 4);
    assert_memory_equal(tokens->pieces[1].data, "<0x68>", 6);
    detokenize.token_ids = ids;
    detokenize.n_token_ids = 4;
    assert_int_equal(world_unary(&world, "Detokenize", &detokenize.base,
                         &laminar__v1__detokenize_response__descriptor, &response, &err),
        LAM_OK);
    assert_string_equal(((const Laminar__V1__DetokenizeResponse *)response)->text, "h\xc3\xa9");
    detokenize.n_token_ids = 5;
    assert_int_equal(world_unary(&world, "Detokenize", &detokenize.base,
                         &laminar__v1__detokenize_response__descriptor, &response, &err),
        LAM_INVALID_ARGUMENT);
    fake_worker_kill(&worker);
    world_stop(&world);
}

/*
 * A client that does not read: what waits for it is bounded, its sequence pauses, others go on.
 * When it reads again, nothing is missing. The transport takes some megabytes before it says so,
 * hence the long tokens. With a limit for steps, as the program has one: a tick that lets the
 * sequence go on sends a step that is younger than the tick's own time, and the worker was given up
 * as 584 years late.
 */
static void test_slow_reader(void **state)
{
    enum { N_TOKENS = 10000 };
    static struct fake_worker worker = {.id = "w", .context = FAKE_CONTEXT_MAX, .loud = true};
    Laminar__V1__GenerateRequest request = world_ask("x", N_TOKENS);
    uint64_t limit_ns = lam_now_ns() + TIMEOUT_NS;
    struct world world;
    struct reading slow, quick;
    unsigned steps = 0;

    (void)state;
    world_step_limit_ns = STEP_LIMIT_NS;
    world_start(&world, 8, LAM_NS_PER_S);
    world_step_limit_ns = 0;
    worker.model = &world.model;
    fake_worker_start(&worker, world.address);
    world_wait(&world, 1, true);
    reading_open(&world, &request, &slow);
    while (steps == 0 || atomic_load(&worker.steps) != steps) {
        steps = atomic_load(&worker.steps);
        lam_sleep_ns(300 * LAM_NS_PER_MS);
        assert_true(lam_now_ns() < limit_ns);
    }
    assert_true(steps < N_TOKENS);
    assert_int_equal(world_get_model(&world)->workers[0]->sequences, 1);
    request = world_ask("y", 50);
    reading_open(&world, &request, &quick);
    reading_all(&world, &quick);
    assert_int_equal(quick.n_ids, 50);
    reading_done(&quick);
    reading_all(&world, &slow);
    assert_int_equal(slow.n_ids, N_TOKENS);
    assert_int_equal(slow.text.size, (size_t)N_TOKENS * TINY_LOUD_BYTES);
    assert_int_equal(strspn(slow.text.data, "L"), slow.text.size);
    reading_done(&slow);
    fake_worker_kill(&worker);
    assert_false(atomic_load(&worker.broken));
    world_stop(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generate),
        cmocka_unit_test(test_stop_string_frees_the_slot),
        cmocka_unit_test(test_requests_share_passes),
        cmocka_unit_test(test_a_step_follows_a_long_pass),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_queue_is_bounded),
        cmocka_unit_test(test_bad_request),
        cmocka_unit_test(test_queries),
        cmocka_unit_test(test_slow_reader),
    };

    lam_log_init("test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
