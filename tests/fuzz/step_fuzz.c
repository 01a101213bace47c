/*
 * Fuzz target: what a gateway may ask of a worker, in any order: Steps, each behind its length in
 * two bytes, go through the border (step.h) into the engine on a tiny model, as service.c does it.
 * A step may be refused, never crash, and never break the engine.
 */
#include <assert.h>
#include <stdint.h>

#include "common/mem.h"
#include "kernels/ops.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "rpc/message.h"
#include "tests/unit/worker/fake_units.h"
#include "tests/unit/worker/tiny_model.h"
#include "worker/engine.h"
#include "worker/step.h"

#define MAX_SEQS 3u
#define MAX_ROWS 16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tiny_model tiny;
static struct lam_units *units;
static struct lam_engine *engine;
static struct lam_arena arena;

static void set_up(void)
{
    struct lam_engine_config config = {.ops = lam_kernels_ref(),
        .n_threads = 1,
        .n_ctx = 24,
        .max_seqs = MAX_SEQS,
        .max_rows = MAX_ROWS,
        .max_logit_rows = MAX_SEQS,
        .kv_given = true,
        .kv_dtype = LAM_F16,
        .page_tokens = 8,
        .kv_pages = 4};
    enum lam_status status = lam_arena_init(&arena, (uint64_t)1 << 20, NULL);

    assert(status == LAM_OK);
    tiny_model_make(&tiny, false);
    units = fake_units_create(&tiny);
    status = lam_engine_create(&config, units, &engine, NULL);
    assert(status == LAM_OK);
}

static void take(const uint8_t *bytes, size_t n_bytes, uint32_t *epochs)
{
    const struct lam_step_limits limits = {MAX_SEQS, MAX_ROWS};
    struct lam_engine_rows rows[MAX_SEQS];
    struct lam_engine_result results[MAX_SEQS];
    const Laminar__V1__Step *step;
    ProtobufCMessage *message;

    lam_arena_reset(&arena);
    if (lam_message_unpack(
            &laminar__v1__step__descriptor, bytes, n_bytes, &arena, &message, NULL) != LAM_OK)
        return;
    step = (const Laminar__V1__Step *)message;
    if (lam_step_read(step, &limits, epochs, rows, NULL) != LAM_OK)
        return;
    for (size_t i = 0; i < step->n_free; i++)
        lam_engine_free(engine, step->free[i]);
    if (lam_engine_step(engine, rows, (uint32_t)step->n_rows, results, NULL) != LAM_OK)
        return;
    for (size_t i = 0; i < step->n_rows; i++) {
        int32_t token = results[i].token;
        assert(
            rows[i].sample ? token >= 0 && (uint32_t)token < tiny.model.spec.n_vocab : token == -1);
        epochs[rows[i].seq] = step->rows[i]->epoch;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t epochs[MAX_SEQS] = {0};

    if (!engine)
        set_up();
    while (size >= 2) {
        size_t n_bytes = (size_t)(data[0] | data[1] << 8);
        data += 2;
        size -= 2;
        n_bytes = n_bytes < size ? n_bytes : size;
        take(data, n_bytes, epochs);
        assert(lam_engine_usable(engine) && fake_units_held(units) == 0);
        data += n_bytes;
        size -= n_bytes;
    }
    for (uint32_t seq = 0; seq < MAX_SEQS; seq++)
        lam_engine_free(engine, seq);
    return 0;
}
