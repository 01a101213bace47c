/* pass: see pass.h. */
#include "gateway/pass.h"

#include <assert.h>
#include <stddef.h>

/* One pass of so many is for whoever came first: a long prompt among short ones that go on arriving
 * has that share of the rows at least. */
#define OLDEST_EVERY 4u

/* A pass takes as long as the last one whose tokens were as many, to within this part of them. */
#define ALIKE_PART 8u

/* The lead of a step is at least this part of the pass before: passes of a kind differ by more than
 * that only where it does not matter. */
#define LEAD_PART 32u

/* Rows that can be computed: tokens that are known, or the one that is being drawn. That one is
 * left out when the draw is known to be the last. */
static uint32_t rows_due(const struct lam_pass_slot *slot)
{
    const struct lam_sched_seq *seq = slot->seq;

    if (!seq || seq->paused)
        return 0;
    if (seq->n_asked == 0)
        return seq->n_tokens - seq->n_done - slot->given;
    return seq->n_tokens + seq->n_asked < seq->n_tokens_max ? 1 - slot->given : 0;
}

/* One row for everybody, beginning where the last pass stopped. Returns the rows that are left. */
static uint32_t share_first_rows(struct lam_sched_worker *worker)
{
    uint32_t n_slots = worker->caps.max_sequences;
    uint32_t left = worker->caps.max_rows;
    uint32_t start = worker->cursor;

    for (uint32_t i = 0; i < n_slots; i++)
        worker->slots[i].given = 0;
    for (uint32_t i = 0; i < n_slots && left > 0; i++) {
        uint32_t index = (start + i) % n_slots;
        if (rows_due(&worker->slots[index]) == 0)
            continue;
        worker->slots[index].given = 1;
        worker->cursor = (index + 1) % n_slots;
        left--;
    }
    return left;
}

/* Whose turn comes before: the shorter rest, or in an OLDEST_EVERY-th pass the older request. */
static bool goes_before(
    const struct lam_pass_slot *a, const struct lam_pass_slot *b, bool oldest_first)
{
    uint32_t due_a = rows_due(a), due_b = rows_due(b);

    if (!oldest_first && due_a != due_b)
        return due_a < due_b;
    return a->seq->arrival < b->seq->arrival;
}

/* The rest goes to prompts, one after the other: what a prompt shares with others in many passes
 * ends later for all of them and sooner for none. */
static void share_prompt_rows(struct lam_sched_worker *worker, uint32_t left)
{
    uint32_t n_slots = worker->caps.max_sequences;
    bool oldest_first = worker->planned % OLDEST_EVERY == OLDEST_EVERY - 1;

    while (left > 0) {
        struct lam_pass_slot *next = NULL;
        uint32_t due;
        for (uint32_t i = 0; i < n_slots; i++)
            if (rows_due(&worker->slots[i]) > 0 &&
                (!next || goes_before(&worker->slots[i], next, oldest_first)))
                next = &worker->slots[i];
        if (!next)
            return;
        due = rows_due(next);
        next->given += left < due ? left : due;
        left -= left < due ? left : due;
    }
}

static void take_rows(
    struct lam_sched_worker *worker, struct lam_pass_step *step, uint32_t index, uint64_t now_ns)
{
    struct lam_pass_slot *slot = &worker->slots[index];
    struct lam_sched_seq *seq = slot->seq;
    bool drawn = seq->n_asked > 0;
    bool sample = drawn || seq->n_done + slot->given == seq->n_tokens;

    step->rows[step->n_rows++] = (struct lam_sched_rows){
        .slot = index,
        .epoch = slot->epoch,
        .position = seq->n_done,
        .tokens = drawn ? NULL : seq->tokens + seq->n_done,
        .n_tokens = slot->given,
        .sampled = drawn,
        .sample = sample,
        .sampling = &seq->sampling,
        .n_prompt = seq->n_prompt,
    };
    step->decodes = step->decodes && slot->given == 1;
    step->n_tokens += slot->given;
    seq->n_done += slot->given;
    seq->n_asked += sample;
    if (seq->started_ns == 0)
        seq->started_ns = now_ns;
}

static uint32_t size_class(uint32_t n_tokens)
{
    return 31 - (uint32_t)__builtin_clz(n_tokens);
}

/* When the oldest step got its turn. */
static uint64_t begin_ns(const struct lam_sched_worker *worker)
{
    uint64_t sent_ns = worker->steps[0].sent_ns;

    return sent_ns > worker->answered_ns ? sent_ns : worker->answered_ns;
}

uint64_t lam_pass_due_ns(
    const struct lam_sched_worker *worker, const struct lam_sched_config *config)
{
    uint32_t n_tokens = worker->n_open == 1 ? worker->steps[0].n_tokens : 0;
    uint64_t lead_ns = config->ahead_lead_ns;
    const struct lam_pass_time *seen;

    if (n_tokens == 0 || lead_ns == 0)
        return UINT64_MAX;
    seen = &worker->times[size_class(n_tokens)];
    if (n_tokens > seen->n_tokens + seen->n_tokens / ALIKE_PART ||
        seen->n_tokens > n_tokens + n_tokens / ALIKE_PART)
        return UINT64_MAX;
    if (lead_ns < seen->ns / LEAD_PART)
        lead_ns = seen->ns / LEAD_PART;
    return begin_ns(worker) + (seen->ns > lead_ns ? seen->ns - lead_ns : 0);
}

/* Rows that are certainly wanted: of a prompt, or of a token that is known. */
static bool has_known_rows(const struct lam_sched_worker *worker)
{
    for (uint32_t i = 0; i < worker->caps.max_sequences; i++) {
        const struct lam_sched_seq *seq = worker->slots[i].seq;
        if (seq && !seq->paused && seq->n_asked == 0 && seq->n_done < seq->n_tokens)
            return true;
    }
    return false;
}

/* Whether a step may be sent now. Ahead of an answer at once only behind a step that is known to be
 * short: a newcomer waits for what has been sent. Behind a longer one when its end is near, and not
 * for a row that may turn out to be for nothing if a pass for nothing is long. */
static bool may_send(
    const struct lam_sched_worker *worker, const struct lam_sched_config *config, uint64_t now_ns)
{
    bool quick = worker->pass_ns > 0 && worker->pass_ns <= config->ahead_limit_ns;

    if (worker->n_open == 0)
        return worker->n_seqs > 0 || worker->n_dirty > 0;
    if (worker->n_open == worker->caps.max_steps || worker->n_seqs == 0)
        return false;
    if (quick && worker->steps[0].decodes)
        return true;
    return now_ns >= lam_pass_due_ns(worker, config) && (quick || has_known_rows(worker));
}

static bool has_rows(const struct lam_sched_worker *worker)
{
    for (uint32_t i = 0; i < worker->caps.max_sequences; i++)
        if (worker->slots[i].given > 0)
            return true;
    return false;
}

bool lam_pass_plan(struct lam_sched_worker *worker, uint64_t step_id,
    const struct lam_sched_config *config, uint64_t now_ns, struct lam_sched_step *ret_step)
{
    struct lam_pass_step *step = &worker->steps[worker->n_open];
    uint32_t n_free = 0;

    if (!may_send(worker, config, now_ns))
        return false;
    share_prompt_rows(worker, share_first_rows(worker));
    if (!has_rows(worker) && (worker->n_dirty == 0 || worker->n_open > 0))
        return false;
    *step = (struct lam_pass_step){
        .id = step_id, .sent_ns = now_ns, .rows = step->rows, .decodes = has_rows(worker)};
    for (uint32_t i = 0; i < worker->caps.max_sequences; i++) {
        if (worker->slots[i].dirty)
            worker->free[n_free++] = i;
        worker->slots[i].dirty = false;
        if (worker->slots[i].given > 0)
            take_rows(worker, step, i, now_ns);
    }
    worker->n_dirty = 0;
    worker->n_open++;
    worker->planned++;
    *ret_step = (struct lam_sched_step){
        .worker_user = worker->user,
        .id = step_id,
        .rows = step->rows,
        .n_rows = step->n_rows,
        .free = worker->free,
        .n_free = n_free,
    };
    return true;
}

static enum lam_status check_sample(struct lam_sched_worker *worker,
    const struct lam_sched_sample *sample, uint32_t n_vocab, struct lam_err *err)
{
    const struct lam_pass_step *step = &worker->steps[0];

    for (uint32_t i = 0; i < step->n_rows; i++) {
        const struct lam_sched_rows *rows = &step->rows[i];
        if (rows->slot != sample->slot || rows->epoch != sample->epoch)
            continue;
        if (!rows->sample || worker->answered[i])
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the answer to step %llu has a token for slot %u that was not asked for",
                (unsigned long long)step->id, sample->slot);
        if (sample->token < 0 || (uint32_t)sample->token >= n_vocab)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the answer to step %llu has token %d; the vocabulary is 0..%u",
                (unsigned long long)step->id, sample->token, n_vocab - 1);
        worker->answered[i] = true;
        return LAM_OK;
    }
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "the answer to step %llu names slot %u, epoch %u, which is not in the step",
        (unsigned long long)step->id, sample->slot, sample->epoch);
}

enum lam_status lam_pass_check(struct lam_sched_worker *worker, uint64_t step_id,
    const struct lam_sched_sample *samples, uint32_t n_samples, uint32_t n_vocab,
    struct lam_err *err)
{
    const struct lam_pass_step *step = &worker->steps[0];

    if (worker->n_open == 0 || step_id != step->id)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "an answer to step %llu, but %s is next",
            (unsigned long long)step_id, worker->n_open > 0 ? "another step" : "no step");
    for (uint32_t i = 0; i < step->n_rows; i++)
        worker->answered[i] = false;
    for (uint32_t i = 0; i < n_samples; i++) {
        enum lam_status status = check_sample(worker, &samples[i], n_vocab, err);
        if (status != LAM_OK)
            return status;
    }
    for (uint32_t i = 0; i < step->n_rows; i++)
        if (step->rows[i].sample && !worker->answered[i])
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the answer to step %llu has no token for slot %u, which asked for one",
                (unsigned long long)step_id, step->rows[i].slot);
    return LAM_OK;
}

void lam_pass_close(struct lam_sched_worker *worker, uint64_t now_ns)
{
    struct lam_pass_step step = worker->steps[0];
    uint64_t took_ns = now_ns > begin_ns(worker) ? now_ns - begin_ns(worker) : 1;

    assert(worker->n_open > 0);
    worker->rows_done += step.n_tokens;
    worker->passes += step.n_rows > 0;
    if (step.decodes)
        worker->pass_ns = took_ns;
    if (step.n_tokens > 0)
        worker->times[size_class(step.n_tokens)] = (struct lam_pass_time){step.n_tokens, took_ns};
    worker->answered_ns = now_ns;
    worker->n_open--;
    for (uint32_t i = 0; i < worker->n_open; i++)
        worker->steps[i] = worker->steps[i + 1];
    worker->steps[worker->n_open] = (struct lam_pass_step){.rows = step.rows};
}
