/*
 * sample: see sample.h.
 *
 * A row of logits is looked at in blocks, of which the largest value is known: greedy choices and
 * filters read few of them a second time. All filters keep the first so many candidates in the
 * order (logit down, id up), usually few: they are collected in bands, from the largest logit down,
 * and a heap brings a band into order as far as is asked. Where that is not far enough the row is
 * flat, and what is kept is found without an order (model/prefix.h).
 * Without filters nothing is ordered: the draw walks the ids, block by block.
 */
#include "model/sample.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "model/prefix.h"
#include "model/softmax.h"

#define BLOCKS_MAX 256u
#define BLOCK_STEP 16u /* columns that the largest value is looked for in at a time */

struct candidate {
    float logit;
    int32_t id;
};

struct row {
    const float *logits; /* [n] */
    uint32_t n;
    uint32_t block; /* ids of a block; the last one may be shorter */
    uint32_t n_blocks;
    float tops[BLOCKS_MAX]; /* [n_blocks] */
    float top;
    struct lam_softmax softmax; /* of draws */
};

#define BANDS 3u
/* Blocks' largest values that weigh more together than this: a filter would keep many. */
#define FLAT_WEIGHT 16.0

/* The first candidates in their order: items[0, begin) as they are, items[begin, end) in reverse as
 * far as they have left the heap, which is items[begin, begin + n_heap). */
struct ranking {
    const struct row *row;
    struct candidate *items; /* [row->n] */
    uint32_t begin, end, n_heap;
    float floors[BANDS]; /* the smallest logit of each band */
    uint32_t n_bands;    /* collected so far */
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
     * the logits that penalties change. */
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

_Static_assert(sizeof(struct candidate) == 2 * sizeof(uint32_t), "the counts fit the scratch");
_Static_assert(sizeof(struct candidate) == sizeof(double), "the weights fit the scratch");

/* counts: [2][n_vocab]: of a token in the whole history, and in what was generated. Only those of
 * the history's tokens are used. */
static void penalise(const struct lam_sample_params *params, float *logits, uint32_t n_vocab,
    const int32_t *history, uint32_t n_history, uint32_t n_prompt, uint32_t *counts)
{
    uint32_t *seen = counts, *made = counts + n_vocab;

    for (uint32_t i = 0; i < n_history; i++) {
        assert(history[i] >= 0 && (uint32_t)history[i] < n_vocab);
        seen[history[i]] = made[history[i]] = 0;
    }
    for (uint32_t i = 0; i < n_history; i++) {
        seen[history[i]]++;
        made[history[i]] += i >= n_prompt;
    }
    for (uint32_t i = 0; i < n_history; i++) {
        float *logit = &logits[history[i]];

        if (seen[history[i]] == 0)
            continue; /* penalised already */
        seen[history[i]] = 0;
        *logit =
            *logit > 0 ? *logit / params->repetition_penalty : *logit * params->repetition_penalty;
        if (made[history[i]])
            *logit -=
                params->presence_penalty + params->frequency_penalty * (float)made[history[i]];
    }
}

/* ---- blocks */

/* NaN counts as minus infinity, infinity as the largest number. */
static float cleaned(float logit)
{
    if (isnan(logit))
        return -INFINITY;
    return logit > FLT_MAX ? FLT_MAX : logit;
}

/* In columns: a running largest value would be one long chain of comparisons. */
static float top_of(const float *logits, uint32_t n)
{
    float columns[BLOCK_STEP];
    float top = -INFINITY;
    uint32_t whole = n - n % BLOCK_STEP;

    for (uint32_t j = 0; j < BLOCK_STEP; j++)
        columns[j] = -INFINITY;
    for (uint32_t i = 0; i < whole; i += BLOCK_STEP)
        for (uint32_t j = 0; j < BLOCK_STEP; j++)
            columns[j] = logits[i + j] > columns[j] ? logits[i + j] : columns[j];
    for (uint32_t j = 0; j < BLOCK_STEP; j++)
        top = columns[j] > top ? columns[j] : top;
    for (uint32_t i = whole; i < n; i++)
        top = logits[i] > top ? logits[i] : top;
    return top > FLT_MAX ? FLT_MAX : top;
}

static uint32_t block_end(const struct row *row, uint32_t b)
{
    return row->n - b * row->block < row->block ? row->n : (b + 1) * row->block;
}

static void look_at(const float *logits, uint32_t n, struct row *row)
{
    row->logits = logits;
    row->n = n;
    row->block = (n / BLOCKS_MAX / BLOCK_STEP + 1) * BLOCK_STEP;
    row->n_blocks = (n - 1) / row->block + 1;
    row->top = -INFINITY;
    for (uint32_t b = 0; b < row->n_blocks; b++) {
        row->tops[b] = top_of(logits + b * row->block, block_end(row, b) - b * row->block);
        row->top = row->tops[b] > row->top ? row->tops[b] : row->top;
    }
}

/* The lowest id with the largest logit; 0 when there is nothing that can be chosen. */
static int32_t best_of(const struct row *row)
{
    for (uint32_t b = 0; row->top > -INFINITY && b < row->n_blocks; b++) {
        if (row->tops[b] < row->top)
            continue;
        for (uint32_t i = b * row->block; i < row->n; i++)
            if (row->logits[i] >= row->top)
                return (int32_t)i;
    }
    return 0;
}

/* ---- the order of candidates */

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

static int compare_down(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x < y) - (x > y);
}

/* The nth largest of the blocks' largest values has at least n candidates above it, and seldom many
 * more. */
static void set_floors(struct ranking *ranking)
{
    static const uint32_t ranks[BANDS] = {16, 64, BLOCKS_MAX};
    const struct row *row = ranking->row;
    float tops[BLOCKS_MAX];

    memcpy(tops, row->tops, row->n_blocks * sizeof *tops);
    qsort(tops, row->n_blocks, sizeof *tops, compare_down);
    for (uint32_t i = 0; i < BANDS; i++) {
        uint32_t rank = ranks[i] < row->n_blocks ? ranks[i] : row->n_blocks;
        ranking->floors[i] = tops[rank - 1] > -FLT_MAX ? tops[rank - 1] : -FLT_MAX;
    }
}

/* Candidates from floor up to below ceiling, behind the others. */
static void collect_band(struct ranking *ranking, float floor, float ceiling)
{
    const struct row *row = ranking->row;

    for (uint32_t b = 0; b < row->n_blocks; b++) {
        uint32_t end = row->tops[b] >= floor ? block_end(row, b) : 0;

        for (uint32_t i = b * row->block; i < end; i++) {
            float logit = cleaned(row->logits[i]);

            if (logit >= floor && logit < ceiling)
                ranking->items[ranking->end++] =
                    (struct candidate){.logit = logit, .id = (int32_t)i};
        }
    }
}

/* Puts the band that is used up into its order, and collects the next one that is not empty. False:
 * there are no more bands. */
static bool collect(struct ranking *ranking)
{
    struct candidate *items = ranking->items;

    assert(ranking->n_heap == 0);
    for (uint32_t i = ranking->begin, j = ranking->end; i + 1 < j; i++) {
        struct candidate first = items[i];
        items[i] = items[--j];
        items[j] = first;
    }
    ranking->begin = ranking->end;
    while (ranking->end == ranking->begin && ranking->n_bands < BANDS) {
        uint32_t band = ranking->n_bands++;

        collect_band(
            ranking, ranking->floors[band], band > 0 ? ranking->floors[band - 1] : INFINITY);
    }
    ranking->n_heap = ranking->end - ranking->begin;
    for (uint32_t i = ranking->n_heap / 2; i-- > 0;)
        sift_down(items + ranking->begin, ranking->n_heap, i);
    return ranking->n_heap > 0;
}

/* Moves the first of a heap to its end, behind the n others. */
static void take_first(struct candidate *heap, uint32_t n)
{
    struct candidate first = heap[0];

    heap[0] = heap[n];
    heap[n] = first;
    sift_down(heap, n, 0);
}

/* The candidate with i others before it; NULL: it is in none of the bands. */
static const struct candidate *nth(struct ranking *ranking, uint32_t i)
{
    while (i >= ranking->end - ranking->n_heap) {
        if (ranking->n_heap == 0 && !collect(ranking))
            return NULL;
        take_first(ranking->items + ranking->begin, --ranking->n_heap);
    }
    if (i < ranking->begin)
        return &ranking->items[i];
    return &ranking->items[ranking->end - 1 - (i - ranking->begin)];
}

/* ---- draws */

static double sum_of_row(const struct row *row, double *ret_sums)
{
    double sum = 0;

    for (uint32_t b = 0; b < row->n_blocks; b++) {
        uint32_t begin = b * row->block;
        ret_sums[b] =
            lam_softmax_sum(&row->softmax, row->logits + begin, block_end(row, b) - begin);
        sum += ret_sums[b];
    }
    return sum;
}

static uint32_t candidates_max(const struct lam_sample_params *params, const struct row *row)
{
    return params->top_k && params->top_k < row->n ? params->top_k : row->n;
}

/* How many of the largest candidates the filters keep (at least one), and their weights' sum; 0:
 * more than there are in bands. */
static uint32_t filter(
    const struct lam_sample_params *params, struct ranking *ranking, double *ret_mass)
{
    const struct row *row = ranking->row;
    uint32_t n_max = candidates_max(params, row);
    double sums[BLOCKS_MAX];
    double total = 0, mass = 1;
    uint32_t n_kept = 1;

    if (params->top_p < 1 && n_max == row->n)
        total = sum_of_row(row, sums);
    for (uint32_t i = 0; params->top_p < 1 && n_max < row->n && i < n_max; i++) {
        const struct candidate *next = nth(ranking, i);
        if (!next)
            return 0;
        total += lam_softmax_weight(&row->softmax, next->logit);
    }
    for (; n_kept < n_max; n_kept++) {
        const struct candidate *next = nth(ranking, n_kept);
        double weight = next ? lam_softmax_weight(&row->softmax, next->logit) : 0;
        if (params->top_p < 1 && mass >= (double)params->top_p * total)
            break;
        if (!next)
            return 0;
        if (weight < (double)params->min_p)
            break;
        mass += weight;
    }
    *ret_mass = mass;
    return n_kept;
}

/* The same without an order. weights: [row->n] */
static int32_t draw_flat(
    const struct lam_sample_params *params, const struct row *row, double uniform, double *weights)
{
    struct lam_prefix_stop stop = {
        .index = candidates_max(params, row), .sum = INFINITY, .sum_with = INFINITY};
    struct lam_prefix prefix;
    struct lam_prefix_found kept, found;

    lam_prefix_init(&prefix, &row->softmax, row->logits, row->n, weights);
    if (params->top_p < 1)
        stop.sum = (double)params->top_p *
                   (stop.index < row->n ? lam_prefix_find(&prefix, &stop).sum : prefix.sum);
    stop.weight = (double)params->min_p;
    kept = lam_prefix_find(&prefix, &stop);
    stop = (struct lam_prefix_stop){
        .index = kept.index, .sum = INFINITY, .sum_with = uniform * kept.sum};
    found = lam_prefix_find(&prefix, &stop);
    /* uniform * sum rounded up to the sum: nobody of the kept ones. */
    return found.id >= 0 && found.index < kept.index ? found.id : best_of(row);
}

static int32_t draw_filtered(
    const struct lam_sample_params *params, const struct row *row, double uniform, void *scratch)
{
    struct ranking ranking = {.row = row, .items = scratch};
    bool flat = candidates_max(params, row) > BLOCKS_MAX &&
                lam_softmax_sum(&row->softmax, row->tops, row->n_blocks) > FLAT_WEIGHT;
    double mass, sum = 0;
    uint32_t n_kept = 0;

    if (!flat) {
        set_floors(&ranking);
        n_kept = filter(params, &ranking, &mass);
    }
    if (n_kept == 0)
        return draw_flat(params, row, uniform, scratch);
    for (uint32_t i = 0; i < n_kept; i++) {
        sum += lam_softmax_weight(&row->softmax, nth(&ranking, i)->logit);
        if (uniform * mass < sum)
            return nth(&ranking, i)->id;
    }
    return nth(&ranking, 0)->id; /* uniform * mass rounded up to mass */
}

/* Without filters: by id. */
static int32_t draw(const struct row *row, double uniform)
{
    double sums[BLOCKS_MAX];
    double mass = sum_of_row(row, sums);
    double sum = 0;
    uint32_t b = 0;

    for (; b < row->n_blocks && uniform * mass >= sum + sums[b]; b++)
        sum += sums[b];
    for (uint32_t i = b * row->block; b < row->n_blocks && i < row->n; i++) {
        sum += lam_softmax_weight(&row->softmax, row->logits[i]);
        if (uniform * mass < sum)
            return (int32_t)i;
    }
    return best_of(row); /* uniform * mass rounded up to mass */
}

static bool penalises(const struct lam_sample_params *params)
{
    return params->repetition_penalty != 1 || params->presence_penalty != 0 ||
           params->frequency_penalty != 0;
}

bool lam_sample_is_argmax(const struct lam_sample_params *params)
{
    return params->temperature == 0 && !penalises(params);
}

int32_t lam_sample(const struct lam_sample_params *params, const float *logits, uint32_t n_vocab,
    const int32_t *history, uint32_t n_history, uint32_t n_prompt, uint64_t position, void *scratch)
{
    float *own = (float *)((struct candidate *)scratch + n_vocab);
    struct row row;
    double uniform;

    assert(n_vocab > 0);
    if (penalises(params)) {
        memcpy(own, logits, n_vocab * sizeof *own);
        penalise(params, own, n_vocab, history, n_history, n_prompt, scratch);
        logits = own;
    }
    look_at(logits, n_vocab, &row);
    if (params->temperature == 0 || row.top == -INFINITY)
        return best_of(&row);
    row.softmax = lam_softmax_make(row.top, params->temperature);
    uniform = lam_sample_uniform(params->seed, position);
    if (params->top_k || params->top_p < 1 || params->min_p > 0)
        return draw_filtered(params, &row, uniform, scratch);
    return draw(&row, uniform);
}
