/*
 * Fuzz target: a GenerateRequest from a stranger, from its bytes to what the scheduler gets.
 * Whatever comes through the checks is inside every range that later code relies on.
 */
#include <assert.h>
#include <math.h>
#include <stdint.h>

#include "common/mem.h"
#include "gateway/request.h"
#include "rpc/message.h"
#include "tests/unit/gateway/tiny_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct lam_request *request)
{
    assert(request->prompt.n >= 1 && request->prompt.n < TINY_CONTEXT);
    for (size_t i = 0; i < request->prompt.n; i++)
        assert(request->prompt.ids[i] >= 0 && request->prompt.ids[i] < TINY_VOCAB);
    assert(request->max_tokens >= 1 && request->prompt.n + request->max_tokens <= TINY_CONTEXT);
    assert(request->n_stops <= LAM_STOPS_MAX);
    for (size_t i = 0; i < request->n_stops; i++)
        assert(request->stops[i].size >= 1 && request->stops[i].size <= LAM_STOP_BYTES_MAX);
    assert(isfinite(request->sampling.temperature) && isfinite(request->sampling.top_p));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct lam_served *served;
    static struct lam_arena arena;
    struct lam_request request;
    struct lam_err err = {0};
    ProtobufCMessage *message = NULL;

    if (!served) {
        served = tiny_served(true);
        assert(lam_arena_init(&arena, 1 << 20, &err) == LAM_OK);
    }
    lam_arena_reset(&arena);
    if (lam_message_unpack(&laminar__v1__generate_request__descriptor, data, size, &arena, &message,
            &err) != LAM_OK)
        return 0;
    if (lam_request_check(
            served, (const Laminar__V1__GenerateRequest *)message, 1, &request, &err) == LAM_OK) {
        check(&request);
        lam_request_done(&request);
    } else {
        assert(err.status != LAM_OK && err.text[0]);
    }
    return 0;
}
