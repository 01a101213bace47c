/*
 * Fuzz target: everything that a worker may say, in any order: WorkerMessages, each behind its
 * length in two bytes, go through registry and scheduler as attach.c does it. Two requests are
 * always there, so that good Hellos get steps and bad answers meet sequences.
 */
#include <assert.h>
#include <stdint.h>

#include "common/mem.h"
#include "gateway/registry.h"
#include "gateway/schedule.h"
#include "rpc/message.h"
#include "tests/unit/gateway/tiny_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SAMPLES_MAX 64

static struct lam_arena arena;

static enum lam_status answer(
    struct lam_sched *sched, struct lam_worker *worker, const Laminar__V1__StepResult *result)
{
    struct lam_sched_sample samples[SAMPLES_MAX];
    struct lam_sched_actions actions;
    size_t n = result->n_tokens < SAMPLES_MAX ? result->n_tokens : SAMPLES_MAX;

    if (!worker->sched)
        return LAM_FAILED_PRECONDITION;
    for (size_t i = 0; i < n; i++)
        samples[i] = (struct lam_sched_sample){
            result->tokens[i]->seq, result->tokens[i]->epoch, result->tokens[i]->token};
    return lam_sched_result(
        sched, worker->sched, result->id, samples, (uint32_t)n, TINY_VOCAB, 1, &actions, NULL);
}

static enum lam_status take(struct lam_registry *registry, struct lam_sched *sched,
    struct lam_worker *worker, const Laminar__V1__WorkerMessage *message)
{
    struct lam_sched_step step;
    enum lam_status status = LAM_INVALID_ARGUMENT;
    bool want;

    if (message->kind_case == LAMINAR__V1__WORKER_MESSAGE__KIND_HELLO)
        status = lam_registry_hello(registry, worker, message->hello, &want, NULL);
    else if (message->kind_case == LAMINAR__V1__WORKER_MESSAGE__KIND_HEADER_CHUNK)
        status = lam_registry_header_chunk(registry, worker, message->header_chunk, NULL);
    else if (message->kind_case == LAMINAR__V1__WORKER_MESSAGE__KIND_STEP_RESULT)
        status = answer(sched, worker, message->step_result);
    /* A worker that got as far as naming its caps is scheduled: few inputs hold a whole model. */
    if (status == LAM_OK && worker->phase != LAM_WORKER_NEW && !worker->sched)
        status = lam_sched_join(sched, &worker->caps, worker, &worker->sched, NULL);
    while (status == LAM_OK && lam_sched_next(sched, 1, &step))
        assert(step.worker_user == worker && step.n_rows + step.n_free > 0);
    return status;
}

static void add_request(struct lam_sched *sched, uint32_t n_prompt)
{
    const int32_t prompt[40] = {TINY_BOS};
    const struct lam_sched_request request = {
        .prompt = prompt, .n_prompt = n_prompt, .max_tokens = 3, .sampling = lam_sample_defaults()};
    struct lam_sched_seq *seq;
    enum lam_status status = lam_sched_add(sched, &request, 1, &seq, NULL);

    assert(status == LAM_OK);
}

static void converse(struct lam_registry *registry, struct lam_sched *sched,
    struct lam_worker *worker, const uint8_t *data, size_t size)
{
    enum lam_status status = LAM_OK;

    while (size >= 2 && status == LAM_OK) {
        size_t n = data[0] | (size_t)data[1] << 8;
        ProtobufCMessage *message = NULL;
        data += 2;
        size -= 2;
        n = n < size ? n : size;
        lam_arena_reset(&arena);
        status = lam_message_unpack(
            &laminar__v1__worker_message__descriptor, data, n, &arena, &message, NULL);
        if (status == LAM_OK)
            status = take(registry, sched, worker, (const Laminar__V1__WorkerMessage *)message);
        data += n;
        size -= n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct lam_sched_config config = {
        .waiting_max = 4, .orphan_limit_ns = 1, .ahead_limit_ns = 1, .deaths_max = 3};
    struct lam_registry *registry = NULL;
    struct lam_sched *sched = NULL;
    struct lam_worker *worker = NULL;
    enum lam_status status = LAM_OK;

    if (!arena.base)
        status = lam_arena_init(&arena, 1 << 20, NULL);
    if (status == LAM_OK)
        status = lam_registry_create(NULL, &registry, NULL);
    if (status == LAM_OK)
        status = lam_sched_create(&config, &sched, NULL);
    if (status == LAM_OK)
        status = lam_registry_enter(registry, NULL, &worker, NULL);
    assert(status == LAM_OK);
    add_request(sched, 1);
    add_request(sched, 40);
    converse(registry, sched, worker, data, size);
    if (worker->sched)
        lam_sched_lose(sched, worker->sched, 1);
    lam_registry_leave(registry, worker);
    lam_sched_destroy(sched);
    lam_registry_destroy(registry);
    return 0;
}
