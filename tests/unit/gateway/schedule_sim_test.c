/*
 * The scheduler in 3,000 random worlds: requests, cancellations, pauses, workers that come, answer
 * and die. Afterwards everything that is left runs to its end: each request ended exactly once with
 * the right text, and nothing of it stays on a worker.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "tests/unit/gateway/sim.h"

static void join(struct sim *sim, struct sim_worker *worker)
{
    struct lam_err err = {0};
    uint32_t page = 1u << sim_draw(sim, 4);
    uint32_t least = (SIM_CONTEXT + page - 1) / page;

    *worker = (struct sim_worker){.caps = {.max_sequences = 1 + sim_draw(sim, SIM_SLOTS_MAX),
                                      .max_rows = 1 + sim_draw(sim, 12),
                                      .page_tokens = page,
                                      .pages = least + sim_draw(sim, 3 * least),
                                      .max_steps = 1 + sim_draw(sim, 2)}};
    assert_int_equal(
        lam_sched_join(sim->sched, &worker->caps, worker, &worker->handle, &err), LAM_OK);
}

static void arrive(struct sim *sim)
{
    struct sim_request *request = &sim->requests[sim->n_requests];
    struct lam_err err = {0};
    struct lam_sched_request ask;

    request->n_prompt = 1 + sim_draw(sim, SIM_CONTEXT - 1);
    request->n = request->n_prompt;
    request->n_max = request->n + 1 + sim_draw(sim, SIM_CONTEXT - request->n);
    if (sim_draw(sim, 2))
        request->stop_at = request->n + 1 + sim_draw(sim, 8);
    for (uint32_t i = 0; i < request->n; i++)
        request->tokens[i] = (int32_t)sim_draw(sim, SIM_VOCAB);
    ask = (struct lam_sched_request){.prompt = request->tokens,
        .n_prompt = request->n,
        .max_tokens = request->n_max - request->n,
        .user = request};
    if (lam_sched_add(sim->sched, &ask, sim->now_ns, &request->seq, &err) == LAM_OK) {
        sim->n_requests++;
        return;
    }
    assert_int_equal(err.status, LAM_RESOURCE_EXHAUSTED);
    assert_true(lam_sched_waiting(sim->sched) >= 8); /* more: replays do not count as new */
    memset(request, 0, sizeof *request);
}

static void random_request_event(struct sim *sim)
{
    struct sim_request *request;

    if (sim->n_requests == 0)
        return;
    request = &sim->requests[sim_draw(sim, sim->n_requests)];
    if (!request->seq)
        return;
    if (sim_draw(sim, 3) == 0) {
        lam_sched_cancel(sim->sched, request->seq);
        sim_end(request);
    } else {
        lam_sched_pause(request->seq, sim_draw(sim, 2) == 1);
    }
}

static void random_event(struct sim *sim)
{
    struct sim_worker *worker = &sim->workers[sim_draw(sim, SIM_WORKERS)];

    sim->now_ns += sim_draw(sim, 100) * LAM_NS_PER_MS;
    switch (sim_draw(sim, 16)) {
    case 0:
    case 1:
        if (sim->n_requests < SIM_REQUESTS)
            arrive(sim);
        break;
    case 2:
        random_request_event(sim);
        break;
    case 3:
        if (!worker->handle)
            join(sim, worker);
        else if (sim_draw(sim, 8) == 0)
            sim_lose(sim, worker);
        break;
    case 4:
        sim_apply(sim, lam_sched_tick(sim->sched, sim->now_ns));
        break;
    default:
        if (worker->handle && worker->n_open > 0)
            sim_answer(sim, worker);
    }
    sim_pump(sim);
}

/* Everything that is left runs to its end, and nothing of it stays on a worker. */
static void quiesce(struct sim *sim)
{
    bool busy = true;

    for (uint32_t i = 0; i < sim->n_requests; i++)
        if (sim->requests[i].seq)
            lam_sched_pause(sim->requests[i].seq, false);
    for (uint32_t i = 0; i < SIM_WORKERS; i++)
        if (!sim->workers[i].handle)
            join(sim, &sim->workers[i]);
    sim_pump(sim);
    while (busy) {
        busy = false;
        for (uint32_t i = 0; i < SIM_WORKERS; i++)
            if (sim->workers[i].n_open > 0) {
                sim_answer(sim, &sim->workers[i]);
                busy = true;
            }
        sim_pump(sim);
    }
    assert_int_equal(lam_sched_waiting(sim->sched), 0);
    for (uint32_t i = 0; i < sim->n_requests; i++)
        assert_int_equal(sim->requests[i].ends, 1);
    for (uint32_t i = 0; i < SIM_WORKERS; i++) {
        struct lam_sched_load load = lam_sched_load(sim->workers[i].handle);
        assert_int_equal(load.sequences, 0);
        assert_int_equal(load.kv_tokens, 0);
        assert_int_equal(sim_pages_used(&sim->workers[i]), 0);
    }
}

static void test_simulated_worlds(void **state)
{
    static struct sim sim;
    unsigned shared = 0;
    unsigned failed = 0;
    unsigned ahead = 0;
    unsigned wasted = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 3000; seed++) {
        sim_init(&sim, seed);
        for (unsigned i = 0; i < 600; i++)
            random_event(&sim);
        quiesce(&sim);
        shared += sim.shared_passes;
        failed += sim.failed;
        ahead += sim.ahead;
        wasted += sim.wasted;
        lam_sched_destroy(sim.sched);
    }
    assert_true(shared > 10000); /* the worlds really batch, */
    assert_true(failed > 100);   /* and really fail, */
    assert_true(ahead > 10000);  /* and steps go ahead, */
    assert_true(wasted > 1000);  /* some of them for nothing */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simulated_worlds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
