/* echo: see echo.h. */
#include "tests/unit/rpc/echo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/flag.h"
#include "common/mem.h"

static void opened(void *service, struct lam_rpc_call *call)
{
    struct echo *echo = service;

    (void)call;
    atomic_fetch_add(&echo->opened, 1);
}

static void done(void *service, struct lam_rpc_call *call, bool cancelled)
{
    struct echo *echo = service;

    lam_free(lam_rpc_call_user(call));
    atomic_fetch_add(&echo->cancelled, cancelled ? 1 : 0);
    atomic_fetch_add(&echo->done, 1);
}

static void unary(void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    (void)service;
    lam_rpc_call_reply(call, bytes, n_bytes);
}

static void many(void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    char text[32] = {0};
    int64_t count = 0;

    (void)service;
    memcpy(text, bytes, n_bytes < sizeof text - 1 ? n_bytes : sizeof text - 1);
    if (!lam_int_parse(text, 0, 1000000, &count)) {
        lam_rpc_call_finish(call, LAM_INVALID_ARGUMENT, "not a count");
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        int length = snprintf(text, sizeof text, "%lld", (long long)i);
        if (!lam_rpc_call_send(call, text, (size_t)length))
            return;
    }
    lam_rpc_call_finish(call, LAM_OK, NULL);
}

static void bidi(void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    (void)service;
    if (!lam_rpc_call_send(call, bytes, n_bytes))
        lam_rpc_call_finish(call, LAM_RESOURCE_EXHAUSTED, "no memory to echo");
}

static void finish_at_half_close(void *service, struct lam_rpc_call *call)
{
    struct echo *echo = service;

    atomic_fetch_add(&echo->half_closed, 1);
    lam_rpc_call_finish(call, LAM_OK, NULL);
}

static void hold(void *service, struct lam_rpc_call *call)
{
    struct echo *echo = service;
    struct lam_rpc_call *before;

    lam_rpc_call_ref(call);
    before = atomic_exchange(&echo->held, call);
    if (before)
        lam_rpc_call_unref(before);
    atomic_fetch_add(&echo->opened, 1);
}

static void count_nudge(void *service, struct lam_rpc_call *call)
{
    struct echo *echo = service;

    (void)call;
    atomic_fetch_add(&echo->nudges, 1);
}

static void refuse(void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    char text[2000] = {0};

    (void)service;
    memcpy(text, bytes, n_bytes < sizeof text - 1 ? n_bytes : sizeof text - 1);
    lam_rpc_call_finish(call, LAM_FAILED_PRECONDITION, text);
}

static void sink(void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    size_t *total = lam_rpc_call_user(call);

    (void)service;
    (void)bytes;
    if (!total) {
        total = lam_calloc(1, sizeof *total);
        assert_non_null(total);
        lam_rpc_call_set_user(call, total);
    }
    *total += n_bytes;
}

static void answer_total(void *service, struct lam_rpc_call *call)
{
    struct echo *echo = service;
    size_t *total = lam_rpc_call_user(call);
    char text[32];
    int length = snprintf(text, sizeof text, "%zu", total ? *total : 0);

    atomic_fetch_add(&echo->half_closed, 1);
    lam_rpc_call_reply(call, text, (size_t)length);
}

static const struct lam_rpc_method methods[] = {
    {ECHO_UNARY, opened, unary, NULL, NULL, done},
    {ECHO_MANY, opened, many, NULL, NULL, done},
    {ECHO_BIDI, opened, bidi, finish_at_half_close, NULL, done},
    {ECHO_HOLD, hold, NULL, NULL, count_nudge, done},
    {ECHO_FAIL, opened, refuse, NULL, NULL, done},
    {ECHO_SINK, opened, sink, answer_total, NULL, done},
};

static void count_tick(void *arg)
{
    struct echo *echo = arg;

    if (atomic_fetch_add(&echo->ticks, 1) == 0)
        lam_rpc_server_wake_at(echo->server, 0);
}

static void count_wake(void *arg)
{
    struct echo *echo = arg;
    uint64_t now_ns = lam_now_ns();

    if (now_ns < echo->wish_ns)
        atomic_store(&echo->too_early, 1);
    echo->wish_ns = now_ns + LAM_NS_PER_MS;
    if (atomic_fetch_add(&echo->wakes, 1) + 1 < ECHO_WAKES)
        lam_rpc_server_wake_at(echo->server, echo->wish_ns);
}

void echo_address(char out[128], const char *name)
{
    /* A socket path has 107 bytes at most, and a test runner's folder is often longer. */
    snprintf(out, 128, "unix:/tmp/laminar-%d-%s", (int)getpid(), name);
}

void echo_start_with(struct echo *echo, const char *name, uint32_t calls_max)
{
    const char *listen = echo->address;
    const struct lam_rpc_server_config config = {
        .listen = &listen,
        .n_listen = 1,
        .message_bytes_max = ECHO_MESSAGE_BYTES_MAX,
        .calls_max = calls_max,
        .on_tick = count_tick,
        .on_wake = count_wake,
        .tick_arg = echo,
    };
    struct lam_err err = {0};

    memset(echo, 0, sizeof *echo);
    echo_address(echo->address, name);
    if (lam_rpc_server_create(&config, &echo->server, &err) != LAM_OK ||
        lam_rpc_server_add(echo->server, methods, sizeof methods / sizeof methods[0], echo, &err) !=
            LAM_OK ||
        lam_rpc_server_add_standard(echo->server, &err) != LAM_OK ||
        lam_rpc_server_start(echo->server, &err) != LAM_OK ||
        lam_rpc_channel_create(echo->address, ECHO_MESSAGE_BYTES_MAX, &echo->channel, &err) !=
            LAM_OK)
        fail_msg("%s", err.text);
}

void echo_start(struct echo *echo, const char *name)
{
    echo_start_with(echo, name, 1000);
}

void echo_stop(struct echo *echo)
{
    struct lam_rpc_call *held = atomic_exchange(&echo->held, NULL);

    lam_rpc_channel_destroy(echo->channel);
    if (echo->server)
        lam_rpc_server_shutdown(echo->server, 0);
    lam_rpc_server_destroy(echo->server);
    if (held)
        lam_rpc_call_unref(held);
}

void echo_open(struct echo *echo, const char *path, struct lam_rpc_stream **ret_stream)
{
    struct lam_err err = {0};

    if (lam_rpc_stream_open(echo->channel, path, ECHO_TIMEOUT_NS, ret_stream, &err) != LAM_OK)
        fail_msg("%s: %s", path, err.text);
}

bool echo_reaches(atomic_int *counter, int value)
{
    const uint64_t give_up_ns = lam_now_ns() + ECHO_TIMEOUT_NS;

    while (atomic_load(counter) < value) {
        if (lam_now_ns() > give_up_ns)
            return false;
        lam_sleep_ns(LAM_NS_PER_MS);
    }
    return true;
}
