/* report: see report.h. */
#include "worker/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/size.h"

#define LINE_BYTES 512

static const char *region_name(uint32_t region)
{
    static const char *const names[LAM_REGIONS] = {"workspace", "activations", "logits", "tables",
        "KV", "slots", "resident weights", "embedding"};

    return names[region];
}

/* "name 3.0 MiB, ", cut off where the line ends. */
static void add_size(char *line, const char *name, uint64_t bytes)
{
    size_t used = strlen(line);
    char text[24];

    snprintf(
        line + used, LINE_BYTES - used, "%s %s, ", name, lam_size_format(bytes, text, sizeof text));
}

static void log_memory(const struct lam_engine *engine)
{
    const struct lam_plan_arena *arena = &lam_engine_plan(engine)->arenas[0];
    uint64_t cap = lam_engine_cap_bytes(engine);
    uint64_t measured = lam_engine_device_bytes(engine);
    char line[LINE_BYTES] = "";
    char total[24], text[24];

    if (arena->context_bytes > 0)
        add_size(line, "context", arena->context_bytes);
    for (uint32_t r = 0; r < LAM_REGIONS; r++)
        if (arena->regions[r].bytes > 0)
            add_size(line, region_name(r), arena->regions[r].bytes);
    lam_size_format(arena->total_bytes, total, sizeof total);
    if (cap == 0) {
        lam_info("memory: %stotal %s", line, total);
        return;
    }
    lam_info("memory: %stotal %s of the cap of %s", line, total,
        lam_size_format(cap, text, sizeof text));
    if (measured > 0)
        lam_info("memory: the device counts %s for this process",
            lam_size_format(measured, text, sizeof text));
}

static const char *bound_name(enum lam_bound bound)
{
    static const char *const names[] = {"arithmetic", "the link", "the disk", "host memory"};

    return names[bound];
}

static void log_passes(const struct lam_engine *engine)
{
    const struct lam_plan *plan = lam_engine_plan(engine);
    const struct lam_plan_arena *arena = &plan->arenas[0];
    char streamed[24], slots[24], read[24];

    lam_size_format(arena->streamed_bytes, streamed, sizeof streamed);
    lam_size_format(arena->n_slots * arena->slot_bytes, slots, sizeof slots);
    lam_size_format(plan->pool.disk_bytes, read, sizeof read);
    if (lam_engine_cap_bytes(engine) > 0)
        lam_info("layers: %" PRIu32 " of %" PRIu32 " resident; %s in %" PRIu32
                 " pieces through %s in a pass, %s from disk; predicted %.3f s, bound by %s",
            arena->n_layers_resident, plan->n_layers, streamed, arena->n_streamed, slots, read,
            plan->pass_seconds, bound_name(plan->bound));
}

static void log_notes(const char *notes)
{
    for (const char *at = notes; *at;) {
        size_t length = strcspn(at, "\n");

        lam_info("%.*s", (int)length, at);
        at += length + (at[length] == '\n');
    }
}

void lam_report_start(const struct lam_engine *engine, const struct lam_model *model)
{
    const struct lam_engine_config *config = lam_engine_config(engine);
    uint64_t arena_bytes = lam_engine_plan(engine)->arenas[0].arena_bytes;
    char text[24];

    lam_info("model %s: %" PRIu32 " layers in %" PRIu32 " units; %s; arena %s, context %" PRIu32
             " tokens, %" PRIu32 " slots, %" PRIu32 " rows a pass",
        model->spec.name[0] ? model->spec.name : model->spec.architecture, model->spec.n_layers,
        model->manifest.n_units, lam_engine_backend(engine),
        lam_size_format(arena_bytes, text, sizeof text), config->n_ctx, config->max_seqs,
        config->max_rows);
    log_memory(engine);
    log_passes(engine);
    log_notes(lam_engine_plan(engine)->notes);
}
