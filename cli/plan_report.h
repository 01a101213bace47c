/* plan_report: a plan as a table, and as JSON. */
#ifndef LAMINAR_CLI_PLAN_REPORT_H
#define LAMINAR_CLI_PLAN_REPORT_H

#include <stdio.h>

#include "common/status.h"
#include "model/plan.h"

/* What a GiB more would do to the time of a pass; 0 seconds: not known, or there is none. */
struct lam_plan_gain {
    double vram_seconds; /* a GiB more on each device that is used */
    double ram_seconds;
    /* A shorter context, where it was not given and memory is short: 0 for none that helps. */
    uint32_t n_ctx;
    double ctx_seconds;
};

/* What came of it; 0: not measured. */
struct lam_plan_measured {
    uint64_t device_bytes; /* all that is held; CPU: pool, loader and worker */
    double pass_seconds;   /* of a pass with as many rows as sequences */
};

struct lam_plan_report {
    FILE *out;
    const struct lam_plan_request *request;
    const struct lam_plan *plan;
    struct lam_plan_gain gain;
    struct lam_plan_measured measured;
    const char *sources; /* the facts that nobody gave, as one line; "" for none */
};

void lam_plan_report_text(const struct lam_plan_report *report);

/* {"version", "fits", "devices", "host", "predicted", "levers"} on stdout. Errors: those of
 * lam_json_print. */
LAM_MUST_USE enum lam_status lam_plan_report_json(
    const struct lam_plan_report *report, struct lam_err *err);

#endif
