/* The scheduler's rules, one by one; schedule_sim_test.c has them all at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/fault.h"
#include "tests/unit/gateway/sim.h"

static struct lam_sched_seq *add(
    struct sim *sim, uint32_t index, uint32_t n_prompt, uint32_t max_tokens)
{
    struct sim_request *request = &sim->requests[index];
    struct lam_sched_request ask = {
        .prompt = request->tokens, .n_prompt = n_prompt, .max_tokens = max_tokens, .user = request};
    struct lam_err err = {0};

    request->n = request->n_prompt = n_prompt;
    request->n_max = n_prompt + max_tokens;
    assert_int_equal(lam_sched_add(sim->sched, &ask, sim->now_ns, &request->seq, &err), LAM_OK);
    return request->seq;
}

static void join_caps(struct sim *sim, uint32_t index, struct lam_sched_caps caps)
{
    struct sim_worker *worker = &sim->workers[index];
    struct lam_err err = {0};

    worker->caps = caps;
    assert_int_equal(lam_sched_join(sim->sched, &caps, worker, &worker->handle, &err), LAM_OK);
}

/* The rows of a step's entry of this slot; 0: it has none. */
static uint32_t rows_of(const struct lam_sched_step *step, uint32_t slot)
{
    for (uint32_t i = 0; i < step->n_rows; i++)
        if (step->rows[i].slot == slot)
            return step->rows[i].n_tokens;
    return 0;
}

/* Short prompts before long ones, the older of two alike first; decoders always have a row. */
static void test_prompts_one_after_the_other(void **state)
{
    static struct sim sim;
    struct lam_sched_step step;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){4, 16, 8, 100, 1});
    add(&sim, 0, 40, 4);
    add(&sim, 1, 3, 4);
    add(&sim, 2, 40, 4);
    assert_true(lam_sched_next(sim.sched, 1, &step));
    assert_int_equal(step.n_rows, 3);
    assert_int_equal(step.rows[1].n_tokens, 3);
    assert_true(step.rows[1].sample);
    assert_int_equal(step.rows[0].n_tokens, 12);
    assert_int_equal(step.rows[2].n_tokens, 1);
    assert_false(step.rows[0].sample);
    sim_take_step(&sim, &step);
    assert_false(lam_sched_next(sim.sched, 1, &step)); /* one step at a time */
    sim_answer(&sim, &sim.workers[0]);
    assert_true(lam_sched_next(sim.sched, 1, &step));
    assert_int_equal(step.rows[1].n_tokens, 1);
    assert_int_equal(step.rows[0].n_tokens, 14);
    assert_int_equal(step.rows[2].n_tokens, 1);
    lam_sched_destroy(sim.sched);
}

/* Short prompts go on arriving: a long one has a pass in four to itself. */
static void test_a_long_prompt_comes_to_its_end(void **state)
{
    static struct sim sim;
    unsigned passes = 0;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){2, 8, 8, 100, 1});
    add(&sim, 0, 40, 1);
    while (sim.requests[0].seq) {
        struct lam_sched_step step;

        if (!sim.requests[1].seq) {
            memset(&sim.requests[1], 0, sizeof sim.requests[1]);
            add(&sim, 1, 8, 1);
        }
        assert_true(lam_sched_next(sim.sched, sim.now_ns, &step));
        passes++;
        /* Of 8 rows each has one at least. */
        if (rows_of(&step, 0) > 0 && rows_of(&step, 1) > 0 && sim.requests[0].seq)
            assert_in_range(rows_of(&step, 0), 1, 7);
        sim_take_step(&sim, &step);
        sim_answer(&sim, &sim.workers[0]);
        assert_true(passes <= 20); /* 40 rows, 10 at least in four passes */
    }
    assert_true(passes > 8); /* the short ones had most of them */
    lam_sched_destroy(sim.sched);
}

/* More sequences than rows: they take turns. */
static void test_turns(void **state)
{
    static struct sim sim;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){4, 2, 8, 100, 1});
    for (uint32_t i = 0; i < 4; i++)
        add(&sim, i, 1, 40);
    sim_pump(&sim);
    for (unsigned pass = 0; pass < 20; pass++) {
        sim_answer(&sim, &sim.workers[0]);
        sim_pump(&sim);
    }
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(sim.requests[i].n, 1 + 10);
    lam_sched_destroy(sim.sched);
}

/* A cancelled request has no row in the next step, and that step frees its slot, even with nothing
 * else. */
static void test_cancel_frees_at_once(void **state)
{
    static struct sim sim;
    struct lam_sched_step step;
    struct lam_sched_seq *seq;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){2, 8, 8, 12, 1});
    seq = add(&sim, 0, 5, 10);
    sim_pump(&sim);
    lam_sched_cancel(sim.sched, seq);
    assert_int_equal(lam_sched_load(sim.workers[0].handle).sequences, 0);
    sim.requests[0].seq = NULL;
    sim_answer(&sim, &sim.workers[0]); /* its token is dropped: apply would meet seq == NULL */
    assert_true(lam_sched_next(sim.sched, 1, &step));
    assert_int_equal(step.n_rows, 0);
    assert_int_equal(step.n_free, 1);
    sim_take_step(&sim, &step);
    sim_answer(&sim, &sim.workers[0]);
    assert_int_equal(lam_sched_load(sim.workers[0].handle).passes, 1);
    assert_false(lam_sched_next(sim.sched, 1, &step));
    lam_sched_destroy(sim.sched);
}

/* One step is answered in 1 ms, so that its worker is known to be fast; the next one is open. */
static void warm_up(struct sim *sim)
{
    sim_pump(sim); /* the prompts */
    sim->now_ns += LAM_NS_PER_MS;
    sim_answer(sim, &sim->workers[0]);
    sim_pump(sim);
    assert_int_equal(sim->ahead, 0); /* how long a pass takes is not known yet */
    sim->now_ns += LAM_NS_PER_MS;
    sim_answer(sim, &sim->workers[0]);
}

/* A worker has its next step before it has answered one: with rows of tokens that only it knows. */
static void test_steps_go_ahead(void **state)
{
    static struct sim sim;
    struct lam_sched_step step;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){2, 8, 8, 100, 2});
    add(&sim, 0, 3, 5);
    add(&sim, 1, 2, 20);
    warm_up(&sim);
    assert_true(lam_sched_next(sim.sched, sim.now_ns, &step));
    assert_false(step.rows[0].sampled); /* both tokens are known */
    sim_take_step(&sim, &step);
    assert_true(lam_sched_next(sim.sched, sim.now_ns, &step));
    assert_int_equal(step.n_rows, 2);
    assert_true(step.rows[0].sampled && step.rows[1].sampled);
    assert_true(step.rows[0].sample && step.rows[1].sample);
    sim_take_step(&sim, &step);
    assert_false(lam_sched_next(sim.sched, sim.now_ns, &step)); /* two are enough */
    sim_answer(&sim, &sim.workers[0]);
    assert_int_equal(sim.requests[0].n, 3 + 3);
    /* The first one's last token is being drawn: no row is computed for nothing. */
    sim_answer(&sim, &sim.workers[0]);
    sim_pump(&sim);
    assert_int_equal(sim.requests[0].n, 3 + 4);
    for (unsigned i = 0; i < 40 && sim.workers[0].n_open > 0; i++) {
        sim_answer(&sim, &sim.workers[0]);
        sim_pump(&sim);
    }
    assert_int_equal(sim.requests[0].ends + sim.requests[1].ends, 2);
    assert_int_equal(sim.wasted, 0);
    assert_int_equal(sim_pages_used(&sim.workers[0]), 0);
    lam_sched_destroy(sim.sched);
}

/* Not behind a long pass, nor behind a prompt whose end is not near; nor on a worker that takes one
 * step at a time. */
static void test_steps_do_not_go_ahead(void **state)
{
    const uint64_t pass_ns[] = {1, 2 * SIM_LEAD_NS, SIM_AHEAD_NS + 1};
    static struct sim sim;

    (void)state;
    for (unsigned what = 0; what < 3; what++) {
        sim_init(&sim, 1);
        join_caps(&sim, 0, (struct lam_sched_caps){2, 8, 8, 100, what == 0 ? 1 : 2});
        add(&sim, 0, 2, 30);
        warm_up(&sim);
        if (what == 1)
            add(&sim, 1, 40, 2);
        for (unsigned pass = 0; pass < (what == 1 ? 6 : 20); pass++) {
            sim_pump(&sim);
            assert_int_equal(sim.workers[0].n_open, what == 2 && pass == 0 ? 2 : 1);
            while (sim.workers[0].n_open > 0) {
                sim.now_ns += pass_ns[what];
                sim_answer(&sim, &sim.workers[0]);
            }
        }
        lam_sched_destroy(sim.sched);
    }
}

/* One pass of `ns`; afterwards the next one is open. */
static void one_pass(struct sim *sim, uint64_t ns)
{
    sim->now_ns += ns;
    sim_answer(sim, &sim->workers[0]);
    sim_pump(sim);
    assert_int_equal(sim->workers[0].n_open, 1);
}

/* Behind a long pass the next step goes shortly before its end, once such a pass has been seen:
 * with the prompt's next rows. */
static void test_a_step_follows_a_long_pass(void **state)
{
    const uint64_t long_ns = 2 * SIM_AHEAD_NS, longest_ns = 64 * SIM_LEAD_NS;
    static struct sim sim;
    struct lam_sched_step step;
    uint64_t begin_ns;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){2, 8, 8, 100, 2});
    add(&sim, 0, 44, 4);
    sim_pump(&sim);
    assert_true(lam_sched_wake_ns(sim.sched, sim.now_ns) == UINT64_MAX); /* nothing is known */
    one_pass(&sim, long_ns);
    begin_ns = sim.now_ns;
    assert_true(lam_sched_wake_ns(sim.sched, begin_ns) == begin_ns + long_ns - SIM_LEAD_NS);
    assert_false(lam_sched_next(sim.sched, begin_ns + long_ns - SIM_LEAD_NS - 1, &step));
    sim.now_ns += long_ns - SIM_LEAD_NS;
    assert_true(lam_sched_next(sim.sched, sim.now_ns, &step));
    assert_int_equal(step.rows[0].position, 16);
    assert_int_equal(step.rows[0].n_tokens, 8);
    sim_take_step(&sim, &step);
    assert_true(lam_sched_wake_ns(sim.sched, sim.now_ns) == UINT64_MAX); /* two are enough */
    /* What was sent ahead begins with the answer to the one before. Longer passes, longer leads. */
    one_pass(&sim, SIM_LEAD_NS);
    one_pass(&sim, longest_ns);
    assert_true(
        lam_sched_wake_ns(sim.sched, sim.now_ns) == sim.now_ns + longest_ns - 2 * SIM_LEAD_NS);
    sim_answer(&sim, &sim.workers[0]);
    sim_pump(&sim); /* the last 4 rows: half of those that are known */
    assert_true(lam_sched_wake_ns(sim.sched, sim.now_ns) == UINT64_MAX);
    while (sim.workers[0].n_open > 0) {
        sim_answer(&sim, &sim.workers[0]);
        sim_pump(&sim);
    }
    assert_int_equal(sim.requests[0].ends, 1);
    lam_sched_destroy(sim.sched);
}

/* A pass of a token that may be for nothing is not sent behind a long one, but a newcomer's prompt
 * that is there by then, is. */
static void test_nothing_uncertain_follows_a_long_pass(void **state)
{
    static struct sim sim;
    struct lam_sched_step step;
    uint64_t due_ns;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){2, 8, 8, 100, 2});
    add(&sim, 0, 1, 30);
    sim_pump(&sim);
    one_pass(&sim, 2 * SIM_AHEAD_NS);
    due_ns = lam_sched_wake_ns(sim.sched, sim.now_ns);
    assert_true(due_ns < sim.now_ns + 2 * SIM_AHEAD_NS);
    sim.now_ns = due_ns;
    assert_false(lam_sched_next(sim.sched, sim.now_ns, &step));
    assert_true(lam_sched_wake_ns(sim.sched, sim.now_ns) == UINT64_MAX); /* nobody spins */
    add(&sim, 1, 5, 3);
    assert_true(lam_sched_next(sim.sched, sim.now_ns, &step));
    assert_int_equal(step.n_rows, 2);
    assert_true(step.rows[0].sampled);
    lam_sched_destroy(sim.sched);
}

/* A draw that ends a request unforeseen wastes the row behind it, nothing else: its slot is freed
 * and used again by the step after that. */
static void test_an_unforeseen_end(void **state)
{
    static struct sim sim;
    struct lam_sched_step step;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){1, 8, 8, 6, 2});
    add(&sim, 0, 3, 40);
    add(&sim, 1, 3, 40); /* waits for the slot */
    warm_up(&sim);
    sim_pump(&sim);
    assert_int_equal(sim.workers[0].n_open, 2);
    sim.requests[0].stop_at = sim.requests[0].n + 1;
    sim_answer(&sim, &sim.workers[0]);
    assert_int_equal(sim.requests[0].ends, 1);
    sim_pump(&sim);
    assert_int_equal(sim.workers[0].n_open, 2); /* the newcomer's step waits behind the row */
    sim_answer(&sim, &sim.workers[0]);
    assert_int_equal(sim.wasted, 1);
    sim_answer(&sim, &sim.workers[0]);
    assert_int_equal(sim.requests[1].n, 3 + 1);
    lam_sched_cancel(sim.sched, sim.requests[1].seq);
    sim_end(&sim.requests[1]);
    assert_true(lam_sched_next(sim.sched, sim.now_ns, &step));
    assert_int_equal(step.n_rows, 0);
    assert_int_equal(step.n_free, 1);
    lam_sched_destroy(sim.sched);
}

/* Room is reserved for all that a request may generate: the second one waits, and the third behind
 * it. */
static void test_admission_by_pages(void **state)
{
    static struct sim sim;
    struct lam_sched_step step;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){4, 64, 8, 7, 1});
    add(&sim, 0, 30, 10); /* 5 pages */
    add(&sim, 1, 17, 3);  /* 3 pages */
    add(&sim, 2, 1, 1);   /* 1 page, but not before its elder */
    assert_true(lam_sched_next(sim.sched, 1, &step));
    assert_int_equal(step.n_rows, 1);
    assert_int_equal(lam_sched_waiting(sim.sched), 2);
    sim_take_step(&sim, &step);
    lam_sched_cancel(sim.sched, sim.requests[0].seq);
    sim.requests[0].seq = NULL;
    sim_answer(&sim, &sim.workers[0]);
    assert_true(lam_sched_next(sim.sched, 1, &step));
    assert_int_equal(step.n_rows, 2);
    assert_int_equal(lam_sched_waiting(sim.sched), 0);
    lam_sched_destroy(sim.sched);
}

static void test_least_loaded_replica(void **state)
{
    static struct sim sim;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){5, 8, 8, 100, 1});
    join_caps(&sim, 1, (struct lam_sched_caps){5, 8, 8, 100, 1});
    for (uint32_t i = 0; i < 4; i++)
        add(&sim, i, 1, 5);
    sim_pump(&sim);
    assert_int_equal(lam_sched_load(sim.workers[0].handle).sequences, 2);
    assert_int_equal(lam_sched_load(sim.workers[1].handle).sequences, 2);
    lam_sched_destroy(sim.sched);
}

/* Nobody is attached: a request waits for the limit, not a nanosecond longer, counted from the
 * loss. */
static void test_orphans(void **state)
{
    static struct sim sim;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){2, 8, 8, 100, 1});
    add(&sim, 0, 5, 10);
    sim_pump(&sim);
    sim.now_ns = 10 * LAM_NS_PER_S;
    sim_lose(&sim, &sim.workers[0]);
    assert_int_equal(lam_sched_waiting(sim.sched), 1);
    sim.now_ns += 3 * LAM_NS_PER_S - 1;
    sim_apply(&sim, lam_sched_tick(sim.sched, sim.now_ns));
    assert_int_equal(sim.failed, 0);
    sim.now_ns++;
    sim_apply(&sim, lam_sched_tick(sim.sched, sim.now_ns));
    assert_int_equal(sim.failed, 1);
    assert_int_equal(sim.requests[0].ends, 1);
    lam_sched_destroy(sim.sched);
}

/* A request that takes worker after worker down is ended before it takes the next one. */
static void test_deadly_request(void **state)
{
    static struct sim sim;

    (void)state;
    sim_init(&sim, 1);
    add(&sim, 0, 5, 10);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(sim.failed, 0);
        memset(&sim.workers[0], 0, sizeof sim.workers[0]);
        join_caps(&sim, 0, (struct lam_sched_caps){2, 8, 8, 100, 1});
        sim_pump(&sim);
        sim_lose(&sim, &sim.workers[0]);
    }
    assert_int_equal(sim.failed, 1);
    lam_sched_destroy(sim.sched);
}

/* A token between two deaths clears the request: only deaths in a row count. */
static void test_deaths_in_a_row(void **state)
{
    static struct sim sim;

    (void)state;
    sim_init(&sim, 1);
    add(&sim, 0, 5, 10);
    for (unsigned i = 0; i < 6; i++) {
        memset(&sim.workers[0], 0, sizeof sim.workers[0]);
        join_caps(&sim, 0, (struct lam_sched_caps){2, 64, 8, 100, 1});
        sim_pump(&sim);
        sim_answer(&sim, &sim.workers[0]);
        sim_pump(&sim);
        sim_lose(&sim, &sim.workers[0]);
    }
    assert_int_equal(sim.failed, 0);
    assert_int_equal(sim.requests[0].n, 5 + 6);
    lam_sched_destroy(sim.sched);
}

/* Who came first is served first, also after a worker was lost. */
static void test_replays_keep_their_place(void **state)
{
    static struct sim sim;
    struct lam_sched_step step;

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){2, 64, 8, 100, 1});
    for (uint32_t i = 0; i < 4; i++)
        add(&sim, i, 10 + i, 10);
    sim_pump(&sim);
    sim_lose(&sim, &sim.workers[0]);
    memset(&sim.workers[0], 0, sizeof sim.workers[0]);
    join_caps(&sim, 0, (struct lam_sched_caps){2, 64, 8, 100, 1});
    assert_true(lam_sched_next(sim.sched, 1, &step));
    assert_int_equal(step.n_rows, 2);
    assert_int_equal(step.rows[0].n_prompt, 10);
    assert_int_equal(step.rows[1].n_prompt, 11);
    lam_sched_destroy(sim.sched);
}

/* Answers that do not fit are refused whole; the right one is still taken afterwards. */
static void test_bad_answers(void **state)
{
    static struct sim sim;
    struct sim_worker *worker = &sim.workers[0];
    struct lam_sched_actions actions;
    struct lam_sched_sample samples[2];
    struct lam_err err = {0};
    uint64_t step_id;
    const struct {
        uint64_t id_delta;
        uint32_t n;
        struct lam_sched_sample delta; /* of the second sample */
    } bad[] = {
        {1, 2, {0, 0, 0}},                  /* another step */
        {0, 1, {0, 0, 0}},                  /* a token is missing */
        {0, 2, {1, 0, 0}},                  /* a slot that is not in the step */
        {0, 2, {UINT32_MAX, 0, 0}},         /* the first slot once more */
        {0, 2, {0, 1, 0}},                  /* another epoch */
        {0, 2, {0, 0, (int32_t)SIM_VOCAB}}, /* no such token */
        {0, 2, {0, 0, -(int32_t)SIM_VOCAB}},
    };

    (void)state;
    sim_init(&sim, 1);
    join_caps(&sim, 0, (struct lam_sched_caps){4, 8, 8, 100, 1});
    add(&sim, 0, 1, 10);
    add(&sim, 1, 2, 10);
    sim_pump(&sim);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memcpy(samples, worker->steps[0].samples, sizeof samples);
        samples[1].slot += bad[i].delta.slot;
        samples[1].epoch += bad[i].delta.epoch;
        samples[1].token += bad[i].delta.token;
        assert_int_equal(
            lam_sched_result(sim.sched, worker->handle, worker->steps[0].id + bad[i].id_delta,
                samples, bad[i].n, SIM_VOCAB, 1, &actions, &err),
            LAM_INVALID_ARGUMENT);
        assert_true(strlen(err.text) > 20);
    }
    memcpy(samples, worker->steps[0].samples, sizeof samples);
    step_id = worker->steps[0].id;
    sim_answer(&sim, worker);
    assert_int_equal(sim.requests[1].n, 3);
    assert_int_equal(lam_sched_result(sim.sched, worker->handle, step_id, samples, 2, SIM_VOCAB, 1,
                         &actions, &err),
        LAM_INVALID_ARGUMENT); /* no step is open */
    lam_sched_destroy(sim.sched);
}

static void test_no_memory(void **state)
{
    static struct sim sim;
    struct lam_err err = {0};
    struct lam_sched_config config = {8, 1, 1, 1, 3};
    struct lam_sched_caps caps = {2, 8, 8, 100, 2};
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
              lam_sched_join(sched, &caps, &sim, &worker, &err) == LAM_OK &&
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
        cmocka_unit_test(test_prompts_one_after_the_other),
        cmocka_unit_test(test_a_long_prompt_comes_to_its_end),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_cancel_frees_at_once),
        cmocka_unit_test(test_steps_go_ahead),
        cmocka_unit_test(test_steps_do_not_go_ahead),
        cmocka_unit_test(test_a_step_follows_a_long_pass),
        cmocka_unit_test(test_nothing_uncertain_follows_a_long_pass),
        cmocka_unit_test(test_an_unforeseen_end),
        cmocka_unit_test(test_admission_by_pages),
        cmocka_unit_test(test_least_loaded_replica),
        cmocka_unit_test(test_orphans),
        cmocka_unit_test(test_deadly_request),
        cmocka_unit_test(test_deaths_in_a_row),
        cmocka_unit_test(test_replays_keep_their_place),
        cmocka_unit_test(test_bad_answers),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
