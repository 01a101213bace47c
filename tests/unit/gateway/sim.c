/* sim: see sim.h. */
#include "tests/unit/gateway/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"

uint32_t sim_draw(struct sim *sim, uint32_t below)
{
    sim->random ^= sim->random << 13;
    sim->random ^= sim->random >> 7;
    sim->random ^= sim->random << 17;
    return (uint32_t)(sim->random >> 20) % below;
}

static int32_t next_token(const int32_t *tokens, uint32_t n, uint32_t n_prompt)
{
    uint32_t hash = 2166136261u + n_prompt;

    for (uint32_t i = 0; i < n; i++)
        hash = (hash ^ (uint32_t)tokens[i]) * 16777619u;
    return (int32_t)(hash % SIM_VOCAB);
}

uint32_t sim_pages_used(const struct sim_worker *worker)
{
    uint32_t pages = 0;

    for (uint32_t i = 0; i < worker->caps.max_sequences; i++)
        pages += (worker->slots[i].n + worker->caps.page_tokens - 1) / worker->caps.page_tokens;
    return pages;
}

/* What a worker does with one entry of a step; it trusts nothing. */
static void take_rows(
    struct sim_worker *worker, struct sim_step *step, const struct lam_sched_rows *rows)
{
    const int32_t *tokens = rows->tokens;
    struct sim_slot *slot;

    assert_in_range(rows->slot, 0, worker->caps.max_sequences - 1);
    slot = &worker->slots[rows->slot];
    if (rows->position == 0) {
        assert_int_not_equal(rows->epoch, slot->epoch);
        assert_int_equal(slot->n, 0); /* its last user was freed */
        slot->epoch = rows->epoch;
        slot->n_prompt = rows->n_prompt;
    }
    assert_int_equal(rows->epoch, slot->epoch);
    assert_int_equal(rows->position, slot->n);
    assert_true(rows->n_tokens >= 1 && slot->n + rows->n_tokens <= SIM_CONTEXT);
    if (rows->sampled) {
        assert_true(slot->drawn && !rows->tokens && rows->n_tokens == 1);
        tokens = &slot->token;
    }
    memcpy(slot->tokens + slot->n, tokens, rows->n_tokens * sizeof *tokens);
    slot->n += rows->n_tokens;
    slot->drawn = rows->sample;
    if (!rows->sample)
        return;
    slot->token = next_token(slot->tokens, slot->n, slot->n_prompt);
    step->samples[step->n_samples++] =
        (struct lam_sched_sample){rows->slot, rows->epoch, slot->token};
}

/* Steps are taken in their order, so a worker may as well compute them when they come. */
void sim_take_step(struct sim *sim, const struct lam_sched_step *step)
{
    struct sim_worker *worker = step->worker_user;
    struct sim_step *open;
    uint32_t total = 0;

    assert_non_null(worker->handle);
    assert_true(worker->n_open < worker->caps.max_steps);
    assert_true(step->n_rows + step->n_free > 0);
    assert_true(step->n_rows > 0 || worker->n_open == 0);
    sim->ahead += worker->n_open > 0;
    open = &worker->steps[worker->n_open++];
    *open = (struct sim_step){.id = step->id};
    for (uint32_t i = 0; i < step->n_free; i++)
        worker->slots[step->free[i]].n = 0;
    for (uint32_t i = 0; i < step->n_rows; i++) {
        total += step->rows[i].n_tokens;
        take_rows(worker, open, &step->rows[i]);
    }
    sim->shared_passes += step->n_rows > 1;
    assert_true(total <= worker->caps.max_rows);
    assert_true(sim_pages_used(worker) <= worker->caps.pages);
}

void sim_pump(struct sim *sim)
{
    struct lam_sched_step step;

    while (lam_sched_next(sim->sched, sim->now_ns, &step))
        sim_take_step(sim, &step);
}

void sim_end(struct sim_request *request)
{
    request->seq = NULL;
    request->ends++;
    assert_int_equal(request->ends, 1);
}

void sim_apply(struct sim *sim, struct lam_sched_actions actions)
{
    for (uint32_t i = 0; i < actions.n; i++) {
        const struct lam_sched_action *action = &actions.items[i];
        struct sim_request *request = action->user;
        assert_non_null(request->seq);
        if (action->kind == LAM_SCHED_FAILED) {
            assert_int_equal(action->status, LAM_UNAVAILABLE);
            assert_non_null(action->reason);
            sim->failed++;
            sim_end(request);
            continue;
        }
        assert_int_equal(action->token, next_token(request->tokens, request->n, request->n_prompt));
        assert_true(action->started_ns > 0 && action->started_ns <= sim->now_ns);
        request->tokens[request->n++] = action->token;
        assert_int_equal(action->last, request->n == request->n_max);
        if (action->last) {
            sim_end(request);
        } else if (request->n == request->stop_at) {
            lam_sched_cancel(sim->sched, request->seq);
            sim_end(request);
        }
    }
}

void sim_lose(struct sim *sim, struct sim_worker *worker)
{
    struct lam_sched_worker *handle = worker->handle;

    worker->handle = NULL;
    worker->n_open = 0;
    sim_apply(sim, lam_sched_lose(sim->sched, handle, sim->now_ns));
}

void sim_answer(struct sim *sim, struct sim_worker *worker)
{
    struct sim_step step = worker->steps[0];
    struct lam_sched_actions actions = {0};
    struct lam_err err = {0};

    assert_true(worker->n_open > 0);
    worker->n_open--;
    memmove(worker->steps, worker->steps + 1, worker->n_open * sizeof step);
    assert_int_equal(lam_sched_result(sim->sched, worker->handle, step.id, step.samples,
                         step.n_samples, SIM_VOCAB, sim->now_ns, &actions, &err),
        LAM_OK);
    sim->wasted += step.n_samples - actions.n;
    sim_apply(sim, actions);
}

void sim_init(struct sim *sim, uint64_t seed)
{
    struct lam_sched_config config = {.waiting_max = 8,
        .orphan_limit_ns = 3 * LAM_NS_PER_S,
        .ahead_limit_ns = SIM_AHEAD_NS,
        .ahead_lead_ns = SIM_LEAD_NS,
        .deaths_max = 3};
    struct lam_err err = {0};

    memset(sim, 0, sizeof *sim);
    sim->random = seed * 0x9e3779b97f4a7c15ull + 1;
    sim->now_ns = 1;
    assert_int_equal(lam_sched_create(&config, &sim->sched, &err), LAM_OK);
}
