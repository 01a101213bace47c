/*
 * pass: the rows of one pass, private to the scheduler: the structs that it works on, how rows are
 * shared out, and how an answer is held against what was asked.
 */
#ifndef LAMINAR_GATEWAY_PASS_H
#define LAMINAR_GATEWAY_PASS_H

#include "gateway/schedule.h"

struct lam_sched_seq {
    struct lam_sched_seq *prev, *next; /* in the queue */
    struct lam_sched_worker *worker;
    uint32_t slot;
    uint32_t pages;
    int32_t *tokens; /* [n_prompt + max_tokens] */
    uint32_t n_prompt;
    uint32_t n_tokens;
    uint32_t n_tokens_max;
    uint32_t n_done;
    uint32_t n_asked; /* samples without an answer; then n_done == n_tokens + n_asked - 1 */
    uint32_t deaths;  /* workers lost under it since its last token */
    bool paused;
    struct lam_sample_params sampling;
    uint64_t arrival; /* number of the request: its place in the queue */
    uint64_t arrived_ns;
    uint64_t started_ns;
    void *user;
};

struct lam_pass_slot {
    struct lam_sched_seq *seq;
    uint32_t epoch;
    uint32_t given; /* rows in the step that is being planned */
    bool dirty;     /* left since the last step: its pages go back with the next one */
};

/* A step without an answer. */
struct lam_pass_step {
    uint64_t id;
    uint64_t sent_ns;
    struct lam_sched_rows *rows; /* [caps.max_sequences] */
    uint32_t n_rows;
    uint32_t n_tokens; /* of all rows */
    bool decodes;      /* one row of each sequence, and at least one */
};

/* What the last pass of about so many tokens took. */
struct lam_pass_time {
    uint32_t n_tokens; /* 0: there was none */
    uint64_t ns;
};

#define LAM_PASS_SIZES 32u /* powers of two */

struct lam_sched_worker {
    struct lam_sched_worker *next;
    void *user;
    struct lam_sched_caps caps;
    struct lam_pass_slot *slots; /* [caps.max_sequences] */
    bool *answered;              /* [caps.max_sequences]: of rows, while a result is checked */
    uint32_t *free;              /* [caps.max_sequences] */
    struct lam_pass_step steps[LAM_SCHED_STEPS_MAX]; /* [n_open], the oldest first */
    uint32_t n_open;
    uint64_t answered_ns; /* when the last answer came */
    uint64_t pass_ns;     /* that the last step of one row each took; 0: not yet known */
    struct lam_pass_time times[LAM_PASS_SIZES]; /* by the power of two of their tokens */
    uint64_t planned;                           /* steps */
    uint32_t n_dirty;
    uint32_t n_seqs;
    uint32_t pages_free;
    uint32_t cursor; /* slot that is served first in the next pass */
    uint64_t passes;
    uint64_t rows_done;
};

/*
 * Makes the worker's next step. False: there is nothing to compute and nothing to free, or it may
 * not be sent yet. The step points into the worker and its sequences.
 */
bool lam_pass_plan(struct lam_sched_worker *worker, uint64_t step_id,
    const struct lam_sched_config *config, uint64_t now_ns, struct lam_sched_step *ret_step);

/* From when on a step may follow the open one that takes long: shortly before that one's end, if a
 * pass of its size has been seen. UINT64_MAX: not before the answer. */
uint64_t lam_pass_due_ns(
    const struct lam_sched_worker *worker, const struct lam_sched_config *config);

/* Does the answer fit the oldest step? Errors: as lam_sched_result. Changes only `answered`. */
LAM_MUST_USE enum lam_status lam_pass_check(struct lam_sched_worker *worker, uint64_t step_id,
    const struct lam_sched_sample *samples, uint32_t n_samples, uint32_t n_vocab,
    struct lam_err *err);

/* The oldest step is answered: counts its rows and takes it off the list. */
void lam_pass_close(struct lam_sched_worker *worker, uint64_t now_ns);

#endif
