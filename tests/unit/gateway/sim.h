/*
 * sim: the scheduler in a world of its own. The simulated workers compute a token as a hash of
 * everything in the slot, so a row that is lost, doubled or put into the wrong slot changes the
 * text; and they check each step against the protocol. The helpers assert with cmocka.
 */
#ifndef LAMINAR_TESTS_UNIT_GATEWAY_SIM_H
#define LAMINAR_TESTS_UNIT_GATEWAY_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "gateway/schedule.h"

#define SIM_VOCAB 1000u
#define SIM_CONTEXT 48u
#define SIM_REQUESTS 64u
#define SIM_WORKERS 3u
#define SIM_SLOTS_MAX 5u
#define SIM_AHEAD_NS (200 * LAM_NS_PER_MS)
#define SIM_LEAD_NS (20 * LAM_NS_PER_MS)

struct sim_slot {
    uint32_t epoch;
    uint32_t n_prompt;
    uint32_t n;
    int32_t tokens[SIM_CONTEXT];
    bool drawn; /* the last entry asked for a token: */
    int32_t token;
};

/* A step without an answer. */
struct sim_step {
    uint64_t id;
    uint32_t n_samples;
    struct lam_sched_sample samples[SIM_SLOTS_MAX];
};

struct sim_worker {
    struct lam_sched_worker *handle; /* NULL: not attached */
    struct lam_sched_caps caps;
    struct sim_slot slots[SIM_SLOTS_MAX];
    uint32_t n_open;
    struct sim_step steps[LAM_SCHED_STEPS_MAX]; /* [n_open], the oldest first */
};

struct sim_request {
    struct lam_sched_seq *seq; /* NULL: over */
    uint32_t n_prompt;
    uint32_t n;
    uint32_t n_max;
    uint32_t stop_at; /* cancelled by its owner at this length, as by a stop string; 0: not */
    int32_t tokens[SIM_CONTEXT];
    unsigned ends;
};

struct sim {
    uint64_t random;
    uint64_t now_ns;
    struct lam_sched *sched;
    struct sim_worker workers[SIM_WORKERS];
    struct sim_request requests[SIM_REQUESTS];
    uint32_t n_requests;
    unsigned shared_passes; /* with rows of more than one request */
    unsigned ahead;         /* steps sent before the answer to the one before */
    unsigned wasted;        /* rows of tokens that had ended their request */
    unsigned failed;
};

/* An empty world: 8 may wait, an orphan for 3 s, a request survives 2 deaths; steps go ahead of
 * passes of up to SIM_AHEAD_NS, and SIM_LEAD_NS before the end of longer ones. */
void sim_init(struct sim *sim, uint64_t seed);

/* A random number in [0, below). */
uint32_t sim_draw(struct sim *sim, uint32_t below);

/* What a worker does with a step, and when it answers. */
void sim_take_step(struct sim *sim, const struct lam_sched_step *step);
void sim_answer(struct sim *sim, struct sim_worker *worker);
void sim_lose(struct sim *sim, struct sim_worker *worker);
uint32_t sim_pages_used(const struct sim_worker *worker);

/* Hands out all steps; takes actions to the requests, checks each token. */
void sim_pump(struct sim *sim);
void sim_apply(struct sim *sim, struct lam_sched_actions actions);

/* The request is over: for the first time. */
void sim_end(struct sim_request *request);

#endif
