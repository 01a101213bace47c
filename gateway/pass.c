/* pass: see pass.h. */
#include "gateway/pass.h"

static uint32_t rows_due(const struct lam_pass_slot *slot)
{
    if (!slot->seq || slot->seq->paused)
        return 0;
    return slot->seq->n_tokens - slot->seq->n_done - slot->given;
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

/* The rest goes to prompts: equal shares, and what one does not need goes to the others. */
static void share_prompt_rows(struct lam_sched_worker *worker, uint32_t left)
{
    uint32_t n_slots = worker->caps.max_sequences;

    while (left > 0) {
        uint32_t n_hungry = 0;
        uint32_t share;
        for (uint32_t i = 0; i < n_slots; i++)
            n_hungry += rows_due(&worker->slots[i]) > 0;
        if (n_hungry == 0)
            return;
        share = left >= n_hungry ? left / n_hungry : 1;
        for (uint32_t i = 0; i < n_slots && left > 0; i++) {
            uint32_t due = rows_due(&worker->slots[i]);
            uint32_t take = share < due ? share : due;
            worker->slots[i].given += take;
            left -= take;
        }
    }
}

static void take_rows(struct lam_sched_worker *worker, uint32_t index, uint64_t now_ns)
{
    struct lam_pass_slot *slot = &worker->slots[index];
    struct lam_sched_seq *seq = slot->seq;

    worker->rows[worker->n_rows++] = (struct lam_sched_rows){
        .slot = index,
        .epoch = slot->epoch,
        .position = seq->n_done,
        .tokens = seq->tokens + seq->n_done,
        .n_tokens = slot->given,
        .sample = seq->n_done + slot->given == seq->n_tokens,
        .sampling = &seq->sampling,
        .n_prompt = seq->n_prompt,
    };
    seq->n_done += slot->given;
    if (seq->started_ns == 0)
        seq->started_ns = now_ns;
}

bool lam_pass_plan(struct lam_sched_worker *worker, uint64_t step_id, uint64_t now_ns,
    struct lam_sched_step *ret_step)
{
    uint32_t n_free = 0;

    share_prompt_rows(worker, share_first_rows(worker));
    worker->n_rows = 0;
    for (uint32_t i = 0; i < worker->caps.max_sequences; i++) {
        if (worker->slots[i].dirty)
            worker->free[n_free++] = i;
        worker->slots[i].dirty = false;
        if (worker->slots[i].given > 0)
            take_rows(worker, i, now_ns);
    }
    worker->n_dirty = 0;
    if (worker->n_rows == 0 && n_free == 0)
        return false;
    worker->busy = true;
    worker->step_id = step_id;
    *ret_step = (struct lam_sched_step){
        .worker_user = worker->user,
        .id = worker->step_id,
        .rows = worker->rows,
        .n_rows = worker->n_rows,
        .free = worker->free,
        .n_free = n_free,
    };
    return true;
}

static enum lam_status check_sample(struct lam_sched_worker *worker,
    const struct lam_sched_sample *sample, uint32_t n_vocab, struct lam_err *err)
{
    for (uint32_t i = 0; i < worker->n_rows; i++) {
        const struct lam_sched_rows *rows = &worker->rows[i];
        if (rows->slot != sample->slot || rows->epoch != sample->epoch)
            continue;
        if (!rows->sample || worker->answered[i])
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the answer to step %llu has a token for slot %u that was not asked for",
                (unsigned long long)worker->step_id, sample->slot);
        if (sample->token < 0 || (uint32_t)sample->token >= n_vocab)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the answer to step %llu has token %d; the vocabulary is 0..%u",
                (unsigned long long)worker->step_id, sample->token, n_vocab - 1);
        worker->answered[i] = true;
        return LAM_OK;
    }
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "the answer to step %llu names slot %u, epoch %u, which is not in the step",
        (unsigned long long)worker->step_id, sample->slot, sample->epoch);
}

enum lam_status lam_pass_check(struct lam_sched_worker *worker, uint64_t step_id,
    const struct lam_sched_sample *samples, uint32_t n_samples, uint32_t n_vocab,
    struct lam_err *err)
{
    if (!worker->busy || step_id != worker->step_id)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "an answer to step %llu, but %s is open",
            (unsigned long long)step_id, worker->busy ? "another step" : "no step");
    for (uint32_t i = 0; i < worker->n_rows; i++)
        worker->answered[i] = false;
    for (uint32_t i = 0; i < n_samples; i++) {
        enum lam_status status = check_sample(worker, &samples[i], n_vocab, err);
        if (status != LAM_OK)
            return status;
    }
    for (uint32_t i = 0; i < worker->n_rows; i++)
        if (worker->rows[i].sample && !worker->answered[i])
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the answer to step %llu has no token for slot %u, which asked for one",
                (unsigned long long)step_id, worker->rows[i].slot);
    return LAM_OK;
}
