/*
 * run_plan: the plan of what `run`, `serve` and `logits` start on this machine, made before
 * anything starts: bad flags and a model that does not fit cost nothing.
 */
#ifndef LAMINAR_CLI_RUN_PLAN_H
#define LAMINAR_CLI_RUN_PLAN_H

#include <stdint.h>

#include "cli/planning.h"

struct lam_run_plan {
    struct lam_planning planning;
    char device[32]; /* "cpu", "cuda:0": never auto */
};

struct lam_run_plan_config {
    const char *model;
    const char *home;         /* may be NULL */
    const char *cuda_library; /* folder of the GPU backend; NULL: where it is installed */
    uint32_t n_seqs;          /* when not given, unless --objective throughput chooses */
    uint32_t n_logit_rows;    /* whose logits are wanted at a time; 0: one for each sequence */
    const struct lam_plan_options *options;
};

/*
 * Asks the GPU (cli/device.h), so call it before any thread exists. LAM_EXIT_OK: there is a plan
 * and it fits. Else what is wrong was printed: LAM_EXIT_USAGE for flags, LAM_EXIT_NO_FIT with the
 * arithmetic and what would help, LAM_EXIT_FAILED. Release in every case.
 */
int lam_run_plan_make(const struct lam_run_plan_config *config, struct lam_run_plan *ret_plan);

void lam_run_plan_done(struct lam_run_plan *plan);

#endif
