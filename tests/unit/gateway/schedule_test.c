/*
 * The scheduler against a simulated world: requests, cancellations, workers that come, answer and
 * die, in random order from a seed. The simulated workers compute a token as a hash of everything
 * in the slot, so a row lost, doubled, or put into the wrong slot changes the text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/fault.h"
#include "gateway/schedule.h"

#define N_VOCAB 1000u
#define CONTEXT 48u
#define REQUESTS 64u
#define WORKERS 3u
#define SLOTS_MAX 5u

struct fake_slot {
    uint32_t epoch;
    uint32_t n_prompt;
    uint32_t n;
    int32_t tokens[CONTEXT];
};

struct fake_worker {
    struct lam_sched_worker *handle; /* NULL: not attached */
    struct lam_sched_caps caps;
    struct fake_slot slots[SLOTS_MAX];
    bool busy;
    uint64_t step_id;
    uint32_t n_samples;
    struct lam_sched_sample samples[SLOTS_MAX];
};

struct fake_request {
    struct lam_sched_seq *seq; /* NULL: over */
    uint32_t n_prompt;
    uint32_t n;
    uint32_t n_max;
    uint32_t stop_at; /* cancelled by its owner at this length, as by a stop string; 0: not */
    int32_t tokens[CONTEXT];
    unsigned ends;
};

struct world {
    uint64_t random;
    uint64_t now_ns;
    struct lam_sched *sched;
    struct fake_worker workers[WORKERS];
    struct fake_request requests[REQUESTS];
    uint32_t n_requests;
    unsigned shared_passes; /* with rows of more than one request */
    unsigned failed;
};

static uint32_t draw(struct world *world, uint32_t below)
{
    world->random ^= world->random << 13;
    world->random ^= world->random >> 7;
    world->random ^= world->random << 17;
    return (uint32_t)(world->random >> 20) % below;
}

static int32_t next_token(const int32_t *tokens, uint32_t n, uint32_t n_prompt)
{
    uint32_t hash = 2166136261u + n_prompt;

    for (uint32_t i = 0; i < n; i++)
        hash = (hash ^ (uint32_t)tokens[i]) * 16777619u;
    return (int32_t)(hash % N_VOCAB);
}

static uint32_t pages_used(const struct fake_worker *worker)
{
    uint32_t pages = 0;

    for (uint32_t i = 0; i < worker->caps.max_sequences; i++)
        pages += (worker->slots[i].n + worker->caps.page_tokens - 1) / worker->caps.page_tokens;
    return pages;
}

/* What a worker does with one entry of a step; it trusts nothing. */
static void fake_rows(struct fake_worker *worker, const struct lam_sched_rows *rows)
{
    struct fake_slot *slot;

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
    assert_true(rows->n_tokens >= 1 && slot->n + rows->n_tokens <= CONTEXT);
    memcpy(slot->tokens + slot->n, rows->tokens, rows->n_tokens * sizeof *rows->tokens);
    slot->n += rows->n_tokens;
    if (rows->sample)
        worker->samples[worker->n_samples++] = (struct lam_sched_sample){
            rows->slot, rows->epoch, next_token(slot->tokens, slot->n, slot->n_prompt)};
}

static void fake_step(struct world *world, const struct lam_sched_step *step)
{
    struct fake_worker *worker = step->worker_user;
    uint32_t total = 0;

    assert_non_null(worker->handle);
    assert_false(worker->busy);
    assert_true(step->n_rows + step->n_free > 0);
    worker->busy = true;
    worker->step_id = step->id;
    worker->n_samples = 0;
    for (uint32_t i = 0; i < step->n_free; i++)
        worker->slots[step->free[i]].n = 0;
    for (uint32_t i = 0; i < step->n_rows; i++) {
        total += step->rows[i].n_tokens;
        fake_rows(worker, &step->rows[i]);
    }
    world->shared_passes += step->n_rows > 1;
    assert_true(total <= worker->caps.max_rows);
    assert_true(pages_used(worker) <= worker->caps.pages);
}

static void pump(struct world *world)
{
    struct lam_sched_step step;

    while (lam_sched_next(world->sched, world->now_ns, &step))
        fake_step(world, &step);
}

static void end_request(struct fake_request *request)
{
    request->seq = NULL;
    request->ends++;
    assert_int_equal(request->ends, 1);
}

static void apply(struct world *world, struct lam_sched_actions actions)
{
    for (uint32_t i = 0; i < actions.n; i++) {
        const struct lam_sched_action *action = &actions.items[i];
        struct fake_request *request = action->user;
        assert_non_null(request->seq);
        if (action->kind == LAM_SCHED_FAILED) {
            assert_int_equal(action->status, LAM_UNAVAILABLE);
            assert_non_null(action->reason);
            world->failed++;
            end_request(request);
            continue;
        }
        assert_int_equal(action->token, next_token(request->tokens, request->n, request->n_prompt));
        assert_true(action->started_ns > 0 && action->started_ns <= world->now_ns);
        request->tokens[request->n++] = action->token;
        assert_int_equal(action->last, request->n == request->n_max);
        if (action->last) {
            end_request(request);
        } else if (request->n == request->stop_at) {
            lam_sched_cancel(world->sched, request->seq);
            end_request(request);
        }
    }
}

static void join(struct world *world, struct fake_worker *worker)
{
    struct lam_err err = {0};
    uint32_t page = 1u << draw(world, 4);
    uint32_t least = (CONTEXT + page - 1) / page;

    *worker = (struct fake_worker){.caps = {.max_sequences = 1 + draw(world, SLOTS_MAX),
                                       .max_rows = 1 + draw(world, 12),
                                       .page_tokens = page,
                                       .pages = least + draw(world, 3 * least)}};
    assert_int_equal(
        lam_sched_join(world->sched, &worker->caps, worker, &worker->handle, &err), LAM_OK);
}

static void lose(struct world *world, struct fake_worker *worker)
{
    struct lam_sched_worker *handle = worker->handle;

    worker->handle = NULL;
    worker->busy = false;
    apply(world, lam_sched_lose(world->sched, handle, world->now_ns));
}

static void answer(struct world *world, struct fake_worker *worker)
{
    struct lam_sched_actions actions = {0};
    struct lam_err err = {0};

    worker->busy = false;
    assert_int_equal(lam_sched_result(world->sched, worker->handle, worker->step_id,
                         worker->samples, worker->n_samples, N_VOCAB, &actions, &err),
        LAM_OK);
    apply(world, actions);
}

static void arrive(struct world *world)
{
    struct fake_request *request = &world->requests[world->n_requests];
    struct lam_err err = {0};
    struct lam_sched_request ask;

    request->n_prompt = 1 + draw(world, CONTEXT - 1);
    request->n = request->n_prompt;
    request->n_max = request->n + 1 + draw(world, CONTEXT - request->n);
    if (draw(world, 2))
        request->stop_at = request->n + 1 + draw(world, 8);
    for (uint32_t i = 0; i < request->n; i++)
        request->tokens[i] = (int32_t)draw(world, N_VOCAB);
    ask = (struct lam_sched_request){.prompt = request->tokens,
        .n_prompt = request->n,
        .max_tokens = request->n_max - request->n,
        .user = request};
    if (lam_sched_add(world->sched, &ask, world->now_ns, &request->seq, &err) == LAM_OK) {
        world->n_requests++;
        return;
    }
    assert_int_equal(err.status, LAM_RESOURCE_EXHAUSTED);
    assert_true(lam_sched_waiting(world->sched) >= 8); /* more: replays do not count as new */
    memset(request, 0, sizeof *request);
}

static void random_request_event(struct world *world)
{
    struct fake_request *request;

    if (world->n_requests == 0)
        return;
    request = &world->requests[draw(world, world->n_requests)];
    if (!request->seq)
        return;
    if (draw(world, 3) == 0) {
        lam_sched_cancel(world->sched, request->seq);
        end_request(request);
    } else {
        lam_sched_pause(request->seq, draw(world, 2) == 1);
    }
}

static void random_event(struct world *world)
{
    struct fake_worker *worker = &world->workers[draw(world, WORKERS)];

    world->now_ns += draw(world, 100) * LAM_NS_PER_MS;
    switch (draw(world, 16)) {
    case 0:
    case 1:
        if (world->n_requests < REQUESTS)
            arrive(world);
        break;
    case 2:
        random_request_event(world);
        break;
    case 3:
        if (!worker->handle)
            join(world, worker);
        else if (draw(world, 8) == 0)
            lose(world, worker);
        break;
    case 4:
        apply(world, lam_sched_tick(world->sched, world->now_ns));
        break;
    default:
        if (worker->handle && worker->busy)
            answer(world, worker);
    }
    pump(world);
}

/* Everything that is left runs to its end, and nothing of it stays on a worker. */
static void quiesce(struct world *world)
{
    bool busy = true;

    for (uint32_t i = 0; i < world->n_requests; i++)
        if (world->requests[i].seq)
            lam_sched_pause(world->requests[i].seq, false);
    for (uint32_t i = 0; i < WORKERS; i++)
        if (!world->workers[i].handle)
            join(world, &world->workers[i]);
    pump(world);
    while (busy) {
        busy = false;
        for (uint32_t i = 0; i < WORKERS; i++)
            if (world->workers[i].busy) {
                answer(world, &world->workers[i]);
                busy = true;
            }
        pump(world);
    }
    assert_int_equal(lam_sched_waiting(world->sched), 0);
    for (uint32_t i = 0; i < world->n_requests; i++)
        assert_int_equal(world->requests[i].ends, 1);
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct lam_sched_load load = lam_sched_load(world->workers[i].handle);
        assert_int_equal(load.sequences, 0);
        assert_int_equal(load.kv_tokens, 0);
        assert_int_equal(pages_used(&world->workers[i]), 0);
    }
}

static void world_init(struct world *world, uint64_t seed)
{
    struct lam_sched_config config = {
        .waiting_max = 8, .orphan_limit_ns = 3 * LAM_NS_PER_S, .deaths_max = 3};
    struct lam_err err = {0};

    memset(world, 0, sizeof *world);
    world->random = seed * 0x9e3779b97f4a7c15ull + 1;
    world->now_ns = 1;
    assert_int_equal(lam_sched_create(&config, &world->sched, &err), LAM_OK);
}

static void test_simulated_worlds(void **state)
{
    static struct world world;
    unsigned shared = 0;
    unsigned failed = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 3000; seed++) {
        world_init(&world, seed);
        for (unsigned i = 0; i < 600; i++)
            random_event(&world);
        quiesce(&world);
        shared += world.shared_passes;
        failed += world.failed;
        lam_sched_destroy(world.sched);
    }
    assert_true(shared > 10000); /* the worlds really batch, */
    assert_true(failed > 100);   /* and really fail */
}

/* ---- single rules ---- */

static struct lam_sched_seq *add(
    struct world *world, uint32_t index, uint32_t n_prompt, uint32_t max_tokens)
{
    struct fake_request *request = &world->requests[index];
    struct lam_sched_request ask = {
        .prompt = request->tokens, .n_prompt = n_prompt, .max_tokens = max_tokens, .user = request};
    struct lam_err err = {0};

    request->n = request->n_prompt = n_prompt;
    request->n_max = n_prompt + max_tokens;
    assert_int_equal(lam_sched_add(world->sched, &ask, world->now_ns, &request->seq, &err), LAM_OK);
    return request->seq;
}

static void join_caps(struct world *world, uint32_t index, struct lam_sched_caps caps)
{
    struct fake_worker *worker = &world->workers[index];
    struct lam_err err = {0};

    worker->caps = caps;
    assert_int_equal(lam_sched_join(world->sched, &caps, worker, &worker->handle, &err), LAM_OK);
}

/* A long prompt does not keep others waiting: prompts share the pass, decoders always have a row.
 */
static void test_prompts_share_a_pass(void **state)
{
    static struct world world;
    struct lam_sched_step step;

    (void)state;
    world_init(&world, 1);
    join_caps(&world, 0, (struct lam_sched_caps){4, 16, 8, 100});
    add(&world, 0, 40, 4);
    add(&world, 1, 3, 4);
    add(&world, 2, 40, 4);
    assert_true(lam_sched_next(world.sched, 1, &step));
    assert_int_equal(step.n_rows, 3);
    assert_int_equal(step.rows[1].n_tokens, 3);
    assert_true(step.rows[1].sample);
    assert_int_equal(step.rows[0].n_tokens + step.rows[2].n_tokens, 13);
    assert_in_range(step.rows[0].n_tokens, 6, 7);
    assert_false(step.rows[0].sample);
    fake_step(&world, &step);
    assert_false(lam_sched_next(world.sched, 1, &step)); /* one step at a time */
    answer(&world, &world.workers[0]);
    assert_true(lam_sched_next(world.sched, 1, &step));
    assert_int_equal(step.rows[1].n_tokens, 1);
    assert_int_equal(step.rows[0].n_tokens + step.rows[2].n_tokens, 15);
    lam_sched_destroy(world.sched);
}

/* More sequences than rows: they take turns. */
static void test_turns(void **state)
{
    static struct world world;

    (void)state;
    world_init(&world, 1);
    join_caps(&world, 0, (struct lam_sched_caps){4, 2, 8, 100});
    for (uint32_t i = 0; i < 4; i++)
        add(&world, i, 1, 40);
    pump(&world);
    for (unsigned pass = 0; pass < 20; pass++) {
        answer(&world, &world.workers[0]);
        pump(&world);
    }
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(world.requests[i].n, 1 + 10);
    lam_sched_destroy(world.sched);
}

/* A cancelled request has no row in the next step, and that step frees its slot, even with nothing
 * else. */
static void test_cancel_frees_at_once(void **state)
{
    static struct world world;
    struct lam_sched_step step;
    struct lam_sched_seq *seq;

    (void)state;
    world_init(&world, 1);
    join_caps(&world, 0, (struct lam_sched_caps){2, 8, 8, 12});
    seq = add(&world, 0, 5, 10);
    pump(&world);
    lam_sched_cancel(world.sched, seq);
    assert_int_equal(lam_sched_load(world.workers[0].handle).sequences, 0);
    world.requests[0].seq = NULL;
    answer(&world, &world.workers[0]); /* its token is dropped: apply would meet seq == NULL */
    assert_true(lam_sched_next(world.sched, 1, &step));
    assert_int_equal(step.n_rows, 0);
    assert_int_equal(step.n_free, 1);
    fake_step(&world, &step);
    answer(&world, &world.workers[0]);
    assert_int_equal(lam_sched_load(world.workers[0].handle).passes, 1);
    assert_false(lam_sched_next(world.sched, 1, &step));
    lam_sched_destroy(world.sched);
}

/* Room is reserved for all that a request may generate: the second one waits, and the third behind
 * it. */
static void test_admission_by_pages(void **state)
{
    static struct world world;
    struct lam_sched_step step;

    (void)state;
    world_init(&world, 1);
    join_caps(&world, 0, (struct lam_sched_caps){4, 64, 8, 7});
    add(&world, 0, 30, 10); /* 5 pages */
    add(&world, 1, 17, 3);  /* 3 pages */
    add(&world, 2, 1, 1);   /* 1 page, but not before its elder */
    assert_true(lam_sched_next(world.sched, 1, &step));
    assert_int_equal(step.n_rows, 1);
    assert_int_equal(lam_sched_waiting(world.sched), 2);
    fake_step(&world, &step);
    lam_sched_cancel(world.sched, world.requests[0].seq);
    world.requests[0].seq = NULL;
    answer(&world, &world.workers[0]);
    assert_true(lam_sched_next(world.sched, 1, &step));
    assert_int_equal(step.n_rows, 2);
    assert_int_equal(lam_sched_waiting(world.sched), 0);
    lam_sched_destroy(world.sched);
}

static void test_least_loaded_replica(void **state)
{
    static struct world world;

    (void)state;
    world_init(&world, 1);
    join_caps(&world, 0, (struct lam_sched_caps){5, 8, 8, 100});
    join_caps(&world, 1, (struct lam_sched_caps){5, 8, 8, 100});
    for (uint32_t i = 0; i < 4; i++)
        add(&world, i, 1, 5);
    pump(&world);
    assert_int_equal(lam_sched_load(world.workers[0].handle).sequences, 2);
    assert_int_equal(lam_sched_load(world.workers[1].handle).sequences, 2);
    lam_sched_destroy(world.sched);
}

/* Nobody is attached: a request waits for the limit, not a nanosecond longer, counted from the
 * loss. */
static void test_orphans(void **state)
{
    static struct world world;

    (void)state;
    world_init(&world, 1);
    join_caps(&world, 0, (struct lam_sched_caps){2, 8, 8, 100});
    add(&world, 0, 5, 10);
    pump(&world);
    world.now_ns = 10 * LAM_NS_PER_S;
    lose(&world, &world.workers[0]);
    assert_int_equal(lam_sched_waiting(world.sched), 1);
    world.now_ns += 3 * LAM_NS_PER_S - 1;
    apply(&world, lam_sched_tick(world.sched, world.now_ns));
    assert_int_equal(world.failed, 0);
    world.now_ns++;
    apply(&world, lam_sched_tick(world.sched, world.now_ns));
    assert_int_equal(world.failed, 1);
    assert_int_equal(world.requests[0].ends, 1);
    lam_sched_destroy(world.sched);
}

/* A request that takes worker after worker down is ended before it takes the next one. */
static void test_deadly_request(void **state)
{
    static struct world world;

    (void)state;
    world_init(&world, 1);
    add(&world, 0, 5, 10);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(world.failed, 0);
        memset(&world.workers[0], 0, sizeof world.workers[0]);
        join_caps(&world, 0, (struct lam_sched_caps){2, 8, 8, 100});
        pump(&world);
        lose(&world, &world.workers[0]);
    }
    assert_int_equal(world.failed, 1);
    lam_sched_destroy(world.sched);
}

/* Answers that do not fit are refused whole; the right one is still taken afterwards. */
static void test_bad_answers(void **state)
{
    static struct world world;
    struct fake_worker *worker = &world.workers[0];
    struct lam_sched_actions actions;
    struct lam_sched_sample samples[2];
    struct lam_err err = {0};
    const struct {
        uint64_t id_delta;
        uint32_t n;
        struct lam_sched_sample delta; /* of the second sample */
    } bad[] = {
        {1, 2, {0, 0, 0}},                /* another step */
        {0, 1, {0, 0, 0}},                /* a token is missing */
        {0, 2, {1, 0, 0}},                /* a slot that is not in the step */
        {0, 2, {UINT32_MAX, 0, 0}},       /* the first slot once more */
        {0, 2, {0, 1, 0}},                /* another epoch */
        {0, 2, {0, 0, (int32_t)N_VOCAB}}, /* no such token */
        {0, 2, {0, 0, -(int32_t)N_VOCAB}},
    };

    (void)state;
    world_init(&world, 1);
    join_caps(&world, 0, (struct lam_sched_caps){4, 8, 8, 100});
    add(&world, 0, 1, 10);
    add(&world, 1, 2, 10);
    pump(&world);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memcpy(samples, worker->samples, sizeof samples);
        samples[1].slot += bad[i].delta.slot;
        samples[1].epoch += bad[i].delta.epoch;
        samples[1].token += bad[i].delta.token;
        assert_int_equal(
            lam_sched_result(world.sched, worker->handle, worker->step_id + bad[i].id_delta,
                samples, bad[i].n, N_VOCAB, &actions, &err),
            LAM_INVALID_ARGUMENT);
        assert_true(strlen(err.text) > 20);
    }
    answer(&world, worker);
    assert_int_equal(world.requests[1].n, 3);
    assert_int_equal(lam_sched_result(world.sched, worker->handle, worker->step_id, worker->samples,
                         2, N_VOCAB, &actions, &err),
        LAM_INVALID_ARGUMENT); /* no step is open */
    lam_sched_destroy(world.sched);
}

static void test_no_memory(void **state)
{
    static struct world world;
    struct lam_err err = {0};
    struct lam_sched_config config = {8, 1, 3};
    struct lam_sched_caps caps = {2, 8, 8, 100};
    int32_t prompt[2] = {1, 2};
    struct lam_sched_request ask = {.prompt = prompt, .n_prompt = 2, .max_tokens = 3};

    (void)state;
    for (uint64_t nth = 1;; nth++) {
        struct lam_sched *sched = NULL;
        struct lam_sched_worker *worker;
        struct lam_sched_seq *seq;
        bool all;
        lam_fault_arm("alloc", nth);
        all = lam_sched_create(&config, &sched, &err) == LAM_OK &&
              lam_sched_join(sched, &caps, &world, &worker, &err) == LAM_OK &&
              lam_sched_add(sched, &ask, 1, &seq, &err) == LAM_OK;
        assert_int_equal(all, !lam_fault_fired());
        lam_sched_destroy(sched);
        if (all)
            break;
        assert_int_equal(err.status, LAM_RESOURCE_EXHAUSTED);
    }
    lam_fault_arm("alloc", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simulated_worlds),
        cmocka_unit_test(test_prompts_share_a_pass),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_cancel_frees_at_once),
        cmocka_unit_test(test_admission_by_pages),
        cmocka_unit_test(test_least_loaded_replica),
        cmocka_unit_test(test_orphans),
        cmocka_unit_test(test_deadly_request),
        cmocka_unit_test(test_bad_answers),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
