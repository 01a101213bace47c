/* Tests of health and reflection, spoken as a foreign client would. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "proto/grpc/health/v1/health.pb-c.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include "rpc/message.h"
#include "tests/unit/rpc/echo.h"

#define SOON (60 * LAM_NS_PER_S) /* or it hangs */
#define CHECK "/grpc.health.v1.Health/Check"
#define WATCH "/grpc.health.v1.Health/Watch"
#define V1 "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
#define V1ALPHA "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

enum {
    SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING,
    NOT_SERVING = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING,
    SERVICE_UNKNOWN = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN,
};

static struct lam_arena arena;

static void pack_health(const char *service, struct lam_buf *out)
{
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;

    request.service = (char *)(uintptr_t)service;
    assert_true(lam_message_pack(&request.base, out));
}

static int health_of(const struct lam_buf *answer)
{
    ProtobufCMessage *message = NULL;
    struct lam_err err = {0};

    lam_arena_reset(&arena);
    assert_int_equal(lam_message_unpack(&grpc__health__v1__health_check_response__descriptor,
                         answer->data, answer->size, &arena, &message, &err),
        LAM_OK);
    return (int)((Grpc__Health__V1__HealthCheckResponse *)message)->status;
}

static enum lam_status check(struct echo *echo, const char *service, int *ret_health)
{
    struct lam_buf request = LAM_BUF(1 << 20);
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    enum lam_status status;

    pack_health(service, &request);
    status = lam_rpc_unary(echo->channel, CHECK, request.data, request.size, SOON, &answer, &err);
    if (status == LAM_OK)
        *ret_health = health_of(&answer);
    lam_buf_done(&request);
    lam_buf_done(&answer);
    return status;
}

static void check_follows_set_serving(void **state)
{
    struct echo echo;
    int health = -1;

    (void)state;
    echo_start(&echo, "check");
    assert_int_equal(check(&echo, "", &health), LAM_OK);
    assert_int_equal(health, NOT_SERVING);
    lam_rpc_server_set_serving(echo.server, "test.Echo", true);
    assert_int_equal(check(&echo, "test.Echo", &health), LAM_OK);
    assert_int_equal(health, SERVING);
    assert_int_equal(check(&echo, "", &health), LAM_OK);
    assert_int_equal(health, NOT_SERVING);
    assert_int_equal(check(&echo, "no.Such", &health), LAM_NOT_FOUND);
    echo_stop(&echo);
}

static struct lam_rpc_stream *watch(struct echo *echo, const char *service)
{
    struct lam_buf request = LAM_BUF(1 << 20);
    struct lam_rpc_stream *stream = NULL;
    struct lam_err err = {0};

    pack_health(service, &request);
    assert_int_equal(lam_rpc_stream_open(echo->channel, WATCH, SOON, &stream, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_send(stream, request.data, request.size, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_half_close(stream, &err), LAM_OK);
    lam_buf_done(&request);
    return stream;
}

static int next_health(struct lam_rpc_stream *stream)
{
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    bool end = false;
    int health;

    assert_int_equal(lam_rpc_stream_recv(stream, &message, &end, &err), LAM_OK);
    assert_false(end);
    health = health_of(&message);
    lam_buf_done(&message);
    return health;
}

static void watch_tells_each_change(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *process;
    struct lam_rpc_stream *service;
    struct lam_rpc_stream *unknown;

    (void)state;
    echo_start(&echo, "watch");
    process = watch(&echo, "");
    service = watch(&echo, "test.Echo");
    unknown = watch(&echo, "no.Such");
    assert_int_equal(next_health(process), NOT_SERVING);
    assert_int_equal(next_health(service), NOT_SERVING);
    assert_int_equal(next_health(unknown), SERVICE_UNKNOWN);
    lam_rpc_server_set_serving(echo.server, "", true);
    lam_rpc_server_set_serving(echo.server, "", true); /* no change, no message */
    assert_int_equal(next_health(process), SERVING);
    lam_rpc_stream_destroy(service);
    lam_rpc_server_set_serving(echo.server, "test.Echo", true);
    lam_rpc_server_set_serving(echo.server, "", false);
    assert_int_equal(next_health(process), NOT_SERVING);
    lam_rpc_stream_destroy(process);
    lam_rpc_stream_destroy(unknown);
    echo_stop(&echo);
}

/* The order in which a balancer learns of it: not serving first, the end of the stream after. */
static void shutdown_tells_watchers_first(void **state)
{
    struct echo echo;
    struct lam_rpc_stream *process;
    struct lam_buf message = LAM_BUF(1 << 20);
    struct lam_err err = {0};
    bool end = false;

    (void)state;
    echo_start(&echo, "tell");
    lam_rpc_server_set_serving(echo.server, "", true);
    process = watch(&echo, "");
    assert_int_equal(next_health(process), SERVING);
    lam_rpc_server_shutdown(echo.server, 0);
    assert_int_equal(next_health(process), NOT_SERVING);
    assert_int_equal(lam_rpc_stream_recv(process, &message, &end, &err), LAM_UNAVAILABLE);
    assert_non_null(strstr(err.text, "shutting down"));
    lam_rpc_stream_destroy(process);
    lam_buf_done(&message);
    echo_stop(&echo);
}

static void bad_health_requests_are_refused(void **state)
{
    struct echo echo;
    struct lam_buf answer = LAM_BUF(1 << 20);
    struct lam_rpc_stream *stream;
    struct lam_err err = {0};
    char long_name[5000];
    bool end = false;
    int health = -1;

    (void)state;
    echo_start(&echo, "badhealth");
    assert_int_equal(lam_rpc_unary(echo.channel, CHECK, "\x0a\x05x", 3, SOON, &answer, &err),
        LAM_INVALID_ARGUMENT);
    memset(long_name, 'a', sizeof long_name);
    long_name[sizeof long_name - 1] = '\0';
    assert_int_equal(check(&echo, long_name, &health), LAM_RESOURCE_EXHAUSTED);
    /* A stream without a request. */
    assert_int_equal(lam_rpc_stream_open(echo.channel, WATCH, SOON, &stream, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_half_close(stream, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_recv(stream, &answer, &end, &err), LAM_INVALID_ARGUMENT);
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&answer);
    echo_stop(&echo);
}

/* Asks one question of server reflection; the answer lives in the arena. */
static Grpc__Reflection__V1__ServerReflectionResponse *reflect(
    struct echo *echo, const char *path, int question, const char *text)
{
    Grpc__Reflection__V1__ServerReflectionRequest request =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    struct lam_buf bytes = LAM_BUF(1 << 20);
    struct lam_rpc_stream *stream = NULL;
    ProtobufCMessage *message = NULL;
    struct lam_err err = {0};
    bool end = false;

    request.host = (char *)"me";
    request.message_request_case =
        (Grpc__Reflection__V1__ServerReflectionRequest__MessageRequestCase)question;
    request.list_services = (char *)(uintptr_t)text; /* a union of strings */
    assert_true(lam_message_pack(&request.base, &bytes));
    assert_int_equal(lam_rpc_stream_open(echo->channel, path, SOON, &stream, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_send(stream, bytes.data, bytes.size, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_recv(stream, &bytes, &end, &err), LAM_OK);
    assert_false(end);
    lam_arena_reset(&arena);
    assert_int_equal(
        lam_message_unpack(&grpc__reflection__v1__server_reflection_response__descriptor,
            bytes.data, bytes.size, &arena, &message, &err),
        LAM_OK);
    assert_int_equal(lam_rpc_stream_half_close(stream, &err), LAM_OK);
    assert_int_equal(lam_rpc_stream_recv(stream, &bytes, &end, &err), LAM_OK);
    assert_true(end);
    lam_rpc_stream_destroy(stream);
    lam_buf_done(&bytes);
    return (Grpc__Reflection__V1__ServerReflectionResponse *)message;
}

#define BY_NAME GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME
#define BY_SYMBOL                                                                                  \
    GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL
#define ANSWERED(kind) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##kind
#define LIST GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES
#define EXTENSIONS                                                                                 \
    GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE

static void services_are_listed_once(void **state)
{
    static const char *const expected[] = {"test.Echo", "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"};
    static const char *const paths[] = {V1, V1ALPHA};
    struct echo echo;

    (void)state;
    echo_start(&echo, "list");
    for (int p = 0; p < 2; p++) {
        Grpc__Reflection__V1__ServerReflectionResponse *answer =
            reflect(&echo, paths[p], LIST, "*");
        assert_string_equal(answer->valid_host, "me");
        assert_string_equal(answer->original_request->list_services, "*");
        assert_int_equal(answer->message_response_case, ANSWERED(LIST_SERVICES_RESPONSE));
        assert_int_equal(answer->list_services_response->n_service, 4);
        for (int i = 0; i < 4; i++)
            assert_string_equal(answer->list_services_response->service[i]->name, expected[i]);
    }
    echo_stop(&echo);
}

/* Is the answer one file, which names itself `name`? */
static bool is_file(const Grpc__Reflection__V1__ServerReflectionResponse *answer, const char *name)
{
    const ProtobufCBinaryData *file;

    if (answer->message_response_case != ANSWERED(FILE_DESCRIPTOR_RESPONSE) ||
        answer->file_descriptor_response->n_file_descriptor_proto != 1)
        return false;
    file = answer->file_descriptor_response->file_descriptor_proto;
    return file->len > strlen(name) + 2 && file->data[0] == 0x0a && file->data[1] == strlen(name) &&
           memcmp(file->data + 2, name, strlen(name)) == 0;
}

static void symbols_lead_to_their_file(void **state)
{
    static const struct {
        const char *symbol;
        const char *file;
    } known[] = {
        {"laminar.v1.Generation", "laminar/v1/generation.proto"},
        {"laminar.v1.Generation.Generate", "laminar/v1/generation.proto"},
        {"laminar.v1.GenerateRequest", "laminar/v1/generation.proto"},
        {"laminar.v1.GenerateRequest.stop", "laminar/v1/generation.proto"},
        {"laminar.v1.GenerateRequest.prompt", "laminar/v1/generation.proto"},
        {"laminar.v1.FinishReason", "laminar/v1/generation.proto"},
        {"laminar.v1.FINISH_REASON_STOP", "laminar/v1/generation.proto"},
        {"laminar.v1.Loader", "laminar/v1/loader.proto"},
        {"laminar.v1.Workers.Attach", "laminar/v1/worker.proto"},
        {"grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto"},
        {"grpc.health.v1.HealthCheckResponse.SERVING", "grpc/health/v1/health.proto"},
        {"grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"},
        {"grpc.reflection.v1alpha.ErrorResponse", "grpc/reflection/v1alpha/reflection.proto"},
    };
    struct echo echo;

    (void)state;
    echo_start(&echo, "symbol");
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        assert_true(is_file(reflect(&echo, V1, BY_SYMBOL, known[i].symbol), known[i].file));
        assert_true(is_file(reflect(&echo, V1ALPHA, BY_NAME, known[i].file), known[i].file));
    }
    echo_stop(&echo);
}

static void unknown_names_are_not_found(void **state)
{
    static const char *const unknown[] = {"", ".", "laminar", "laminar.v1", "laminar.v1.",
        "laminar.v1.Generat", "laminar.v1.Generation.", "laminar.v1.Generation.Nope",
        "laminar.v1.GenerateRequest.stop.x", "laminar.v1.FinishReason.FINISH_REASON_STOP.x",
        "v1.Generation", "test.Echo"};
    static const int questions[] = {BY_SYMBOL, BY_NAME, EXTENSIONS};
    struct echo echo;

    (void)state;
    echo_start(&echo, "notfound");
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        for (size_t q = 0; q < sizeof questions / sizeof questions[0]; q++) {
            Grpc__Reflection__V1__ServerReflectionResponse *answer =
                reflect(&echo, V1, questions[q], unknown[i]);
            assert_int_equal(answer->message_response_case, ANSWERED(ERROR_RESPONSE));
            assert_int_equal(answer->error_response->error_code, LAM_NOT_FOUND);
        }
    echo_stop(&echo);
}

static int set_up(void **state)
{
    (void)state;
    return lam_arena_init(&arena, 1 << 20, NULL) == LAM_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    lam_arena_done(&arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_follows_set_serving),
        cmocka_unit_test(watch_tells_each_change),
        cmocka_unit_test(shutdown_tells_watchers_first),
        cmocka_unit_test(bad_health_requests_are_refused),
        cmocka_unit_test(services_are_listed_once),
        cmocka_unit_test(symbols_lead_to_their_file),
        cmocka_unit_test(unknown_names_are_not_found),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
