/* bench_figures: see bench_figures.h. */
#include "cli/bench_figures.h"

#include <assert.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/reals.h"

struct window {
    uint64_t first_ns; /* the first token of all */
    uint64_t begun_ns; /* every text has a token */
    uint64_t begin_ns; /* a token of the first text, and so is the end */
    uint64_t end_ns;
};

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (double)(to_ns - from_ns) / (double)LAM_NS_PER_S : 0;
}

/* From token to token of the first text. Those of other texts in the same pass come a moment before
 * or after it, at both ends alike; an end between them would count the time of a pass and not its
 * tokens. */
static struct window find_window(const struct lam_bench_observed *observed)
{
    const struct lam_drive_times *text = &observed->times[0];
    struct window window = {.first_ns = UINT64_MAX, .begin_ns = UINT64_MAX};
    uint64_t ended_ns = UINT64_MAX;

    for (uint32_t i = 0; i < observed->n_texts; i++) {
        const struct lam_drive_times *times = &observed->times[i];
        uint64_t first, last;
        assert(times->n_tokens > 0);
        first = times->token_ns[0];
        last = times->token_ns[times->n_tokens - 1];
        window.first_ns = first < window.first_ns ? first : window.first_ns;
        window.begun_ns = first > window.begun_ns ? first : window.begun_ns;
        ended_ns = last < ended_ns ? last : ended_ns;
    }
    for (uint32_t i = text->n_tokens; i-- > 0 && text->token_ns[i] >= window.begun_ns;)
        window.begin_ns = text->token_ns[i];
    for (uint32_t i = 0; i < text->n_tokens && text->token_ns[i] <= ended_ns; i++)
        window.end_ns = text->token_ns[i];
    return window;
}

static uint64_t count_tokens(const struct lam_bench_observed *observed, struct window window)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < observed->n_texts; i++)
        for (uint32_t j = 0; j < observed->times[i].n_tokens; j++)
            n += observed->times[i].token_ns[j] > window.begin_ns &&
                 observed->times[i].token_ns[j] <= window.end_ns;
    return n;
}

/* The gaps between the tokens of the first text. */
static enum lam_status measure_passes(const struct lam_drive_times *times, struct window window,
    struct lam_bench_figures *figures, struct lam_err *err)
{
    double *gaps = lam_calloc(times->n_tokens, sizeof *gaps);
    uint32_t n = 0, first = 0;

    if (!gaps)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the figures");
    while (first < times->n_tokens && times->token_ns[first] < window.begin_ns)
        first++;
    for (uint32_t i = first + 1; i < times->n_tokens && times->token_ns[i] <= window.end_ns; i++)
        gaps[n++] = seconds(times->token_ns[i - 1], times->token_ns[i]);
    figures->first = first;
    lam_reals_sort(gaps, n);
    figures->n_passes = n;
    if (n > 0) {
        figures->pass_median_s = gaps[n / 2];
        figures->pass_p10_s = gaps[n / 10];
        figures->pass_p90_s = gaps[n - 1 - n / 10];
    }
    lam_free(gaps);
    return LAM_OK;
}

/* The worker's own sums, of one pass. */
static void average_profile(
    const struct lam_bench_observed *observed, struct lam_bench_figures *figures)
{
    const struct lam_client_profile *before = &observed->before;
    const struct lam_client_profile *after = &observed->after;
    double n = (double)(observed->passes_after - observed->passes_before);

    if (!observed->has_profile || observed->passes_after <= observed->passes_before)
        return;
    figures->has_profile = true;
    figures->profile = (struct lam_client_profile){
        .wall_s = (after->wall_s - before->wall_s) / n,
        .disk_wait_s = (after->disk_wait_s - before->disk_wait_s) / n,
        .link_wait_s = (after->link_wait_s - before->link_wait_s) / n,
        .compute_s = (after->compute_s - before->compute_s) / n,
        .copy_s = (after->copy_s - before->copy_s) / n,
        .floor_s = (after->floor_s - before->floor_s) / n,
        .link_bytes = (uint64_t)((double)(after->link_bytes - before->link_bytes) / n),
        .resident_bytes = (uint64_t)((double)(after->resident_bytes - before->resident_bytes) / n),
    };
}

static double time_of(uint64_t bytes, double rate)
{
    return rate > 0 ? (double)bytes / rate : 0;
}

static void raise_floor(struct lam_bench_figures *figures, double floor_s, bool assumed)
{
    if (floor_s <= figures->floor_s)
        return;
    figures->floor_s = floor_s;
    figures->floor_assumed = assumed;
}

static void find_floors(
    const struct lam_bench_observed *observed, struct lam_bench_figures *figures)
{
    const struct lam_bench_rates *rates = &observed->rates;
    uint64_t memory_bytes = figures->profile.resident_bytes > 0 ? figures->profile.resident_bytes
                                                                : observed->planned_memory_bytes;

    figures->disk_floor_s = time_of(observed->planned_disk_bytes, rates->disk);
    figures->link_floor_s = time_of(figures->profile.link_bytes, rates->link);
    figures->memory_floor_s = time_of(memory_bytes, rates->memory);
    raise_floor(figures, figures->disk_floor_s, rates->disk_assumed);
    raise_floor(figures, figures->link_floor_s, rates->link_assumed);
    raise_floor(figures, figures->memory_floor_s, rates->memory_assumed);
}

/* After the last token the loader reads on, for a pass that never comes. */
static uint64_t disk_bytes(
    const struct lam_bench_observed *observed, const struct lam_bench_figures *figures)
{
    uint32_t end = figures->first + figures->n_passes;

    if (observed->disk_at == NULL)
        return observed->disk_bytes;
    return observed->disk_at[end] - observed->disk_at[figures->first];
}

enum lam_status lam_bench_figures(const struct lam_bench_observed *observed,
    struct lam_bench_figures *ret_figures, struct lam_err *err)
{
    struct window window = find_window(observed);
    struct lam_bench_figures figures = {
        .first_token_s = seconds(observed->began_ns, window.first_ns),
        .prompt_s = seconds(observed->asked_ns, window.begun_ns),
        .window_s = seconds(window.begin_ns, window.end_ns),
    };
    enum lam_status status = measure_passes(&observed->times[0], window, &figures, err);

    if (status)
        return status;
    if (figures.n_passes > 0) {
        figures.tokens_per_s = (double)count_tokens(observed, window) / figures.window_s;
        figures.disk_bytes = (double)disk_bytes(observed, &figures) / figures.n_passes;
        average_profile(observed, &figures);
        find_floors(observed, &figures);
    }
    *ret_figures = figures;
    return LAM_OK;
}
