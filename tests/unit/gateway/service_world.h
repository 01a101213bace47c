/*
 * service_world: the whole gateway in one process: real streams, the workers of fake_worker.h,
 * clients in the thread of the test. The helpers assert with cmocka.
 */
#ifndef LAMINAR_TESTS_UNIT_GATEWAY_SERVICE_WORLD_H
#define LAMINAR_TESTS_UNIT_GATEWAY_SERVICE_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/mem.h"
#include "gateway/service.h"
#include "proto/laminar/v1/generation.pb-c.h"
#include "rpc/client.h"
#include "tests/unit/gateway/fake_worker.h"

struct world {
    struct lam_service *service;
    struct lam_rpc_channel *channel;
    struct tiny_model model;
    struct lam_arena arena;
    char address[128];
};

extern uint64_t world_step_limit_ns; /* 0: none */
extern const char *world_ops;        /* address of the operations port; NULL: none */

/* A gateway on a Unix socket of its own, and a channel to it. */
void world_start(struct world *world, uint32_t waiting_max, uint64_t orphan_limit_ns);
void world_stop(struct world *world);

/* Starts a worker with the world's model and a context of TINY_CONTEXT; a pass takes step_ms. */
void world_worker(
    struct world *world, struct fake_worker *worker, const char *id, uint64_t step_ms);

/* Waits until n workers are attached, and no sequence is running if `idle`. */
void world_wait(struct world *world, size_t n, bool idle);

/* Waits until the only worker has so many sequences, and the queue so many requests. */
void world_wait_requests(struct world *world, uint32_t running, uint32_t waiting);

/* Waits until a number of a fake worker has this value. */
void world_wait_for(atomic_uint *number, unsigned value);

/* A unary method of Generation. The response lives in the world's arena until the next call. */
enum lam_status world_unary(struct world *world, const char *method,
    const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
    ProtobufCMessage **ret_response, struct lam_err *err);

/* NULL when there is no model yet. */
const Laminar__V1__GetModelResponse *world_get_model(struct world *world);

/* A request for max_tokens letters after `text`, and what the fake worker has to say to it. */
Laminar__V1__GenerateRequest world_ask(const char *text, int32_t max_tokens);
void world_expected(const char *text, uint32_t n_new, char *out); /* n_new bytes and a NUL */

/* One Generate call, and what has been read of it. */
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

void reading_open(
    struct world *world, const Laminar__V1__GenerateRequest *request, struct reading *reading);
bool reading_one(struct world *world, struct reading *reading); /* one message; false at the end */
void reading_all(struct world *world, struct reading *reading);
void reading_done(struct reading *reading);

#endif
