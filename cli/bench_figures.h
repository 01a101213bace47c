/*
 * bench_figures: from when tokens came to what a pass is. A pure function of what was observed.
 *
 * A pass gives one token to every text, so between the first token of the last text to begin and
 * the last token of the first one to end, the gaps between one text's tokens are the passes: the
 * first text's tokens there are the window in which all figures of generation are taken.
 */
#ifndef LAMINAR_CLI_BENCH_FIGURES_H
#define LAMINAR_CLI_BENCH_FIGURES_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/client.h"
#include "cli/drive.h"
#include "common/status.h"

/* Bytes a second; 0: there is no such thing here. */
struct lam_bench_rates {
    double disk;
    double link;
    double memory; /* that weights are read at where they are computed on */
    bool disk_assumed, link_assumed, memory_assumed; /* neither given nor measured */
};

struct lam_bench_observed {
    const struct lam_drive_times *times; /* [n_texts], each with a token at least */
    uint32_t n_texts;                    /* > 0 */
    uint64_t began_ns;                   /* before anything was started */
    uint64_t asked_ns;                   /* the texts were asked for */
    uint64_t disk_bytes;                 /* that the loader read in the window */
    const uint64_t *disk_at; /* [times[0].n_tokens] had read by then; NULL: not asked each time */
    uint64_t planned_disk_bytes;   /* that a pass cannot do without */
    uint64_t planned_memory_bytes; /* read where they are computed on, if no profile says */
    bool has_profile;              /* of the worker: what follows */
    struct lam_client_profile before, after; /* sums around the window */
    uint64_t passes_before, passes_after;
    struct lam_bench_rates rates;
};

struct lam_bench_figures {
    double first_token_s; /* from the start to the first token of all */
    double prompt_s;      /* from asking until every text had a token */
    double window_s;
    uint32_t n_passes; /* in the window; 0: too few tokens to have one, and nothing below */
    uint32_t first;    /* token of the first text with which the window begins: pass i of it lies
                        * between tokens first + i and first + i + 1 */
    double pass_median_s;
    double pass_p10_s;
    double pass_p90_s;
    double tokens_per_s;
    /* Of one pass, on average. */
    double disk_bytes;
    bool has_profile;
    struct lam_client_profile profile;
    /* What a pass of these bytes takes at least by each ceiling. */
    double disk_floor_s;
    double link_floor_s;
    double memory_floor_s;
    double floor_s;     /* the largest */
    bool floor_assumed; /* of an assumed rate: the pass may well be faster */
};

/* Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_bench_figures(const struct lam_bench_observed *observed,
    struct lam_bench_figures *ret_figures, struct lam_err *err);

#endif
