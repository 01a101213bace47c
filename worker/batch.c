/* batch: see the header. */
#include "worker/batch.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "common/size.h"

#define BATCH_CREDITS_MIN 3u /* one computed on, one ready, one on its way */

static uint32_t least(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

static void choose_auto(const struct lam_batch_facts *facts, struct lam_batch *batch)
{
    uint64_t unit_bytes = facts->n_units > 0 ? facts->unit_bytes_total / facts->n_units : 0;
    uint32_t room = facts->n_slots > 2 ? (facts->n_slots - 1) / 2 : 1;
    uint64_t wanted =
        unit_bytes > 0 ? (facts->n_ahead_bytes + unit_bytes - 1) / unit_bytes : facts->n_units;
    char unit[24], ahead[24];

    batch->n_units = 1;
    if (facts->n_slots == 0) {
        snprintf(batch->why, sizeof batch->why,
            "one unit a request (auto): all units stay in the loader's memory");
        return;
    }
    if (wanted > 1)
        batch->n_units = least(wanted, room);
    snprintf(batch->why, sizeof batch->why,
        "%" PRIu32 " of %" PRIu32 " units a request (auto): units are %s, the drive is busy with "
        "%s, and %" PRIu32 " slots hold two batches of at most %" PRIu32,
        batch->n_units, facts->n_units, lam_size_format(unit_bytes, unit, sizeof unit),
        lam_size_format(facts->n_ahead_bytes, ahead, sizeof ahead), facts->n_slots, room);
}

struct lam_batch lam_batch_choose(
    const struct lam_batch_facts *facts, uint32_t asked, uint32_t credits)
{
    struct lam_batch batch = {.n_units = least(asked, facts->n_units)};

    if (batch.n_units == 0)
        choose_auto(facts, &batch);
    else
        snprintf(batch.why, sizeof batch.why, "%" PRIu32 " of %" PRIu32 " units a request",
            batch.n_units, facts->n_units);
    batch.n_credits = credits ? credits : 2 * batch.n_units;
    if (!credits && batch.n_credits < BATCH_CREDITS_MIN)
        batch.n_credits = BATCH_CREDITS_MIN;
    if (!credits)
        batch.n_credits += facts->n_held;
    if (batch.n_credits < batch.n_units)
        batch.n_credits = batch.n_units;
    return batch;
}
