/* plan_report: a plan as a table, and as JSON. */
#ifndef LAMINAR_CLI_PLAN_REPORT_H
#define LAMINAR_CLI_PLAN_REPORT_H

#include "common/status.h"
#include "model/plan.h"

/* What a GiB more would do to the time of a pass; 0 seconds: not known, or there is none. */
struct lam_plan_gain {
    double vram_seconds; /* a GiB more on each device that is used */
    double ram_seconds;
};

struct lam_plan_report {
    const struct lam_plan_request *request;
    const struct lam_plan *plan;
    struct lam_plan_gain gain;
    const char *assumed; /* the facts that nobody gave, as one line; "" for none */
};

/* stdout. */
void lam_plan_report_text(const struct lam_plan_report *report);

/* {"version", "fits", "devices", "host", "predicted", "levers"} on stdout. Errors: those of
 * lam_json_print. */
LAM_MUST_USE enum lam_status lam_plan_report_json(
    const struct lam_plan_report *report, struct lam_err *err);

#endif
