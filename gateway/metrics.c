/* metrics: see metrics.h. */
#include "gateway/metrics.h"

#include "common/clock.h"

#define MS LAM_NS_PER_MS

/* From a cached answer to a model that streams from a disk. */
#define SECONDS_BOUNDS                                                                             \
    {                                                                                              \
        2 * MS, 5 * MS, 10 * MS, 20 * MS, 50 * MS, 100 * MS, 200 * MS, 500 * MS, 1000 * MS,        \
            2000 * MS, 5000 * MS, 10000 * MS, 20000 * MS, 50000 * MS, 100000 * MS                  \
    }
#define NAME(suffix) "laminar_gateway_" suffix

static const struct lam_metric table[LAM_GATEWAY_METRICS] = {
    [LAM_GATEWAY_STOPPED] = {.name = NAME("requests_total"),
        .help = "Requests that have ended, by how: stop (end of text or a stop string), length "
                "(max_tokens), cancelled by the client, failed, refused before they began.",
        .labels = "result=\"stop\""},
    [LAM_GATEWAY_CUT] = {.name = NAME("requests_total"), .labels = "result=\"length\""},
    [LAM_GATEWAY_CANCELLED] = {.name = NAME("requests_total"), .labels = "result=\"cancelled\""},
    [LAM_GATEWAY_FAILED] = {.name = NAME("requests_total"), .labels = "result=\"failed\""},
    [LAM_GATEWAY_REFUSED] = {.name = NAME("requests_total"), .labels = "result=\"refused\""},
    [LAM_GATEWAY_OPEN] = {.name = NAME("requests_open"),
        .help = "Requests that wait or are computed now.",
        .kind = LAM_GAUGE},
    [LAM_GATEWAY_WAITING] = {.name = NAME("requests_waiting"),
        .help = "Of these, the ones that no worker has room for yet.",
        .kind = LAM_GAUGE},
    [LAM_GATEWAY_PROMPT_TOKENS] = {.name = NAME("prompt_tokens_total"),
        .help = "Tokens of the prompts that were taken."},
    [LAM_GATEWAY_TOKENS] = {.name = NAME("tokens_total"), .help = "Tokens that were generated."},
    [LAM_GATEWAY_PASSES] = {.name = NAME("passes_total"), .help = "Passes that workers answered."},
    [LAM_GATEWAY_ROWS] = {.name = NAME("rows_total"), .help = "Rows of those passes."},
    [LAM_GATEWAY_WORKERS] = {.name = NAME("workers"),
        .help = "Workers that are attached and ready.",
        .kind = LAM_GAUGE},
    [LAM_GATEWAY_WORKERS_LOST] = {.name = NAME("workers_lost_total"),
        .help = "Workers that were ready and went."},
    [LAM_GATEWAY_QUEUE_SECONDS] = {.name = NAME("queue_seconds"),
        .help = "Time of a request from its arrival to its first pass.",
        .kind = LAM_HISTOGRAM,
        .unit = LAM_UNIT_SECONDS,
        .bounds = SECONDS_BOUNDS},
    [LAM_GATEWAY_FIRST_TOKEN_SECONDS] = {.name = NAME("first_token_seconds"),
        .help = "Time of a request from its arrival to its first token.",
        .kind = LAM_HISTOGRAM,
        .unit = LAM_UNIT_SECONDS,
        .bounds = SECONDS_BOUNDS},
    [LAM_GATEWAY_STEP_SECONDS] = {.name = NAME("step_seconds"),
        .help = "Time from a step's sending, or from the answer before it if it was sent ahead, to "
                "its answer: a pass and the way there and back.",
        .kind = LAM_HISTOGRAM,
        .unit = LAM_UNIT_SECONDS,
        .bounds = SECONDS_BOUNDS},
};

void lam_gateway_metrics_init(struct lam_gateway_metrics *metrics)
{
    for (size_t i = 0; i < LAM_GATEWAY_METRICS; i++)
        metrics->items[i] = table[i];
}

bool lam_gateway_metrics_write(const struct lam_gateway_metrics *metrics, struct lam_buf *out)
{
    const struct lam_metric *items[LAM_GATEWAY_METRICS];

    for (size_t i = 0; i < LAM_GATEWAY_METRICS; i++)
        items[i] = &metrics->items[i];
    return lam_metrics_write(items, LAM_GATEWAY_METRICS, out);
}
