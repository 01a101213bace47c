/*
 * sample: see sample.h.
 *
 * All filters keep the first so many candidates in the order (logit down, id up), so one heap
 * serves them: build it in V steps, then take candidates out, largest first, until a filter says
 * stop. They collect at the end of the same array. Without filters nothing is ordered: the draw
 * walks the ids.
 */
#include "model/sample.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t id;
};

/* items[0, n_heap) is a heap; items[n_heap, n) are the largest ones, in ascending order. */
struct ranking {
    struct candidate *items;
    uint32_t n;
    uint32_t n_heap;
};

struct lam_sample_params lam_sample_defaults(void)
{
    return (struct lam_sample_params){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

static enum lam_status check_range(
    const char *field, float value, float min, float max, struct lam_err *err)
{
    if (value >= min && value <= max)
        return LAM_OK;
    return lam_fail(err, LAM_INVALID_ARGUMENT, "%s is %g, not in %g..%g", field, (double)value,
        (double)min, (double)max);
}

enum lam_status lam_sample_check(const struct lam_sample_params *params, struct lam_err *err)
{
    enum lam_status status = check_range("temperature", params->temperature, 0, 100, err);

    if (!status)
        status = check_range("min_p", params->min_p, 0, 1, err);
    if (!status)
        status = check_range("presence_penalty", params->presence_penalty, -2, 2, err);
    if (!status)
        status = check_range("frequency_penalty", params->frequency_penalty, -2, 2, err);
    if (status)
        return status;
    if (!(params->top_p > 0 && params->top_p <= 1))
        return lam_fail(err, LAM_INVALID_ARGUMENT, "top_p is %g, not above 0 and up to 1",
            (double)params->top_p);
    if (!(params->repetition_penalty > 0 && params->repetition_penalty <= FLT_MAX))
        return lam_fail(err, LAM_INVALID_ARGUMENT, "repetition_penalty is %g, not above 0",
            (double)params->repetition_penalty);
    return LAM_OK;
}

uint64_t lam_sample_scratch_bytes(uint32_t n_vocab)
{
    /* One after the other: two counts per token for penalties; candidates, or weights. Behind them
     * the logits that may be changed. */
    return (uint64_t)n_vocab * (sizeof(struct candidate) + sizeof(float));
}

/* Finalizer of splitmix64. */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

double lam_sample_uniform(uint64_t seed, uint64_t position)
{
    /* The seed is mixed by itself first: neighbouring seeds must not draw shifted sequences. */
    uint64_t bits = mix(mix(seed + 0x9e3779b97f4a7c15ull) + (position + 1) * 0xd1342543de82ef95ull);

    return (double)(mix(bits) >> 11) * 0x1p-53;
}

static void clean(float *logits, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (isnan(logits[i]))
            logits[i] = -INFINITY;
        else if (logits[i] > FLT_MAX)
            logits[i] = FLT_MAX;
    }
}

_Static_assert(sizeof(struct candidate) == 2 * sizeof(uint32_t), "the counts fit the scratch");
_Static_assert(sizeof(struct candidate) == sizeof(double), "the weights fit the scratch");

/* counts: [2][n_vocab]: of a token in the whole history, and in what was generated. */
static void penalise(const struct lam_sample_params *params, float *logits, uint32_t n_vocab,
    const int32_t *history, uint32_t n_history, uint32_t n_prompt, uint32_t *counts)
{
    uint32_t *seen = counts, *made = counts + n_vocab;

    memset(counts, 0, 2 * (size_t)n_vocab * sizeof *counts);
    for (uint32_t i = 0; i < n_history; i++) {
        assert(history[i] >= 0 && (uint32_t)history[i] < n_vocab);
        seen[history[i]]++;
        made[history[i]] += i >= n_prompt;
    }
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (seen[i])
            logits[i] = logits[i] > 0 ? logits[i] / params->repetition_penalty
                                      : logits[i] * params->repetition_penalty;
        if (made[i])
            logits[i] -= params->presence_penalty + params->frequency_penalty * (float)made[i];
    }
}

/* The first of the largest, as if the logits were clean. The largest value is found in LANES
 * columns at a time: a running index would be one long chain of comparisons. */
static int32_t largest(const float *logits, uint32_t n_vocab)
{
    enum { LANES = 16 };
    float lanes[LANES];
    float top = -INFINITY;
    uint32_t whole = n_vocab - n_vocab % LANES;

    for (uint32_t j = 0; j < LANES; j++)
        lanes[j] = -INFINITY;
    for (uint32_t i = 0; i < whole; i += LANES)
        for (uint32_t j = 0; j < LANES; j++)
            lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
    for (uint32_t j = 0; j < LANES; j++)
        top = lanes[j] > top ? lanes[j] : top;
    for (uint32_t i = whole; i < n_vocab; i++)
        top = logits[i] > top ? logits[i] : top;
    if (top > FLT_MAX)
        top = FLT_MAX;
    for (uint32_t i = 0; top > -INFINITY && i < n_vocab; i++)
        if (logits[i] >= top)
            return (int32_t)i;
    return 0; /* nothing that can be chosen */
}

static bool goes_first(const struct candidate *a, const struct candidate *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

static void sift_down(struct candidate *heap, uint32_t n, uint32_t at)
{
    struct candidate moving = heap[at];

    for (;;) {
        uint64_t child = 2 * (uint64_t)at + 1;
        if (child >= n)
            break;
        if (child + 1 < n && goes_first(&heap[child + 1], &heap[child]))
            child++;
        if (!goes_first(&heap[child], &moving))
            break;
        heap[at] = heap[child];
        at = (uint32_t)child;
    }
    heap[at] = moving;
}

/* Takes the i-th largest out of the heap, and all before it if they are still there. */
static const struct candidate *nth(struct ranking *ranking, uint32_t i)
{
    while (ranking->n_heap > ranking->n - 1 - i) {
        uint32_t last = --ranking->n_heap;
        struct candidate first = ranking->items[0];
        ranking->items[0] = ranking->items[last];
        ranking->items[last] = first;
        sift_down(ranking->items, last, 0);
    }
    return &ranking->items[ranking->n - 1 - i];
}

/* Probability, relative to that of the largest logit: 1 for that, exp never overflows. */
static double weight(float logit, float top, float temperature)
{
    return exp(((double)logit - (double)top) / (double)temperature);
}

static struct ranking rank(const float *logits, uint32_t n_vocab, void *scratch)
{
    struct ranking ranking = {.items = scratch, .n = n_vocab, .n_heap = n_vocab};

    for (uint32_t i = 0; i < n_vocab; i++)
        ranking.items[i] = (struct candidate){.logit = logits[i], .id = (int32_t)i};
    for (uint32_t i = n_vocab / 2; i-- > 0;)
        sift_down(ranking.items, n_vocab, i);
    return ranking;
}

/* How many of the largest candidates the filters keep (at least one), and their weights' sum. */
static uint32_t filter(const struct lam_sample_params *params, const float *logits, float top,
    struct ranking *ranking, double *ret_mass)
{
    uint32_t n_max = params->top_k && params->top_k < ranking->n ? params->top_k : ranking->n;
    float temperature = params->temperature;
    double total = 0, mass = 1;
    uint32_t n_kept = 1;

    if (params->top_p < 1)
        for (uint32_t i = 0; i < n_max; i++)
            total +=
                weight(n_max < ranking->n ? nth(ranking, i)->logit : logits[i], top, temperature);
    for (; n_kept < n_max; n_kept++) {
        double next = weight(nth(ranking, n_kept)->logit, top, temperature);
        if (next < (double)params->min_p ||
            (params->top_p < 1 && mass >= (double)params->top_p * total))
            break;
        mass += next;
    }
    *ret_mass = mass;
    return n_kept;
}

static int32_t draw_filtered(const struct lam_sample_params *params, const float *logits,
    uint32_t n_vocab, float top, double uniform, void *scratch)
{
    struct ranking ranking = rank(logits, n_vocab, scratch);
    double mass, sum = 0;
    uint32_t n_kept = filter(params, logits, top, &ranking, &mass);

    for (uint32_t i = 0; i < n_kept; i++) {
        sum += weight(nth(&ranking, i)->logit, top, params->temperature);
        if (uniform * mass < sum)
            return nth(&ranking, i)->id;
    }
    return nth(&ranking, 0)->id; /* uniform * mass rounded up to mass */
}

/* Without filters: by id. scratch holds the weights, so that each exp runs once. */
static int32_t draw(const struct lam_sample_params *params, const float *logits, uint32_t n_vocab,
    int32_t best, double uniform, double *scratch)
{
    double mass = 0, sum = 0;

    for (uint32_t i = 0; i < n_vocab; i++) {
        scratch[i] = weight(logits[i], logits[best], params->temperature);
        mass += scratch[i];
    }
    for (uint32_t i = 0; i < n_vocab; i++) {
        sum += scratch[i];
        if (uniform * mass < sum)
            return (int32_t)i;
    }
    return best; /* uniform * mass rounded up to mass */
}

int32_t lam_sample(const struct lam_sample_params *params, const float *logits, uint32_t n_vocab,
    const int32_t *history, uint32_t n_history, uint32_t n_prompt, uint64_t position, void *scratch)
{
    bool penalised = params->repetition_penalty != 1 || params->presence_penalty != 0 ||
                     params->frequency_penalty != 0;
    float *own = (float *)((struct candidate *)scratch + n_vocab);
    double uniform;
    int32_t best;

    assert(n_vocab > 0);
    if (params->temperature == 0 && !penalised)
        return largest(logits, n_vocab);
    memcpy(own, logits, n_vocab * sizeof *own);
    if (penalised)
        penalise(params, own, n_vocab, history, n_history, n_prompt, scratch);
    clean(own, n_vocab);
    best = largest(own, n_vocab);
    if (params->temperature == 0 || own[best] == -INFINITY)
        return best;
    uniform = lam_sample_uniform(params->seed, position);
    if (params->top_k || params->top_p < 1 || params->min_p > 0)
        return draw_filtered(params, own, n_vocab, own[best], uniform, scratch);
    return draw(params, own, n_vocab, best, uniform, scratch);
}
