/* prefix: see prefix.h. */
#include "model/prefix.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define FEW 512u /* candidates of a bin that are brought into their order */
/* Candidates that lie further below the largest, in temperatures, weigh next to nothing. */
#define WIDTH_MAX 16.0f
#define LAST_BIN ((float)(LAM_PREFIX_BINS - 1))
#define STEP 16u /* logits that are looked at together */

struct search {
    const struct lam_prefix *prefix;
    const struct lam_prefix_stop *stop;
    struct lam_prefix_found found; /* so far */
};

/* Candidates in a bin, and again in one of its bins, by their keys. */
struct range {
    uint32_t bin;         /* of the prefix */
    uint32_t first, last; /* keys */
    uint32_t shift;       /* a bin has 2^shift of them */
};

/* The largest logit first, one for each value; zeros are one. Infinity is the largest number. */
static uint32_t key_of(float logit)
{
    uint32_t bits;

    logit = logit > FLT_MAX ? FLT_MAX : logit + 0.0f;
    memcpy(&bits, &logit, sizeof bits);
    return bits >> 31 ? bits : bits ^ INT32_MAX;
}

static float logit_of(uint32_t key)
{
    uint32_t bits = key >> 31 ? key : key ^ INT32_MAX;
    float logit;

    memcpy(&logit, &bits, sizeof logit);
    return logit;
}

/* Rounding keeps the order: no candidate is in a bin before that of a larger one. Infinity is at
 * the top; where NaN and minus infinity are does not matter, they weigh nothing. */
static float place_of(const struct lam_prefix *prefix, float logit)
{
    float below = prefix->softmax.top - logit;
    float at = (below > 0 ? below : 0) * prefix->scale;

    return at < LAST_BIN ? at : LAST_BIN;
}

static uint32_t bin_of(const struct lam_prefix *prefix, uint32_t i)
{
    return (uint32_t)place_of(prefix, prefix->logits[i]);
}

/* Two sums for each bin: one would wait for itself where neighbours have a bin in common. */
static void fill_bins(struct lam_prefix *prefix)
{
    struct lam_prefix_bins *bins = &prefix->bins;
    double odd[LAM_PREFIX_BINS] = {0};
    uint32_t i = 0;

    *bins = (struct lam_prefix_bins){0};
    for (; i + 1 < prefix->n; i += 2) {
        uint32_t a = bin_of(prefix, i), b = bin_of(prefix, i + 1);

        bins->counts[a] += prefix->weights[i] > 0;
        bins->sums[a] += prefix->weights[i];
        bins->counts[b] += prefix->weights[i + 1] > 0;
        odd[b] += prefix->weights[i + 1];
    }
    if (i < prefix->n) {
        bins->counts[bin_of(prefix, i)] += prefix->weights[i] > 0;
        bins->sums[bin_of(prefix, i)] += prefix->weights[i];
    }
    for (uint32_t b = 0; b < LAM_PREFIX_BINS; b++)
        bins->sums[b] += odd[b];
}

/* In columns: a running value would be one long chain of comparisons. */
static float lowest_of(const float *logits, uint32_t n, float lowest)
{
    float columns[STEP];
    uint32_t whole = n - n % STEP;

    for (uint32_t j = 0; j < STEP; j++)
        columns[j] = lowest;
    for (uint32_t i = 0; i < whole; i += STEP)
        for (uint32_t j = 0; j < STEP; j++)
            columns[j] = logits[i + j] < columns[j] ? logits[i + j] : columns[j];
    for (uint32_t j = 0; j < STEP; j++)
        lowest = columns[j] < lowest ? columns[j] : lowest;
    for (uint32_t i = whole; i < n; i++)
        lowest = logits[i] < lowest ? logits[i] : lowest;
    return lowest;
}

void lam_prefix_init(struct lam_prefix *prefix, const struct lam_softmax *softmax,
    const float *logits, uint32_t n, double *weights)
{
    float lowest = lowest_of(logits, n, softmax->top);
    float least = softmax->top - WIDTH_MAX / (float)softmax->rate;

    if (!(least >= softmax->least))
        least = softmax->least;
    lowest = lowest < least ? least : lowest;
    prefix->logits = logits;
    prefix->weights = weights;
    prefix->n = n;
    prefix->softmax = *softmax;
    prefix->scale = LAST_BIN / (softmax->top - lowest);
    if (!(prefix->scale <= FLT_MAX)) /* nothing to tell apart */
        prefix->scale = 0;
    prefix->sum = lam_softmax_weights(softmax, logits, n, weights);
    fill_bins(prefix);
}

static bool is_in(const struct lam_prefix *prefix, const struct range *range, uint32_t i)
{
    return bin_of(prefix, i) == range->bin && prefix->weights[i] > 0 &&
           key_of(prefix->logits[i]) - range->first <= range->last - range->first;
}

/* Is one of the next logits in the bin? */
static bool step_touches(const struct lam_prefix *prefix, uint32_t bin, uint32_t i)
{
    float low = (float)bin;
    float high = (float)bin + 1;
    uint32_t touches = 0;

    for (uint32_t j = 0; j < STEP; j++) {
        float at = place_of(prefix, prefix->logits[i + j]);

        touches |= (uint32_t)(at >= low) & (uint32_t)(at < high);
    }
    return touches;
}

/* The next candidate of the range from i on; n: there is none. */
static uint32_t next_in(const struct lam_prefix *prefix, const struct range *range, uint32_t i)
{
    while (i < prefix->n && !is_in(prefix, range, i)) {
        i++;
        while (i % STEP == 0 && prefix->n - i >= STEP && !step_touches(prefix, range->bin, i))
            i += STEP;
    }
    return i;
}

/* Makes the range as narrow as its candidates are. */
static void narrow(const struct lam_prefix *prefix, struct range *range)
{
    uint32_t first = range->last, last = range->first;

    for (uint32_t i = next_in(prefix, range, 0); i < prefix->n; i = next_in(prefix, range, i + 1)) {
        uint32_t key = key_of(prefix->logits[i]);

        first = key < first ? key : first;
        last = key > last ? key : last;
    }
    *range = (struct range){.bin = range->bin, .first = first, .last = last};
    while ((last - first) >> range->shift >= LAM_PREFIX_BINS)
        range->shift++;
}

static void fill_by_key(
    const struct lam_prefix *prefix, const struct range *range, struct lam_prefix_bins *bins)
{
    *bins = (struct lam_prefix_bins){0};
    for (uint32_t i = next_in(prefix, range, 0); i < prefix->n; i = next_in(prefix, range, i + 1)) {
        uint32_t at = (key_of(prefix->logits[i]) - range->first) >> range->shift;

        bins->counts[at]++;
        bins->sums[at] += prefix->weights[i];
    }
}

/* Does the search end before the next candidate, which weighs that much? Goes past it if not. */
static bool ends_before(struct search *search, uint32_t i)
{
    const struct lam_prefix_stop *stop = search->stop;
    double weight = search->prefix->weights[i];

    search->found.id = (int32_t)i;
    if (search->found.index >= stop->index || weight < stop->weight ||
        search->found.sum >= stop->sum || search->found.sum + weight > stop->sum_with)
        return true;
    search->found.index++;
    search->found.sum += weight;
    return false;
}

/* Goes past all candidates of the bin, the last of which has this logit or a larger one; or not at
 * all, if it might end among them. */
static bool passes(
    struct search *search, const struct lam_prefix_bins *bins, uint32_t b, float lowest)
{
    const struct lam_prefix_stop *stop = search->stop;
    double sum = search->found.sum + bins->sums[b];

    if (bins->counts[b] > stop->index - search->found.index || sum >= stop->sum ||
        sum > stop->sum_with)
        return false;
    if (stop->weight > 0 && !(lam_softmax_weight(&search->prefix->softmax, lowest) >= stop->weight))
        return false;
    search->found.index += bins->counts[b];
    search->found.sum = sum;
    return true;
}

/* Candidates with the same logit: by id. */
static bool ends_among_equals(struct search *search, const struct range *range)
{
    const struct lam_prefix *prefix = search->prefix;

    for (uint32_t i = next_in(prefix, range, 0); i < prefix->n; i = next_in(prefix, range, i + 1))
        if (ends_before(search, i))
            return true;
    return false;
}

static bool ends_among_few(struct search *search, const struct range *range)
{
    const struct lam_prefix *prefix = search->prefix;
    const float *logits = prefix->logits;
    uint32_t ids[FEW];
    uint32_t n = 0;

    for (uint32_t i = next_in(prefix, range, 0); i < prefix->n; i = next_in(prefix, range, i + 1)) {
        uint32_t at;

        assert(n < FEW);
        for (at = n++; at > 0 && key_of(logits[ids[at - 1]]) > key_of(logits[i]); at--)
            ids[at] = ids[at - 1];
        ids[at] = i;
    }
    for (uint32_t k = 0; k < n; k++)
        if (ends_before(search, ids[k]))
            return true;
    return false;
}

/* Three deep at most: 11 bits of 32 each time. */
static bool ends_in(struct search *search, const struct range *wide)
{
    struct range range = *wide;
    struct lam_prefix_bins bins;

    narrow(search->prefix, &range);
    if (range.first == range.last)
        return ends_among_equals(search, &range);
    fill_by_key(search->prefix, &range, &bins);
    for (uint32_t b = 0; b <= (range.last - range.first) >> range.shift; b++) {
        struct range part = {.bin = range.bin, .first = range.first + (b << range.shift)};
        uint32_t width = ((uint32_t)1 << range.shift) - 1;

        part.last = range.last - part.first < width ? range.last : part.first + width;
        if (bins.counts[b] == 0 || passes(search, &bins, b, logit_of(part.last)))
            continue;
        if (bins.counts[b] <= FEW ? ends_among_few(search, &part) : ends_in(search, &part))
            return true;
    }
    return false;
}

/* In one bin of the prefix. */
static bool ends_in_bin(struct search *search, uint32_t b)
{
    const struct lam_prefix *prefix = search->prefix;
    const struct range all = {.bin = b, .last = UINT32_MAX};
    float lowest = -FLT_MAX; /* one bin lower than it is: steps between bins are rounded */

    if (b + 2 < LAM_PREFIX_BINS && prefix->scale > 0)
        lowest = prefix->softmax.top - (float)(b + 2) / prefix->scale;
    if (prefix->bins.counts[b] == 0 || passes(search, &prefix->bins, b, lowest))
        return false;
    if (prefix->bins.counts[b] <= FEW)
        return ends_among_few(search, &all);
    return ends_in(search, &all);
}

struct lam_prefix_found lam_prefix_find(
    const struct lam_prefix *prefix, const struct lam_prefix_stop *stop)
{
    struct search search = {.prefix = prefix, .stop = stop, .found = {.id = -1}};

    for (uint32_t b = 0; b < LAM_PREFIX_BINS; b++)
        if (ends_in_bin(&search, b))
            return search.found;
    search.found.id = -1;
    return search.found;
}
