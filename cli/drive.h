/*
 * drive: load for a benchmark: several generations at once through a gateway, and when each of
 * their tokens came.
 *
 * Each request has a thread and a client of its own. One thread calls; cancel may come from
 * another one.
 */
#ifndef LAMINAR_CLI_DRIVE_H
#define LAMINAR_CLI_DRIVE_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct lam_drive;

struct lam_drive_config {
    const char *target;  /* as for lam_client_create; outlives the drive */
    uint32_t n_requests; /* at once; > 0 */
    uint32_t n_prompt;   /* token ids of each prompt; > 0 */
    uint32_t n_generate; /* tokens of each answer, end tokens ignored; > 0 */
    uint32_t n_vocab;    /* the ids are drawn from [0, n_vocab) */
};

/* When the tokens of one request came, lam_now_ns. */
struct lam_drive_times {
    const uint64_t *token_ns; /* [n_tokens], ascending */
    uint32_t n_tokens;
};

/* Connects as many clients, then starts all requests. Errors: LAM_RESOURCE_EXHAUSTED;
 * LAM_UNAVAILABLE: nothing answers at the target. */
LAM_MUST_USE enum lam_status lam_drive_start(
    const struct lam_drive_config *config, struct lam_drive **ret_drive, struct lam_err *err);

/* When the requests were started, lam_now_ns. */
uint64_t lam_drive_asked_ns(const struct lam_drive *drive);

/* Ends all requests with LAM_CANCELLED. [any thread] */
void lam_drive_cancel(struct lam_drive *drive);

/* Returns when every request has its first token or has ended. */
void lam_drive_wait_first(struct lam_drive *drive);

/* Returns how many tokens the first request has, when it has more than n_tokens or has ended. */
uint32_t lam_drive_wait_more(struct lam_drive *drive, uint32_t n_tokens);

/* Returns when all have ended. Errors: the first request's that has one. */
LAM_MUST_USE enum lam_status lam_drive_wait(struct lam_drive *drive, struct lam_err *err);

/* After the wait: of request `index`. */
struct lam_drive_times lam_drive_times(const struct lam_drive *drive, uint32_t index);

/* Cancels and waits for what still runs. NULL is allowed. */
void lam_drive_destroy(struct lam_drive *drive);

#endif
