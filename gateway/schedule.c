/*
 * schedule: see schedule.h.
 *
 * A sequence is in the queue (worker == NULL) or in a slot. Its tokens are one array, prompt first,
 * with room for all that it may generate; `n_done` of them have been given to the worker. So a
 * prompt, a replay and a decode step are one case: rows [n_done, n_tokens) are due, and the pass
 * that reaches n_tokens samples. A step that is sent ahead gives one row more, of the token that
 * the worker is drawing: only the worker knows it by then.
 *
 * Invariants: pages_free + the pages of the slots' sequences == caps.pages; the queue is sorted by
 * arrival; actions has room for one action of every request, so events never allocate.
 */
#include "gateway/schedule.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "common/mem.h"
#include "gateway/pass.h"

struct lam_sched {
    struct lam_sched_config config;
    struct lam_sched_seq *first, *last; /* the queue */
    uint32_t n_waiting;
    uint32_t n_requests;
    uint64_t arrivals;
    uint64_t steps;
    struct lam_sched_worker *workers;
    uint64_t deserted_ns; /* when the last worker left */
    struct lam_sched_action *actions;
    uint32_t n_actions;
    uint32_t actions_cap;
};

/* ---- the queue ---- */

static void queue_remove(struct lam_sched *sched, struct lam_sched_seq *seq)
{
    if (seq->prev)
        seq->prev->next = seq->next;
    else
        sched->first = seq->next;
    if (seq->next)
        seq->next->prev = seq->prev;
    else
        sched->last = seq->prev;
    seq->prev = seq->next = NULL;
    sched->n_waiting--;
}

/* At its place by arrival: a new one at the end, a replayed one before everybody who came later. */
static void queue_insert(struct lam_sched *sched, struct lam_sched_seq *seq)
{
    struct lam_sched_seq *after = sched->last;

    while (after && after->arrival > seq->arrival)
        after = after->prev;
    seq->prev = after;
    seq->next = after ? after->next : sched->first;
    if (seq->prev)
        seq->prev->next = seq;
    else
        sched->first = seq;
    if (seq->next)
        seq->next->prev = seq;
    else
        sched->last = seq;
    sched->n_waiting++;
}

/* ---- sequences and slots ---- */

static void slot_leave(struct lam_sched_seq *seq)
{
    struct lam_sched_worker *worker = seq->worker;
    struct lam_pass_slot *slot = &worker->slots[seq->slot];

    assert(slot->seq == seq);
    slot->seq = NULL;
    if (!slot->dirty)
        worker->n_dirty++;
    slot->dirty = true;
    worker->n_seqs--;
    worker->pages_free += seq->pages;
    seq->worker = NULL;
}

static void slot_enter(struct lam_sched_worker *worker, struct lam_sched_seq *seq, uint32_t pages)
{
    uint32_t index = 0;

    while (worker->slots[index].seq)
        index++;
    assert(index < worker->caps.max_sequences);
    worker->slots[index].seq = seq;
    worker->slots[index].epoch++;
    worker->n_seqs++;
    worker->pages_free -= pages;
    seq->worker = worker;
    seq->slot = index;
    seq->pages = pages;
    seq->n_done = 0;
    seq->n_asked = 0;
}

static void seq_free(struct lam_sched *sched, struct lam_sched_seq *seq)
{
    sched->n_requests--;
    lam_free(seq->tokens);
    lam_free(seq);
}

static struct lam_sched_action *action_push(
    struct lam_sched *sched, enum lam_sched_kind kind, const struct lam_sched_seq *seq)
{
    struct lam_sched_action *action;

    assert(sched->n_actions < sched->actions_cap);
    action = &sched->actions[sched->n_actions++];
    *action =
        (struct lam_sched_action){.kind = kind, .user = seq->user, .started_ns = seq->started_ns};
    return action;
}

/* Ends a sequence that is in the queue or in no list at all. */
static void seq_fail(struct lam_sched *sched, struct lam_sched_seq *seq, const char *reason)
{
    struct lam_sched_action *action = action_push(sched, LAM_SCHED_FAILED, seq);

    action->status = LAM_UNAVAILABLE;
    action->reason = reason;
    seq_free(sched, seq);
}

static struct lam_sched_actions actions_of(const struct lam_sched *sched)
{
    return (struct lam_sched_actions){.items = sched->actions, .n = sched->n_actions};
}

static uint32_t pages_of(const struct lam_sched_worker *worker, const struct lam_sched_seq *seq)
{
    uint32_t page_tokens = worker->caps.page_tokens;

    return seq->n_tokens_max / page_tokens + (seq->n_tokens_max % page_tokens != 0);
}

/* The least loaded worker with room; among equals the one that joined first. */
static struct lam_sched_worker *find_worker(
    const struct lam_sched *sched, const struct lam_sched_seq *seq)
{
    struct lam_sched_worker *best = NULL;

    for (struct lam_sched_worker *worker = sched->workers; worker; worker = worker->next) {
        if (worker->n_seqs == worker->caps.max_sequences)
            continue;
        if (worker->pages_free < pages_of(worker, seq))
            continue;
        if (!best || worker->n_seqs < best->n_seqs)
            best = worker;
    }
    return best;
}

/* Strictly in order: a large request at the front is not starved by small ones behind it. */
static void admit(struct lam_sched *sched)
{
    while (sched->first) {
        struct lam_sched_seq *seq = sched->first;
        struct lam_sched_worker *worker = find_worker(sched, seq);
        if (!worker)
            return;
        queue_remove(sched, seq);
        slot_enter(worker, seq, pages_of(worker, seq));
    }
}

/* ---- answers ---- */

static void apply_token(struct lam_sched *sched, struct lam_sched_seq *seq, int32_t token)
{
    struct lam_sched_action *action = action_push(sched, LAM_SCHED_TOKEN, seq);

    assert(seq->n_asked > 0 && seq->n_tokens < seq->n_tokens_max);
    seq->tokens[seq->n_tokens++] = token;
    seq->n_asked--;
    seq->deaths = 0;
    action->token = token;
    action->last = seq->n_tokens == seq->n_tokens_max;
    if (action->last) {
        slot_leave(seq);
        seq_free(sched, seq);
    }
}

static void worker_free(struct lam_sched_worker *worker)
{
    if (!worker)
        return;
    lam_free(worker->slots);
    for (uint32_t i = 0; i < LAM_SCHED_STEPS_MAX; i++)
        lam_free(worker->steps[i].rows);
    lam_free(worker->answered);
    lam_free(worker->free);
    lam_free(worker);
}

/* ---- the contract ---- */

enum lam_status lam_sched_create(
    const struct lam_sched_config *config, struct lam_sched **ret_sched, struct lam_err *err)
{
    struct lam_sched *sched = lam_calloc(1, sizeof *sched);

    if (!sched)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the scheduler");
    sched->config = *config;
    *ret_sched = sched;
    return LAM_OK;
}

void lam_sched_destroy(struct lam_sched *sched)
{
    if (!sched)
        return;
    for (struct lam_sched_worker *worker = sched->workers; worker;) {
        struct lam_sched_worker *next = worker->next;
        for (uint32_t i = 0; i < worker->caps.max_sequences; i++)
            if (worker->slots[i].seq)
                seq_free(sched, worker->slots[i].seq);
        worker_free(worker);
        worker = next;
    }
    while (sched->first) {
        struct lam_sched_seq *seq = sched->first;
        queue_remove(sched, seq);
        seq_free(sched, seq);
    }
    lam_free(sched->actions);
    lam_free(sched);
}

static bool reserve_action(struct lam_sched *sched)
{
    struct lam_sched_action *grown;
    uint32_t cap = sched->actions_cap ? 2 * sched->actions_cap : 16;

    if (sched->n_requests < sched->actions_cap)
        return true;
    grown = lam_realloc(sched->actions, cap, sizeof *grown);
    if (!grown)
        return false;
    sched->actions = grown;
    sched->actions_cap = cap;
    return true;
}

enum lam_status lam_sched_add(struct lam_sched *sched, const struct lam_sched_request *request,
    uint64_t now_ns, struct lam_sched_seq **ret_seq, struct lam_err *err)
{
    struct lam_sched_seq *seq;

    assert(request->n_prompt >= 1 && request->max_tokens >= 1);
    assert(request->max_tokens <= UINT32_MAX - request->n_prompt);
    if (sched->n_waiting >= sched->config.waiting_max)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "%u requests are waiting, which is the limit (--max-waiting): try again later",
            sched->n_waiting);
    seq = lam_calloc(1, sizeof *seq);
    if (!seq)
        goto fail;
    seq->n_prompt = seq->n_tokens = request->n_prompt;
    seq->n_tokens_max = request->n_prompt + request->max_tokens;
    seq->tokens = lam_calloc(seq->n_tokens_max, sizeof *seq->tokens);
    if (!seq->tokens || !reserve_action(sched))
        goto fail;
    memcpy(seq->tokens, request->prompt, request->n_prompt * sizeof *seq->tokens);
    seq->sampling = request->sampling;
    seq->user = request->user;
    seq->arrival = sched->arrivals++;
    seq->arrived_ns = now_ns;
    sched->n_requests++;
    queue_insert(sched, seq);
    *ret_seq = seq;
    return LAM_OK;
fail:
    if (seq)
        lam_free(seq->tokens);
    lam_free(seq);
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a request of %u tokens",
        request->n_prompt + request->max_tokens);
}

void lam_sched_cancel(struct lam_sched *sched, struct lam_sched_seq *seq)
{
    if (seq->worker)
        slot_leave(seq);
    else
        queue_remove(sched, seq);
    seq_free(sched, seq);
}

void lam_sched_pause(struct lam_sched_seq *seq, bool paused)
{
    seq->paused = paused;
}

enum lam_status lam_sched_join(struct lam_sched *sched, const struct lam_sched_caps *caps,
    void *user, struct lam_sched_worker **ret_worker, struct lam_err *err)
{
    struct lam_sched_worker *worker = lam_calloc(1, sizeof *worker);
    struct lam_sched_worker **end = &sched->workers;

    assert(caps->max_sequences >= 1 && caps->max_rows >= 1);
    assert(caps->page_tokens >= 1 && caps->pages >= 1);
    assert(caps->max_steps >= 1 && caps->max_steps <= LAM_SCHED_STEPS_MAX);
    if (!worker)
        goto fail;
    worker->caps = *caps;
    worker->user = user;
    worker->pages_free = caps->pages;
    worker->slots = lam_calloc(caps->max_sequences, sizeof *worker->slots);
    worker->answered = lam_calloc(caps->max_sequences, sizeof *worker->answered);
    worker->free = lam_calloc(caps->max_sequences, sizeof *worker->free);
    if (!worker->slots || !worker->answered || !worker->free)
        goto fail;
    for (uint32_t i = 0; i < caps->max_steps; i++) {
        worker->steps[i].rows = lam_calloc(caps->max_sequences, sizeof *worker->steps[i].rows);
        if (!worker->steps[i].rows)
            goto fail;
    }
    while (*end)
        end = &(*end)->next;
    *end = worker;
    *ret_worker = worker;
    return LAM_OK;
fail:
    worker_free(worker);
    return lam_fail(
        err, LAM_RESOURCE_EXHAUSTED, "no memory for a worker of %u sequences", caps->max_sequences);
}

struct lam_sched_actions lam_sched_lose(
    struct lam_sched *sched, struct lam_sched_worker *worker, uint64_t now_ns)
{
    struct lam_sched_worker **link = &sched->workers;

    sched->n_actions = 0;
    while (*link != worker)
        link = &(*link)->next;
    *link = worker->next;
    if (!sched->workers)
        sched->deserted_ns = now_ns;
    for (uint32_t i = 0; i < worker->caps.max_sequences; i++) {
        struct lam_sched_seq *seq = worker->slots[i].seq;
        if (!seq)
            continue;
        slot_leave(seq);
        if (++seq->deaths >= sched->config.deaths_max)
            seq_fail(sched, seq, "its workers were lost several times in a row; try again later");
        else
            queue_insert(sched, seq);
    }
    worker_free(worker);
    return actions_of(sched);
}

enum lam_status lam_sched_result(struct lam_sched *sched, struct lam_sched_worker *worker,
    uint64_t step_id, const struct lam_sched_sample *samples, uint32_t n_samples, uint32_t n_vocab,
    uint64_t now_ns, struct lam_sched_actions *ret_actions, struct lam_err *err)
{
    enum lam_status status = lam_pass_check(worker, step_id, samples, n_samples, n_vocab, err);

    if (status != LAM_OK)
        return status;
    sched->n_actions = 0;
    lam_pass_close(worker, now_ns);
    for (uint32_t i = 0; i < n_samples; i++) {
        struct lam_pass_slot *slot = &worker->slots[samples[i].slot];
        /* The request may have ended during the pass, and its slot may have a new user. */
        if (slot->seq && slot->epoch == samples[i].epoch)
            apply_token(sched, slot->seq, samples[i].token);
    }
    *ret_actions = actions_of(sched);
    return LAM_OK;
}

struct lam_sched_actions lam_sched_tick(struct lam_sched *sched, uint64_t now_ns)
{
    struct lam_sched_seq *next;

    sched->n_actions = 0;
    for (struct lam_sched_seq *seq = sched->first; seq && !sched->workers; seq = next) {
        uint64_t since_ns = seq->arrived_ns;
        next = seq->next;
        if (since_ns < sched->deserted_ns)
            since_ns = sched->deserted_ns;
        if (now_ns - since_ns < sched->config.orphan_limit_ns)
            continue;
        queue_remove(sched, seq);
        seq_fail(sched, seq, "no worker is attached to the gateway; start one and try again");
    }
    return actions_of(sched);
}

bool lam_sched_next(struct lam_sched *sched, uint64_t now_ns, struct lam_sched_step *ret_step)
{
    admit(sched);
    for (struct lam_sched_worker *worker = sched->workers; worker; worker = worker->next)
        if (lam_pass_plan(worker, sched->steps + 1, &sched->config, now_ns, ret_step)) {
            sched->steps++;
            return true;
        }
    return false;
}

uint64_t lam_sched_wake_ns(const struct lam_sched *sched, uint64_t now_ns)
{
    uint64_t wake_ns = UINT64_MAX;

    for (const struct lam_sched_worker *worker = sched->workers; worker; worker = worker->next) {
        uint64_t due_ns = lam_pass_due_ns(worker, &sched->config);
        /* What is due has had its chance: then it is not time that is missing. */
        if (worker->caps.max_steps > 1 && due_ns > now_ns && due_ns < wake_ns)
            wake_ns = due_ns;
    }
    return wake_ns;
}

uint32_t lam_sched_waiting(const struct lam_sched *sched)
{
    return sched->n_waiting;
}

struct lam_sched_load lam_sched_load(const struct lam_sched_worker *worker)
{
    struct lam_sched_load load = {
        .sequences = worker->n_seqs, .passes = worker->passes, .rows = worker->rows_done};

    for (uint32_t i = 0; i < worker->caps.max_sequences; i++)
        if (worker->slots[i].seq)
            load.kv_tokens += worker->slots[i].seq->n_done;
    return load;
}
