/* kept: see the header. */
#include "model/kept.h"

#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"

/* More than a drive has under way is of no use ahead. */
#define EARLY_BYTES_MAX (32 * LAM_MIB)

/* The least part of a unit that is worth a place of its own. */
#define PART_ALIGNS_MIN 16u

#define DRIVES_MAX 64u

/* Is unit u among k of n that are spread evenly? */
static bool is_spread(uint32_t u, uint32_t k, uint32_t n)
{
    return (uint64_t)(u + 1) * k / n > (uint64_t)u * k / n;
}

bool lam_kept_table_init(
    struct lam_kept_table *table, const struct lam_unit *units, uint32_t n_units, uint64_t align)
{
    uint32_t n = n_units;

    assert(n > 0 && (align & (align - 1)) == 0);
    *table = (struct lam_kept_table){.n_units = n, .align = align, .full_ratio = 1};
    table->windows = lam_calloc(n, sizeof(*table->windows));
    table->spread = lam_calloc((size_t)n + 1, sizeof(*table->spread));
    if (table->windows == NULL || table->spread == NULL) {
        lam_kept_table_done(table);
        return false;
    }
    for (uint32_t u = 0; u < n; u++) {
        uint64_t bytes = lam_align_up(units[u].file_offset + units[u].bytes, align) -
                         lam_align_down(units[u].file_offset, align);

        table->windows[u] = bytes;
        table->full_bytes += bytes;
        table->slot_bytes = bytes > table->slot_bytes ? bytes : table->slot_bytes;
    }
    /* The j-th of k units that are spread evenly over n is the last of its share: those that
     * is_spread says yes to. */
    for (uint32_t k = 1; k <= n; k++) {
        for (uint32_t j = 1; j <= k; j++)
            table->spread[k] += table->windows[((uint64_t)j * n + k - 1) / k - 1];
    }
    return true;
}

void lam_kept_table_set_drives(
    struct lam_kept_table *table, const uint32_t *drives, uint32_t n_drives)
{
    uint64_t bytes[DRIVES_MAX] = {0};
    uint64_t most = 0;
    uint32_t n_used = 0, n_runs = 0;

    assert(n_drives <= DRIVES_MAX);
    for (uint32_t u = 0; u < table->n_units; u++) {
        assert(drives[u] < n_drives);
        bytes[drives[u]] += table->windows[u];
        n_runs += drives[u] != drives[(u + 1) % table->n_units];
    }
    for (uint32_t d = 0; d < n_drives; d++) {
        n_used += bytes[d] > 0;
        most = bytes[d] > most ? bytes[d] : most;
    }
    table->full_ratio = (double)most / (double)table->full_bytes;
    table->ahead_ratio = n_runs == 0 ? 0
                                     : (double)(table->full_bytes - most) /
                                           (2 * (double)table->full_bytes) * n_used / n_runs;
}

void lam_kept_table_done(struct lam_kept_table *table)
{
    lam_free(table->windows);
    lam_free(table->spread);
    memset(table, 0, sizeof(*table));
}

uint64_t lam_kept_embedding_bytes(const struct lam_manifest *manifest, uint64_t align)
{
    const struct lam_extent *embedding = &manifest->embedding;

    if (!manifest->has_table)
        return 0;
    return lam_align_up(embedding->file_offset + embedding->bytes, align) -
           lam_align_down(embedding->file_offset, align);
}

/*
 * How much of the next unit each lane can take ahead. It is memory that keeps nothing, and the hit
 * ratio shall stay within a hundredth of what one slot for streaming would give; units smaller than
 * their slots take from that hundredth too.
 */
static uint64_t early_bytes(const struct lam_kept_table *table, uint32_t n_lanes,
    uint32_t lanes_wanted, uint64_t budget_bytes)
{
    uint64_t slot = table->slot_bytes;
    uint64_t uneven = lanes_wanted * (slot - table->full_bytes / table->n_units);
    uint64_t allowed = table->full_bytes / 1000 * 9;
    uint64_t left = (budget_bytes - n_lanes * slot) / n_lanes;
    uint64_t bytes = table->full_bytes / 1000;

    if (allowed > uneven + lanes_wanted * bytes)
        bytes = (allowed - uneven) / lanes_wanted;
    if (n_lanes == 1)
        bytes = left < slot ? left : slot;
    else if (bytes > EARLY_BYTES_MAX)
        bytes = EARLY_BYTES_MAX;
    return lam_align_down(bytes < left ? bytes : left, table->align);
}

/* Places in which drives read ahead of their turn, out of rest_bytes for these and the kept units
 * together: A = (F - K) r with K = rest - A. */
static uint32_t n_ahead(const struct lam_kept_table *table, uint64_t rest_bytes)
{
    double r = table->ahead_ratio;
    uint64_t wanted = (uint64_t)((double)(table->full_bytes - rest_bytes) * r / (1 - r));
    uint64_t n = (wanted + table->slot_bytes - 1) / table->slot_bytes;
    uint64_t most = rest_bytes / table->slot_bytes;

    return (uint32_t)(n < most ? n : most);
}

/* Marks the largest evenly spread set that fits into rest_bytes, then each smaller unit that fits
 * beside it; returns what is left. */
static uint64_t choose_units(
    const struct lam_kept_table *table, uint64_t rest_bytes, bool *marks, struct lam_kept *kept)
{
    uint32_t n = table->n_units;
    uint32_t k = n;

    while (table->spread[k] > rest_bytes)
        k--;
    rest_bytes -= table->spread[k];
    for (uint32_t u = 0; u < n; u++) {
        marks[u] = is_spread(u, k, n);
        if (!marks[u] && table->windows[u] <= rest_bytes) {
            marks[u] = true;
            rest_bytes -= table->windows[u];
        }
        kept->n_kept += marks[u];
        kept->pool_bytes += marks[u] ? table->windows[u] : 0;
    }
    return rest_bytes;
}

void lam_kept_choose(const struct lam_kept_table *table, uint64_t budget_bytes,
    uint32_t lanes_wanted, bool *kept, struct lam_kept *ret_kept)
{
    struct lam_kept it = {0};
    uint64_t rest = budget_bytes;

    if (table->full_bytes > budget_bytes) {
        uint64_t fit = budget_bytes / table->slot_bytes;

        assert(fit > 0 && lanes_wanted > 0);
        it.n_lanes = fit < lanes_wanted ? (uint32_t)fit : lanes_wanted;
        it.slot_bytes = table->slot_bytes;
        it.early_bytes = early_bytes(table, it.n_lanes, lanes_wanted, budget_bytes);
        rest -= it.n_lanes * (it.slot_bytes + it.early_bytes);
        it.n_ahead = n_ahead(table, rest);
        rest -= it.n_ahead * it.slot_bytes;
    }
    rest = choose_units(table, rest, kept, &it);
    /* Uneven units may leave fewer to stream than there are lanes. */
    if (it.n_lanes > table->n_units - it.n_kept)
        it.n_lanes = table->n_units - it.n_kept;
    if (it.n_ahead > table->n_units - it.n_kept - it.n_lanes)
        it.n_ahead = table->n_units - it.n_kept - it.n_lanes;
    /* The end of the first unit that streams, if that leaves each lane another one. */
    if (rest >= PART_ALIGNS_MIN * table->align && table->n_units - it.n_kept > it.n_lanes)
        it.part_bytes = lam_align_down(rest, table->align);
    it.pool_bytes +=
        it.n_lanes * (it.slot_bytes + it.early_bytes) + it.part_bytes + it.n_ahead * it.slot_bytes;
    assert(it.pool_bytes <= budget_bytes);
    *ret_kept = it;
}

double lam_kept_drives_share(
    const struct lam_kept_table *table, uint32_t n_ahead, uint64_t disk_bytes)
{
    double wanted = (double)disk_bytes * table->ahead_ratio;
    double have = (double)n_ahead * (double)table->slot_bytes;

    if (n_ahead == 0)
        return 1;
    return 1 - (1 - table->full_ratio) * (have < wanted ? have / wanted : 1);
}
