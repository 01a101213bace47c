/*
 * The whole gateway in one process: real streams, the fake worker of fake_worker.h, clients in this
 * thread. What a client must read is computed here from the prompt, so a lost, doubled or foreign
 * token shows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/log.h"
#include "gateway/service.h"
#include "proto/laminar/v1/generation.pb-c.h"
#include "rpc/message.h"
#include "tests/unit/gateway/fake_worker.h"

#define MESSAGE_BYTES_MAX ((size_t)4 << 20)
#define TIMEOUT_NS (20 * LAM_NS_PER_S)

struct world {
    struct lam_service *service;
    struct lam_rpc_channel *channel;
    struct tiny_model model;
    struct lam_arena arena;
    char address[128];
};

static void world_start(struct world *world, uint32_t waiting_max, uint64_t orphan_limit_ns)
{
    static unsigned n;
    const char *listen[] = {world->address};
    struct lam_service_config config = {.listen = listen,
        .n_listen = 1,
        .waiting_max = waiting_max,
        .orphan_limit_ns = orphan_limit_ns};
    struct lam_err err = {0};

    memset(world, 0, sizeof *world);
    snprintf(world->address, sizeof world->address, "unix:/tmp/laminar-service-test-%d-%u.sock",
        (int)getpid(), n++);
    world->model = tiny_model_make("tiny", true);
    assert_int_equal(lam_arena_init(&world->arena, MESSAGE_BYTES_MAX, &err), LAM_OK);
    if (lam_service_create(&config, &world->service, &err) != LAM_OK ||
        lam_service_start(world->service, &err) != LAM_OK ||
        lam_rpc_channel_create(world->address, MESSAGE_BYTES_MAX, &world->channel, &err) != LAM_OK)
        fail_msg("%s", err.text);
}

static void world_stop(struct world *world)
{
    lam_rpc_channel_destroy(world->channel);
    lam_service_shutdown(world->service, LAM_NS_PER_S);
    lam_service_destroy(world->service);
    lam_arena_done(&world->arena);
    lam_buf_done(&world->model.header);
}

/* ---- clients ---- */

static enum lam_status unary(struct world *world, const char *method,
    const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
    ProtobufCMessage **ret_response, struct lam_err *err)
{
    struct lam_buf out = LAM_BUF(MESSAGE_BYTES_MAX);
    struct lam_buf in = LAM_BUF(MESSAGE_BYTES_MAX);
    char path[64];
    enum lam_status status;

    snprintf(path, sizeof path, "/laminar.v1.Generation/%s", method);
    assert_true(lam_message_pack(request, &out));
    status = lam_rpc_unary(
        world->channel, path, out.data ? out.data : "", out.size, TIMEOUT_NS, &in, err);
    lam_arena_reset(&world->arena);
    if (status == LAM_OK)
        status = lam_message_unpack(type, in.data, in.size, &world->arena, ret_response, err);
    lam_buf_done(&out);
    lam_buf_done(&in);
    return status;
}

static const Laminar__V1__GetModelResponse *get_model(struct world *world)
{
    Laminar__V1__GetModelRequest request = LAMINAR__V1__GET_MODEL_REQUEST__INIT;
    ProtobufCMessage *response = NULL;
    struct lam_err err = {0};

    if (unary(world, "GetModel", &request.base, &laminar__v1__get_model_response__descriptor,
            &response, &err) != LAM_OK)
        return NULL;
    return (const Laminar__V1__GetModelResponse *)response;
}

/* Waits until n workers are attached, and no sequence is running if `idle`. */
static void wait_for_workers(struct world *world, size_t n, bool idle)
{
    uint64_t limit_ns = lam_now_ns() + TIMEOUT_NS;
    bool there = false;

    while (!there) {
        const Laminar__V1__GetModelResponse *model = get_model(world);
        there = model ? model->n_workers == n : n == 0;
        for (size_t i = 0; there && idle && i < n; i++)
            there = model->workers[i]->sequences == 0;
        assert_true(lam_now_ns() < limit_ns);
        lam_sleep_ns(LAM_NS_PER_MS);
    }
}

static void start_worker(
    struct world *world, struct fake_worker *worker, const char *id, uint64_t step_ms)
{
    memset(worker, 0, sizeof *worker);
    worker->id = id;
    worker->model = &world->model;
    worker->step_ns = step_ms * LAM_NS_PER_MS;
    fake_worker_start(worker, world->address);
}

struct reading {
    struct lam_rpc_stream *stream;
    struct lam_buf text;
    size_t n_ids;
    unsigned n_messages;
    int finish;
    char stop[65];
    int32_t prompt_tokens, completion_tokens;
    double prefill_seconds, decode_seconds;
    uint64_t seed;
    struct lam_err err;
};

static void open_generate(
    struct world *world, const Laminar__V1__GenerateRequest *request, struct reading *reading)
{
    struct lam_buf out = LAM_BUF(MESSAGE_BYTES_MAX);
    struct lam_err err = {0};

    memset(reading, 0, sizeof *reading);
    reading->text = LAM_BUF(MESSAGE_BYTES_MAX);
    assert_true(lam_message_pack(&request->base, &out));
    assert_int_equal(lam_rpc_stream_open(world->channel, "/laminar.v1.Generation/Generate",
                         TIMEOUT_NS, &reading->stream, &err),
        LAM_OK);
    assert_int_equal(
        lam_rpc_stream_send(reading->stream, out.data ? out.data : "", out.size, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_half_close(reading->stream, &err), LAM_OK);
    lam_buf_done(&out);
}

/* Reads one message; false at the end. */
static bool read_one(struct world *world, struct reading *reading)
{
    struct lam_buf in = LAM_BUF(MESSAGE_BYTES_MAX);
    const Laminar__V1__GenerateResponse *response;
    ProtobufCMessage *message = NULL;
    bool end = false;

    if (lam_rpc_stream_recv(reading->stream, &in, &end, &reading->err) != LAM_OK || end) {
        lam_buf_done(&in);
        return false;
    }
    lam_arena_reset(&world->arena);
    assert_int_equal(lam_message_unpack(&laminar__v1__generate_response__descriptor, in.data,
                         in.size, &world->arena, &message, &reading->err),
        LAM_OK);
    response = (const Laminar__V1__GenerateResponse *)message;
    assert_int_equal(reading->finish, 0); /* nothing after the last one */
    assert_true(lam_buf_text(&reading->text, response->text));
    reading->n_messages++;
    reading->n_ids += response->n_token_ids;
    reading->finish = (int)response->finish_reason;
    snprintf(reading->stop, sizeof reading->stop, "%s", response->matched_stop);
    if (response->usage) {
        reading->prompt_tokens = response->usage->prompt_tokens;
        reading->completion_tokens = response->usage->completion_tokens;
        reading->prefill_seconds = response->usage->prefill_seconds;
        reading->decode_seconds = response->usage->decode_seconds;
    }
    reading->seed = response->seed;
    lam_buf_done(&in);
    return true;
}

static void read_all(struct world *world, struct reading *reading)
{
    while (read_one(world, reading))
        continue;
}

static void reading_done(struct reading *reading)
{
    lam_rpc_stream_destroy(reading->stream);
    lam_buf_done(&reading->text);
}

/* A request for max_tokens letters after `text`. */
static Laminar__V1__GenerateRequest ask(const char *text, int32_t max_tokens)
{
    Laminar__V1__GenerateRequest request = LAMINAR__V1__GENERATE_REQUEST__INIT;

    request.prompt_case = LAMINAR__V1__GENERATE_REQUEST__PROMPT_TEXT;
    request.text = (char *)(uintptr_t)text;
    request._max_tokens_case = LAMINAR__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
    request.max_tokens = max_tokens;
    return request;
}

/* What the fake worker has to say after `text`. */
static void expected_text(const char *text, uint32_t n_new, char out[TINY_CONTEXT])
{
    int32_t tokens[TINY_CONTEXT] = {TINY_BOS};
    uint32_t n = 1;

    for (; *text; text++)
        tokens[n++] = TINY_BYTE(*text);
    for (uint32_t i = 0; i < n_new; i++) {
        tokens[n] = fake_next_token(tokens, n);
        out[i] = (char)(tokens[n++] - TINY_BYTE(0));
    }
    out[n_new] = '\0';
}

/* ---- tests ---- */

static void test_generate(void **state)
{
    struct world world;
    struct fake_worker worker;
    struct reading reading;
    Laminar__V1__GenerateRequest request = ask("hello", 20);
    char expected[TINY_CONTEXT];

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    start_worker(&world, &worker, "w", 1);
    wait_for_workers(&world, 1, true);
    open_generate(&world, &request, &reading);
    read_all(&world, &reading);
    expected_text("hello", 20, expected);
    assert_string_equal(reading.text.data, expected);
    assert_int_equal(reading.err.status, LAM_OK);
    assert_int_equal(reading.n_ids, 20);
    assert_true(reading.n_messages > 5); /* streamed, not sent at the end */
    assert_int_equal(reading.finish, LAMINAR__V1__FINISH_REASON__FINISH_REASON_LENGTH);
    assert_int_equal(reading.prompt_tokens, 6);
    assert_int_equal(reading.completion_tokens, 20);
    assert_true(reading.prefill_seconds > 0.0005 && reading.decode_seconds > 0.01);
    reading_done(&reading);

    /* Default length: to the end of the context. */
    request._max_tokens_case = LAMINAR__V1__GENERATE_REQUEST___MAX_TOKENS__NOT_SET;
    open_generate(&world, &request, &reading);
    read_all(&world, &reading);
    assert_int_equal(reading.n_ids, TINY_CONTEXT - 6);
    reading_done(&reading);
    wait_for_workers(&world, 1, true);
    fake_worker_kill(&worker);
    assert_false(atomic_load(&worker.broken));
    world_stop(&world);
}

static void test_stop_string_frees_the_slot(void **state)
{
    struct world world;
    struct fake_worker worker;
    struct reading reading;
    Laminar__V1__GenerateRequest request = ask("hello", 50);
    char expected[TINY_CONTEXT];
    char stop[4] = "";
    char *stops[] = {stop};
    uint64_t limit_ns = lam_now_ns() + TIMEOUT_NS;

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    start_worker(&world, &worker, "w", 1);
    wait_for_workers(&world, 1, true);
    expected_text("hello", 50, expected);
    memcpy(stop, expected + 10, 3);
    request.stop = stops;
    request.n_stop = 1;
    open_generate(&world, &request, &reading);
    read_all(&world, &reading);
    *strstr(expected, stop) = '\0';
    assert_string_equal(reading.text.data, expected);
    assert_string_equal(reading.stop, stop);
    assert_int_equal(reading.finish, LAMINAR__V1__FINISH_REASON__FINISH_REASON_STOP);
    reading_done(&reading);
    while (atomic_load(&worker.held) > 0) /* the worker heard of it without a new request */
        assert_true(lam_now_ns() < limit_ns);
    assert_true(atomic_load(&worker.steps) <= 14);
    fake_worker_kill(&worker);
    world_stop(&world);
}

static void test_requests_share_passes(void **state)
{
    const char *prompts[] = {"one", "two", "three", "four", "five", "six"};
    struct world world;
    struct fake_worker worker;
    struct reading readings[6];
    char expected[TINY_CONTEXT];

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    start_worker(&world, &worker, "w", 1);
    wait_for_workers(&world, 1, true);
    for (size_t i = 0; i < 6; i++) { /* two more than there are slots */
        Laminar__V1__GenerateRequest request = ask(prompts[i], 30);
        open_generate(&world, &request, &readings[i]);
    }
    for (size_t i = 0; i < 6; i++) {
        read_all(&world, &readings[i]);
        expected_text(prompts[i], 30, expected);
        assert_string_equal(readings[i].text.data, expected);
        reading_done(&readings[i]);
    }
    assert_true(atomic_load(&worker.steps) < 6 * 30 / 2);
    assert_true(atomic_load(&worker.shared) > 20);
    fake_worker_kill(&worker);
    assert_false(atomic_load(&worker.broken));
    world_stop(&world);
}

static void test_cancel(void **state)
{
    struct world world;
    struct fake_worker worker;
    struct reading reading;
    Laminar__V1__GenerateRequest request = ask("x", 60);
    unsigned steps;

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    start_worker(&world, &worker, "w", 20);
    wait_for_workers(&world, 1, true);
    open_generate(&world, &request, &reading);
    assert_true(read_one(&world, &reading));
    lam_rpc_stream_cancel(reading.stream);
    wait_for_workers(&world, 1, true);
    steps = atomic_load(&worker.steps);
    lam_sleep_ns(100 * LAM_NS_PER_MS);
    assert_true(atomic_load(&worker.steps) <= steps + 1);
    assert_int_equal(atomic_load(&worker.held), 0);
    reading_done(&reading);
    fake_worker_kill(&worker);
    world_stop(&world);
}

/* A worker dies in the middle; the other one goes on, and the client reads one unbroken text. */
static void test_worker_lost(void **state)
{
    struct world world;
    struct fake_worker first, second;
    struct reading readings[3];
    char expected[TINY_CONTEXT];

    (void)state;
    world_start(&world, 8, 10 * LAM_NS_PER_S);
    start_worker(&world, &first, "first", 1);
    wait_for_workers(&world, 1, true);
    for (size_t i = 0; i < 3; i++) {
        Laminar__V1__GenerateRequest request = ask("abcdefghij", 50);
        open_generate(&world, &request, &readings[i]);
    }
    for (unsigned k = 0; k < 5; k++)
        assert_true(read_one(&world, &readings[0]));
    fake_worker_kill(&first);
    wait_for_workers(&world, 0, true);
    start_worker(&world, &second, "second", 1);
    expected_text("abcdefghij", 50, expected);
    for (size_t i = 0; i < 3; i++) {
        read_all(&world, &readings[i]);
        assert_string_equal(readings[i].text.data, expected);
        assert_int_equal(readings[i].n_ids, 50);
        reading_done(&readings[i]);
    }
    fake_worker_kill(&second);
    assert_false(atomic_load(&second.broken));
    world_stop(&world);
}

/* A worker whose answers do not fit is let go, and its requests fail only when nobody else comes.
 */
static void test_worker_that_answers_nonsense(void **state)
{
    struct world world;
    struct fake_worker worker = {.id = "mad", .step_ns = LAM_NS_PER_MS, .first_bad_answer = 5};
    struct reading reading;
    Laminar__V1__GenerateRequest request = ask("x", 30);

    (void)state;
    world_start(&world, 8, 200 * LAM_NS_PER_MS);
    worker.model = &world.model;
    fake_worker_start(&worker, world.address);
    wait_for_workers(&world, 1, true);
    open_generate(&world, &request, &reading);
    read_all(&world, &reading);
    assert_int_equal(reading.err.status, LAM_UNAVAILABLE);
    assert_non_null(strstr(reading.err.text, "no worker is attached"));
    assert_int_equal(reading.n_ids, 4); /* all that was good arrived */
    reading_done(&reading);
    fake_worker_join(&worker);
    assert_int_equal(worker.end.status, LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(worker.end.text, "no token for slot"));
    world_stop(&world);
}

static void test_worker_with_another_model(void **state)
{
    struct world world;
    struct fake_worker worker, stranger = {.id = "stranger"};
    struct tiny_model other = tiny_model_make("other", false);
    char digest[17];

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    start_worker(&world, &worker, "w", 1);
    wait_for_workers(&world, 1, true);
    stranger.model = &other;
    fake_worker_start(&stranger, world.address);
    fake_worker_join(&stranger);
    assert_int_equal(stranger.end.status, LAM_FAILED_PRECONDITION);
    snprintf(digest, sizeof digest, "%016llx", (unsigned long long)other.digest);
    assert_non_null(strstr(stranger.end.text, digest));
    snprintf(digest, sizeof digest, "%016llx", (unsigned long long)world.model.digest);
    assert_non_null(strstr(stranger.end.text, digest));
    fake_worker_kill(&worker);
    lam_buf_done(&other.header);
    world_stop(&world);
}

static void test_nobody_there(void **state)
{
    struct world world;
    struct reading reading;
    Laminar__V1__GenerateRequest request = ask("x", 30);

    (void)state;
    world_start(&world, 8, LAM_NS_PER_S);
    open_generate(&world, &request, &reading);
    read_all(&world, &reading);
    assert_int_equal(reading.err.status, LAM_UNAVAILABLE);
    assert_null(get_model(&world));
    reading_done(&reading);
    world_stop(&world);
}

static void test_queue_is_bounded(void **state)
{
    struct world world;
    struct fake_worker worker;
    struct reading readings[FAKE_SLOTS + 3];
    Laminar__V1__GenerateRequest request = ask("x", 40);
    unsigned refused = 0;

    (void)state;
    world_start(&world, 2, LAM_NS_PER_S);
    start_worker(&world, &worker, "w", 1);
    wait_for_workers(&world, 1, true);
    for (size_t i = 0; i < FAKE_SLOTS + 3; i++)
        open_generate(&world, &request, &readings[i]);
    for (size_t i = 0; i < FAKE_SLOTS + 3; i++) {
        read_all(&world, &readings[i]);
        if (readings[i].err.status == LAM_RESOURCE_EXHAUSTED) {
            assert_non_null(strstr(readings[i].err.text, "--max-waiting"));
            refused++;
        } else {
            assert_int_equal(readings[i].n_ids, 40);
        }
        reading_done(&readings[i]);
    }
    assert_int_equal(refused, 1);
    fake_worker_kill(&worker);
    world_stop(&world);
}

static void test_bad_request(void **state)
{
    struct world world;
    struct fake_worker worker;
    struct reading reading;
    Laminar__V1__GenerateRequest request = ask("x", 0);

    (void)state;
    world_start(&world, 2, LAM_NS_PER_S);
    start_worker(&world, &worker, "w", 1);
    wait_for_workers(&world, 1, true);
    open_generate(&world, &request, &reading);
    read_all(&world, &reading);
    assert_int_equal(reading.err.status, LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(reading.err.text, "max_tokens is 0; the range is 1..64"));
    reading_done(&reading);
    request = ask("x\xff", 1);
    open_generate(&world, &request, &reading);
    read_all(&world, &reading);
    assert_int_equal(reading.err.status, LAM_INVALID_ARGUMENT);
    reading_done(&reading);
    fake_worker_kill(&worker);
    world_stop(&world);
}

static void test_queries(void **state)
{
    struct world world;
    struct fake_worker worker;
    Laminar__V1__TokenizeRequest tokenize = LAMINAR__V1__TOKENIZE_REQUEST__INIT;
    Laminar__V1__DetokenizeRequest detokenize = LAMINAR__V1__DETOKENIZE_REQUEST__INIT;
    int32_t ids[] = {TINY_BOS, TINY_BYTE('h'), TINY_BYTE(0xc3), TINY_BYTE(0xa9), TINY_VOCAB};
    const Laminar__V1__GetModelResponse *model;
    const Laminar__V1__TokenizeResponse *tokens;
    ProtobufCMessage *response = NULL;
    struct lam_err err = {0};

    (void)state;
    world_start(&world, 2, LAM_NS_PER_S);
    start_worker(&world, &worker, "w", 1);
    wait_for_workers(&world, 1, true);
    model = get_model(&world);
    assert_string_equal(model->name, "tiny");
    assert_string_equal(model->chat_template, "chatml");
    assert_int_equal(model->context_tokens, TINY_CONTEXT);
    assert_int_equal(model->workers[0]->max_kv_tokens, FAKE_SLOTS * TINY_CONTEXT);
    tokenize.prompt_case = LAMINAR__V1__TOKENIZE_REQUEST__PROMPT_TEXT;
    tokenize.text = (char *)(uintptr_t) "h\xc3\xa9";
    assert_int_equal(unary(&world, "Tokenize", &tokenize.base,
                         &laminar__v1__tokenize_response__descriptor, &response, &err),
        LAM_OK);
    tokens = (const Laminar__V1__TokenizeResponse *)response;
    assert_int_equal(tokens->n_token_ids, 4);
    assert_memory_equal(tokens->token_ids, ids, 4 * sizeof *ids);
    assert_int_equal(tokens->n_pieces, 4);
    assert_memory_equal(tokens->pieces[1].data, "<0x68>", 6);
    detokenize.token_ids = ids;
    detokenize.n_token_ids = 4;
    assert_int_equal(unary(&world, "Detokenize", &detokenize.base,
                         &laminar__v1__detokenize_response__descriptor, &response, &err),
        LAM_OK);
    assert_string_equal(((const Laminar__V1__DetokenizeResponse *)response)->text, "h\xc3\xa9");
    detokenize.n_token_ids = 5;
    assert_int_equal(unary(&world, "Detokenize", &detokenize.base,
                         &laminar__v1__detokenize_response__descriptor, &response, &err),
        LAM_INVALID_ARGUMENT);
    fake_worker_kill(&worker);
    world_stop(&world);
}

/* Shutdown waits for a generation, lets the worker go, and does not use up its grace. */
static void test_shutdown_drains(void **state)
{
    struct world world;
    struct fake_worker worker;
    struct reading reading;
    Laminar__V1__GenerateRequest request = ask("x", 60);
    uint64_t before_ns;

    (void)state;
    world_start(&world, 2, LAM_NS_PER_S);
    start_worker(&world, &worker, "w", 1);
    wait_for_workers(&world, 1, true);
    open_generate(&world, &request, &reading);
    assert_true(read_one(&world, &reading));
    before_ns = lam_now_ns();
    lam_service_shutdown(world.service, 15 * LAM_NS_PER_S);
    assert_true(lam_now_ns() - before_ns < 5 * LAM_NS_PER_S);
    read_all(&world, &reading);
    assert_int_equal(reading.n_ids, 60);
    reading_done(&reading);
    fake_worker_join(&worker);
    assert_int_equal(worker.end.status, LAM_UNAVAILABLE);
    lam_rpc_channel_destroy(world.channel);
    lam_service_destroy(world.service);
    lam_arena_done(&world.arena);
    lam_buf_done(&world.model.header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generate),
        cmocka_unit_test(test_stop_string_frees_the_slot),
        cmocka_unit_test(test_requests_share_passes),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_worker_lost),
        cmocka_unit_test(test_worker_that_answers_nonsense),
        cmocka_unit_test(test_worker_with_another_model),
        cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_queue_is_bounded),
        cmocka_unit_test(test_bad_request),
        cmocka_unit_test(test_queries),
        cmocka_unit_test(test_shutdown_drains),
    };

    lam_log_init("service_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
