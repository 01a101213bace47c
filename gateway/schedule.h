/*
 * schedule: which rows go into the next pass of which worker. The gateway's decisions, and nothing
 * else: no rpc, no clock, no thread inside. Events come in with their time, decisions come out as
 * steps and actions, so a simulator can drive years of them in a second
 * (tests/unit/gateway/schedule_test.c).
 *
 * The rules
 *  - Requests wait in one queue in order of arrival. The first one goes to the least loaded worker
 *    that has a slot and all KV pages that the request can ever need: nothing fails half-way for
 *    lack of memory.
 *  - A pass holds one row of every sequence on the worker, then prompt rows up to the worker's
 *    max_rows: prompts one after the other, the one with the fewest rows left first, in every
 *    fourth pass the one that came first. When there are more sequences than rows they take turns.
 *  - A worker has at most max_steps steps without an answer. A second one is sent ahead while
 *    passes are short, so that the worker need not wait for us: a sequence that goes on decoding
 *    has a row of the token that is being drawn. When the draw turns out to end it, by an end
 *    token, a stop string or its client, that row is computed for nothing; an end that its length
 *    brings is known before and costs none. Behind a longer pass the second step goes shortly
 *    before its end, as known from the last one of as many tokens: so a newcomer hardly waits
 *    longer for it. A pass that might be for nothing is not sent there unless it is short.
 *  - A slot that a sequence left is named in `free` of the next step; its next user has another
 *    epoch, so an answer that comes late is known as such.
 *  - When a worker is lost, its sequences go back to the queue at their old place and are replayed
 *    elsewhere: prompt and emitted tokens are one longer prompt. Sampling is a function of (seed,
 *    position), so the text goes on as if nothing had happened.
 *
 * A request ends exactly once: by an action with `last`, by a FAILED action, or by
 * lam_sched_cancel. After that its pointer is dead. Owned by one thread.
 */
#ifndef LAMINAR_GATEWAY_SCHEDULE_H
#define LAMINAR_GATEWAY_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "model/sample.h"

struct lam_sched;
struct lam_sched_seq;
struct lam_sched_worker;

struct lam_sched_config {
    uint32_t waiting_max;     /* requests in the queue; one more is refused */
    uint64_t orphan_limit_ns; /* a request waits this long while no worker is attached */
    uint64_t ahead_limit_ns;  /* a step is sent ahead while passes take at most this; 0: never */
    uint64_t ahead_lead_ns;   /* and so long before the end of a longer one; 0: never */
    uint32_t deaths_max;      /* workers lost under a request without a new token until it fails */
};

#define LAM_SCHED_STEPS_MAX 2u

/* What a worker can hold. Everything is at least 1; pages * page_tokens >= context_tokens. */
struct lam_sched_caps {
    uint32_t max_sequences;
    uint32_t max_rows;
    uint32_t page_tokens;
    uint32_t pages;
    uint32_t max_steps; /* without an answer; at most LAM_SCHED_STEPS_MAX */
};

struct lam_sched_request {
    const int32_t *prompt; /* [n_prompt], n_prompt >= 1; copied */
    uint32_t n_prompt;
    uint32_t max_tokens; /* at least 1; the caller sees to it that n_prompt + max_tokens fit */
    struct lam_sample_params sampling;
    void *user;
};

/* SequenceRows of proto/laminar/v1/worker.proto. */
struct lam_sched_rows {
    uint32_t slot;
    uint32_t epoch;
    uint32_t position;
    const int32_t *tokens; /* NULL with `sampled` */
    uint32_t n_tokens;
    bool sampled; /* one row, of the token that the worker drew last for the slot */
    bool sample;
    const struct lam_sample_params *sampling;
    uint32_t n_prompt;
};

/* Lives until the next call on the scheduler. */
struct lam_sched_step {
    void *worker_user;
    uint64_t id;
    const struct lam_sched_rows *rows;
    uint32_t n_rows; /* entries of rows; 0 when the step only frees */
    const uint32_t *free;
    uint32_t n_free;
};

struct lam_sched_sample {
    uint32_t slot;
    uint32_t epoch;
    int32_t token;
};

enum lam_sched_kind {
    LAM_SCHED_TOKEN,  /* the sequence's next token */
    LAM_SCHED_FAILED, /* the request is over: `status` and `reason` are for the client */
};

struct lam_sched_action {
    enum lam_sched_kind kind;
    void *user;
    int32_t token;
    bool last;           /* it was token number max_tokens: the request is over */
    uint64_t started_ns; /* when the first pass with a row of this request began */
    enum lam_status status;
    const char *reason; /* static text */
};

/* What an event led to; lives until the next event. At most one action for each request. */
struct lam_sched_actions {
    const struct lam_sched_action *items;
    uint32_t n;
};

struct lam_sched_load {
    uint32_t sequences;
    uint64_t kv_tokens; /* positions computed for them */
    uint64_t passes;    /* steps with rows, answered */
    uint64_t rows;      /* rows of those */
};

LAM_MUST_USE enum lam_status lam_sched_create(
    const struct lam_sched_config *config, struct lam_sched **ret_sched, struct lam_err *err);
void lam_sched_destroy(struct lam_sched *sched); /* NULL is allowed */

/* Errors: LAM_RESOURCE_EXHAUSTED when the queue is full (named, with remedy) or memory is out. */
LAM_MUST_USE enum lam_status lam_sched_add(struct lam_sched *sched,
    const struct lam_sched_request *request, uint64_t now_ns, struct lam_sched_seq **ret_seq,
    struct lam_err *err);

/* The request is no longer wanted: finished by a stop, cancelled, expired. */
void lam_sched_cancel(struct lam_sched *sched, struct lam_sched_seq *seq);

/* A paused sequence keeps its slot and gets no rows. For clients that do not read. */
void lam_sched_pause(struct lam_sched_seq *seq, bool paused);

LAM_MUST_USE enum lam_status lam_sched_join(struct lam_sched *sched,
    const struct lam_sched_caps *caps, void *user, struct lam_sched_worker **ret_worker,
    struct lam_err *err);

/* The worker is gone; its pointer is dead afterwards. */
struct lam_sched_actions lam_sched_lose(
    struct lam_sched *sched, struct lam_sched_worker *worker, uint64_t now_ns);

/*
 * The answer to the worker's oldest step. Errors: LAM_INVALID_ARGUMENT when it does not answer what
 * was asked (id, slots, epochs, one token for each sampled entry, tokens in 0..n_vocab-1): nothing
 * was applied, and the caller gives the worker up.
 */
LAM_MUST_USE enum lam_status lam_sched_result(struct lam_sched *sched,
    struct lam_sched_worker *worker, uint64_t step_id, const struct lam_sched_sample *samples,
    uint32_t n_samples, uint32_t n_vocab, uint64_t now_ns, struct lam_sched_actions *ret_actions,
    struct lam_err *err);

/* Time has passed. */
struct lam_sched_actions lam_sched_tick(struct lam_sched *sched, uint64_t now_ns);

/* The next step that can be sent, if there is one. Call until false after each event, and at
 * lam_sched_wake_ns. */
bool lam_sched_next(struct lam_sched *sched, uint64_t now_ns, struct lam_sched_step *ret_step);

/* When, after now_ns, time alone may let a step be sent; UINT64_MAX: never. */
uint64_t lam_sched_wake_ns(const struct lam_sched *sched, uint64_t now_ns);

uint32_t lam_sched_waiting(const struct lam_sched *sched);
struct lam_sched_load lam_sched_load(const struct lam_sched_worker *worker);

#endif
