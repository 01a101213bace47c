/* service_world: see service_world.h. */
#include "tests/unit/gateway/service_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "rpc/message.h"

#define MESSAGE_BYTES_MAX ((size_t)4 << 20)
#define TEXT_BYTES_MAX ((size_t)64 << 20)
#define TIMEOUT_NS (120 * LAM_NS_PER_S) /* or it hangs */

const char *world_ops;
uint64_t world_step_limit_ns;

void world_start(struct world *world, uint32_t waiting_max, uint64_t orphan_limit_ns)
{
    static unsigned n;
    const char *listen[] = {world->address};
    struct lam_service_config config = {.listen = listen,
        .n_listen = 1,
        .waiting_max = waiting_max,
        .orphan_limit_ns = orphan_limit_ns,
        .step_limit_ns = world_step_limit_ns,
        .ops = world_ops};
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

void world_stop(struct world *world)
{
    lam_rpc_channel_destroy(world->channel);
    lam_service_shutdown(world->service, LAM_NS_PER_S);
    lam_service_destroy(world->service);
    lam_arena_done(&world->arena);
    lam_buf_done(&world->model.header);
}

enum lam_status world_unary(struct world *world, const char *method,
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

const Laminar__V1__GetModelResponse *world_get_model(struct world *world)
{
    Laminar__V1__GetModelRequest request = LAMINAR__V1__GET_MODEL_REQUEST__INIT;
    ProtobufCMessage *response = NULL;
    struct lam_err err = {0};

    if (world_unary(world, "GetModel", &request.base, &laminar__v1__get_model_response__descriptor,
            &response, &err) != LAM_OK)
        return NULL;
    return (const Laminar__V1__GetModelResponse *)response;
}

void world_wait(struct world *world, size_t n, bool idle)
{
    uint64_t limit_ns = lam_now_ns() + TIMEOUT_NS;
    bool there = false;

    while (!there) {
        const Laminar__V1__GetModelResponse *model = world_get_model(world);
        there = model ? model->n_workers == n : n == 0;
        for (size_t i = 0; there && idle && i < n; i++)
            there = model->workers[i]->sequences == 0;
        assert_true(lam_now_ns() < limit_ns);
        lam_sleep_ns(LAM_NS_PER_MS);
    }
}

void world_wait_requests(struct world *world, uint32_t running, uint32_t waiting)
{
    uint64_t limit_ns = lam_now_ns() + TIMEOUT_NS;
    const Laminar__V1__GetModelResponse *model = world_get_model(world);

    while (
        (uint32_t)model->workers[0]->sequences != running || (uint32_t)model->waiting != waiting) {
        assert_true(lam_now_ns() < limit_ns);
        lam_sleep_ns(LAM_NS_PER_MS);
        model = world_get_model(world);
    }
}

void world_wait_for(atomic_uint *number, unsigned value)
{
    uint64_t limit_ns = lam_now_ns() + TIMEOUT_NS;

    while (atomic_load(number) != value) {
        assert_true(lam_now_ns() < limit_ns);
        lam_sleep_ns(LAM_NS_PER_MS);
    }
}

void world_worker(struct world *world, struct fake_worker *worker, const char *id, uint64_t step_ms)
{
    memset(worker, 0, sizeof *worker);
    worker->id = id;
    worker->model = &world->model;
    worker->step_ns = step_ms * LAM_NS_PER_MS;
    worker->context = TINY_CONTEXT;
    fake_worker_start(worker, world->address);
}

void reading_open(
    struct world *world, const Laminar__V1__GenerateRequest *request, struct reading *reading)
{
    struct lam_buf out = LAM_BUF(MESSAGE_BYTES_MAX);
    struct lam_err err = {0};

    memset(reading, 0, sizeof *reading);
    reading->text = LAM_BUF(TEXT_BYTES_MAX);
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
bool reading_one(struct world *world, struct reading *reading)
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

void reading_all(struct world *world, struct reading *reading)
{
    while (reading_one(world, reading))
        continue;
}

void reading_done(struct reading *reading)
{
    lam_rpc_stream_destroy(reading->stream);
    lam_buf_done(&reading->text);
}

/* A request for max_tokens letters after `text`. */
Laminar__V1__GenerateRequest world_ask(const char *text, int32_t max_tokens)
{
    Laminar__V1__GenerateRequest request = LAMINAR__V1__GENERATE_REQUEST__INIT;

    request.prompt_case = LAMINAR__V1__GENERATE_REQUEST__PROMPT_TEXT;
    request.text = (char *)(uintptr_t)text;
    request._max_tokens_case = LAMINAR__V1__GENERATE_REQUEST___MAX_TOKENS_MAX_TOKENS;
    request.max_tokens = max_tokens;
    return request;
}

/* What the fake worker has to say after `text`. */
void world_expected(const char *text, uint32_t n_new, char *out)
{
    static int32_t tokens[FAKE_CONTEXT_MAX] = {TINY_BOS};
    uint32_t n = 1;

    for (; *text; text++)
        tokens[n++] = TINY_BYTE(*text);
    for (uint32_t i = 0; i < n_new; i++) {
        tokens[n] = fake_next_token(tokens, n);
        out[i] = (char)(tokens[n++] - TINY_BYTE(0));
    }
    out[n_new] = '\0';
}
