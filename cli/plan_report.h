/* plan_report: a plan as a table, and as JSON. */
#ifndef LAMINAR_CLI_PLAN_REPORT_H
#define LAMINAR_CLI_PLAN_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "model/plan.h"

/* What a GiB more would do to the time of a pass; 0 seconds: not known, or there is none. */
struct lam_plan_gain {
    double vram_seconds; /* a GiB more on each device that is used */
    double ram_seconds;
    /* A shorter context, where it was not given and memory is short: 0 for none that helps. */
    uint32_t n_ctx;
    double ctx_seconds;
};

/* What came of it, for one device. */
struct lam_plan_measured {
    bool known;
    /* All that is held: by the process on its GPU as the driver counts it, or by loader and worker,
     * the pool counted once. 0: not known. */
    uint64_t total_bytes;
    /* GPU: what the worker made of that, from its own plan; context: the rest. */
    uint64_t context_bytes, resident_bytes, slots_bytes, kv_bytes, activations_bytes;
    uint64_t workspace_bytes;
    uint32_t layers_resident;
    uint64_t pool_bytes; /* of the loader, in use */
    /* Passes with as many rows as sequences; below 0: there was none, or it was not counted. */
    double pass_seconds;
    double streamed_bytes; /* in a pass; likewise the next */
    double disk_bytes;
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

/* One line, when something was measured: what is held, and the time of a pass, against the plan. */
void lam_plan_report_line(const struct lam_plan_report *report);

/* Sets "fits", "devices", "host", "predicted", "levers", and "measured" if something was. */
void lam_plan_report_json(const struct lam_plan_report *report, json_t *object);

#endif
