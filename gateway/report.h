/*
 * report: what a worker says about its memory and its passes, checked, added up, and told on.
 *
 * Nothing is decided from these numbers; they are checked so that no NaN or nonsense of one worker
 * reaches a client's arithmetic. Owned by one thread.
 */
#ifndef LAMINAR_GATEWAY_REPORT_H
#define LAMINAR_GATEWAY_REPORT_H

#include <stdbool.h>

#include "common/status.h"
#include "proto/laminar/v1/generation.pb-c.h"
#include "proto/laminar/v1/report.pb-c.h"

/* Zeroed: it has said nothing yet. */
struct lam_report {
    bool has_memory;
    bool has_profile;
    Laminar__V1__Memory memory;
    char kv_type[9];
    Laminar__V1__Profile total;
    Laminar__V1__Profile last;
};

/* memory: NULL is allowed, and says nothing. Errors: LAM_INVALID_ARGUMENT names field and range;
 * nothing was taken. */
LAM_MUST_USE enum lam_status lam_report_take_memory(
    struct lam_report *report, const Laminar__V1__Memory *memory, struct lam_err *err);

/* A pass. As above. */
LAM_MUST_USE enum lam_status lam_report_take_profile(
    struct lam_report *report, const Laminar__V1__Profile *profile, struct lam_err *err);

/* Figures of Memory that change while a worker runs; bytes of 0 say nothing. */
struct lam_report_now {
    uint64_t measured_bytes;
    uint64_t pool_ready_bytes;
    double pool_ready_seconds;
};

/* From a worker that has told its memory, else nothing is taken. As above. */
LAM_MUST_USE enum lam_status lam_report_take_now(
    struct lam_report *report, const struct lam_report_now *now, struct lam_err *err);

/* Fills memory, profile and last_pass; they point into report. */
void lam_report_describe(struct lam_report *report, Laminar__V1__WorkerInfo *info);

#endif
