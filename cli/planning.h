/*
 * planning: from flags and facts to a plan (model/plan.h): what `plan` shows, and what `run`,
 * `serve` and `logits` start. They use one code path, so that what was shown is what runs.
 *
 * The order: wishes, facts, devices, caps, model, make. Each step returns LAM_EXIT_OK, or prints
 * what is wrong and returns the exit code.
 */
#ifndef LAMINAR_CLI_PLANNING_H
#define LAMINAR_CLI_PLANNING_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/facts.h"
#include "cli/model_file.h"
#include "cli/plan_report.h"
#include "common/flag.h"
#include "common/status.h"
#include "model/manifest.h"
#include "model/plan.h"
#include "model/spec.h"
#include "model/vram.h"

/* What the user may say about memory: flags of all four commands. */
struct lam_plan_options {
    const char *device; /* "auto", "cpu", "cuda:1" */
    const char *vram;   /* NULL: auto */
    const char *ram;
    const char *kv_type; /* NULL: the plan's choice */
    const char *layer_batch;
    const char *objective;
    int64_t n_ctx; /* 0: the plan's choice; likewise below */
    int64_t n_seqs;
    int64_t prefill_chunk;
    struct lam_shard_flag shards;
};

#define LAM_PLAN_FLAGS 10

struct lam_plan_options lam_plan_options_defaults(void);

/* Fills flags[0, LAM_PLAN_FLAGS). */
void lam_plan_options_add_flags(struct lam_plan_options *options, struct lam_flag *flags);

/* All that a plan is made from, and the plan. Zero-initialise; release with lam_planning_done.
 * It points into itself: it is not to be moved. */
struct lam_planning {
    struct lam_model_file file;
    struct lam_spec spec;
    struct lam_manifest manifest;
    uint32_t *drives; /* [manifest.n_units] see loader/drives.h */
    struct lam_facts facts;
    struct lam_plan_device devices[LAM_PLAN_DEVICES_MAX];
    double given_link_rate; /* by flags: these win over facts. 0: not given; likewise below */
    double given_disk_rate;
    bool disk_assumed; /* its rate was neither given nor measured; likewise below */
    bool link_assumed;
    bool memory_assumed; /* that weights are read from where they are computed on */
    uint64_t free_bytes[LAM_PLAN_DEVICES_MAX]; /* of devices */
    double product_rates[LAM_PLAN_DEVICES_MAX][LAM_DTYPE_END];
    struct lam_plan_request request;
    struct lam_plan plan;
    char notes[LAM_VRAM_NOTES_BYTES]; /* of --vram */
    char sources[400];                /* measured and assumed facts: one line */
};

void lam_planning_done(struct lam_planning *planning);

int lam_planning_set_wishes(struct lam_planning *planning, const struct lam_plan_options *options);

/* What was measured on this machine. home: NULL is allowed. */
int lam_planning_read_facts(struct lam_planning *planning, const char *home);

/* This CPU, or (once or more) a GPU: free_bytes of it are free; rates that are 0 are assumed. */
void lam_planning_use_cpu(struct lam_planning *planning);
void lam_planning_add_gpu(struct lam_planning *planning, const char *name,
    const struct lam_gpu_facts *facts, uint64_t free_bytes);

/* GPUs only. vram: NULL is auto. */
int lam_planning_set_caps(struct lam_planning *planning, const char *vram);

int lam_planning_open_model(
    struct lam_planning *planning, const char *path, const struct lam_shard_flag *shards);

/* Makes planning->plan, which may not fit. */
int lam_planning_make(struct lam_planning *planning);

/* What a GiB more would do: some more plans. */
struct lam_plan_gain lam_planning_gain(const struct lam_planning *planning);

/* The notes of --vram and of the plan, on stderr. */
void lam_planning_print_notes(const struct lam_planning *planning);

/* "f16", "f32", "q8_0" */
const char *lam_planning_kv_type(const struct lam_planning *planning);

#endif
