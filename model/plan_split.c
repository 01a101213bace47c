/*
 * plan_split: one range of pieces for each device.
 *
 * A longer range never costs less. So for a given time, each device in turn takes the longest range
 * that it manages, and if the end is reached the time is possible (`reach`); bisection finds the
 * least. Disk time is a sum over the devices (what they hold need not be read), which no greedy
 * walk can weigh: where the disk binds, a table of all ranges and dynamic programming over it find
 * the split that saves most within a link time, and bisection again finds the least time of both.
 */
#include <assert.h>
#include <string.h>

#include "common/mem.h"
#include "model/plan_impl.h"

/* Pairs of cuts that lam_split_even looks at for one device; beyond, shares are even enough. */
#define EVEN_PAIRS_MAX 20000u

/* What a range must satisfy: take at most so many ns, be resident, or need at most so much. */
struct demand {
    enum { DEMAND_TIME, DEMAND_RESIDENT, DEMAND_NEED } kind;
    uint64_t limit;
};

static uint64_t cap_of(const struct lam_problem *problem, uint32_t d)
{
    return problem->request->devices[problem->active[d]].cap_bytes;
}

static uint64_t cap_max(const struct lam_problem *problem)
{
    uint64_t max = 0;

    for (uint32_t d = 0; d < problem->n_active; d++)
        max = cap_of(problem, d) > max ? cap_of(problem, d) : max;
    return max;
}

/* What the range needs, as if all caps were the largest one; 0 for none. */
static uint64_t need_of(const struct lam_problem *problem, uint32_t d, uint32_t a, uint32_t b)
{
    uint64_t minimum = lam_share_minimum(problem, d, a, b);

    return minimum > 0 ? minimum + (cap_max(problem) - cap_of(problem, d)) : 0;
}

static bool is_met(
    struct lam_problem *problem, const struct demand *demand, uint32_t d, uint32_t a, uint32_t b)
{
    struct lam_share share;

    if (demand->kind == DEMAND_NEED)
        return need_of(problem, d, a, b) <= demand->limit;
    share = lam_share_of(problem, d, a, b, NULL);
    if (demand->kind == DEMAND_RESIDENT)
        return share.fits && share.resident;
    return share.fits && share.link_ns <= demand->limit;
}

/* As far as device d gets when it starts at cut number `from`. */
static uint32_t farthest(
    struct lam_problem *problem, const struct demand *demand, uint32_t d, uint32_t from)
{
    uint32_t good = from;
    uint32_t bad = problem->n_cuts;

    while (bad - good > 1) {
        uint32_t mid = good + (bad - good) / 2;
        if (is_met(problem, demand, d, from, mid))
            good = mid;
        else
            bad = mid;
    }
    return good;
}

/* at[d + 1]: as far as device d gets when it starts at at[d]. True when the end is reached. */
static bool reach(struct lam_problem *problem, const struct demand *demand, uint32_t *at)
{
    at[0] = 0;
    for (uint32_t d = 0; d < problem->n_active; d++)
        at[d + 1] = farthest(problem, demand, d, at[d]);
    return at[problem->n_active] == problem->n_cuts - 1;
}

/* The same from the end: at[d] is as early as device d can start. */
static bool reach_back(struct lam_problem *problem, const struct demand *demand, uint32_t *at)
{
    at[problem->n_active] = problem->n_cuts - 1;
    for (uint32_t d = problem->n_active; d-- > 0;) {
        int64_t good = at[d + 1];
        int64_t bad = -1;
        while (good - bad > 1) {
            int64_t mid = bad + (good - bad) / 2;
            if (is_met(problem, demand, d, (uint32_t)mid, at[d + 1]))
                good = mid;
            else
                bad = mid;
        }
        at[d] = (uint32_t)good;
    }
    return at[0] == 0;
}

/* Sums up what the ranges mean. */
static void measure(struct lam_problem *problem, struct lam_split *split)
{
    split->link_ns = 0;
    split->saved = 0;
    for (uint32_t d = 0; d < problem->n_active; d++) {
        struct lam_share share = lam_share_of(problem, d, split->at[d], split->at[d + 1], NULL);
        split->saved += share.saved;
        if (share.link_ns > split->link_ns)
            split->link_ns = share.link_ns;
    }
}

/* The split with the least link time, if that is at most limit_ns. */
static bool find_by_link(struct lam_problem *problem, uint64_t limit_ns, struct lam_split *split)
{
    struct demand demand = {DEMAND_TIME, limit_ns};
    struct lam_split tried;
    uint64_t low = 0;

    if (!reach(problem, &demand, split->at))
        return false;
    measure(problem, split);
    while (low < split->link_ns) {
        demand.limit = low + (split->link_ns - low) / 2;
        if (reach(problem, &demand, tried.at)) {
            measure(problem, &tried);
            *split = tried;
        } else {
            low = demand.limit + 1;
        }
    }
    return true;
}

/* All ranges of all devices. Devices that are alike share theirs. */
struct range {
    uint64_t link_ns; /* UINT64_MAX: does not fit */
    uint64_t saved;
};

struct table {
    struct lam_problem *problem;
    uint32_t like[LAM_PLAN_DEVICES_MAX]; /* the first device that is alike */
    struct range *ranges;                /* [n_active, n_cuts, n_cuts] */
    uint64_t
        *best; /* [n_active + 1, n_cuts]: most saved up to this cut, plus one; 0: not possible */
    uint32_t *from; /* the same shape: where the last range began */
};

static struct range *range_at(const struct table *table, uint32_t d, uint32_t a, uint32_t b)
{
    uint64_t n = table->problem->n_cuts;

    return &table->ranges[(table->like[d] * n + a) * n + b];
}

static bool are_alike(const struct lam_problem *problem, uint32_t d, uint32_t e)
{
    const struct lam_plan_device *devices = problem->request->devices;
    const struct lam_plan_device *one = &devices[problem->active[d]];
    const struct lam_plan_device *other = &devices[problem->active[e]];

    return one->cap_bytes == other->cap_bytes && one->context_bytes == other->context_bytes &&
           !(one->link_rate < other->link_rate) && !(one->link_rate > other->link_rate);
}

/* What one range costs and saves; at_most: ignoring that pieces do not fill the room. */
static struct range range_of(
    struct lam_problem *problem, bool at_most, uint32_t d, uint32_t a, uint32_t b)
{
    struct lam_room room;
    struct lam_share share;

    if (at_most) {
        room = lam_room_of(problem, d, a, b);
        return (struct range){room.fits ? 0 : UINT64_MAX, room.bytes};
    }
    share = lam_share_of(problem, d, a, b, NULL);
    return (struct range){share.fits ? share.link_ns : UINT64_MAX, share.saved};
}

static bool table_init(struct table *table, struct lam_problem *problem, bool at_most)
{
    size_t n = problem->n_cuts;
    size_t n_devices = problem->n_active;

    table->problem = problem;
    table->ranges = lam_calloc(n_devices * n * n, sizeof *table->ranges);
    table->best = lam_calloc((n_devices + 1) * n, sizeof *table->best);
    table->from = lam_calloc((n_devices + 1) * n, sizeof *table->from);
    if (!table->ranges || !table->best || !table->from)
        return false;
    for (uint32_t d = 0; d < n_devices; d++) {
        while (!are_alike(problem, table->like[d], d))
            table->like[d]++;
        for (uint32_t a = 0; a < n && table->like[d] == d; a++)
            for (uint32_t b = a; b < n; b++) {
                struct range range = range_of(problem, at_most, d, a, b);
                *range_at(table, d, a, b) = range;
                if (range.link_ns < UINT64_MAX)
                    continue;
                for (; b < n; b++) /* nor does a longer range fit */
                    range_at(table, d, a, b)->link_ns = UINT64_MAX;
            }
    }
    return true;
}

static void table_done(struct table *table)
{
    lam_free(table->ranges);
    lam_free(table->best);
    lam_free(table->from);
}

/* The split that saves most with no link slower than limit_ns. */
static bool find_by_saved(const struct table *table, uint64_t limit_ns, struct lam_split *split)
{
    uint32_t n = table->problem->n_cuts;
    uint32_t n_devices = table->problem->n_active;

    memset(table->best, 0, (size_t)(n_devices + 1) * n * sizeof *table->best);
    table->best[0] = 1;
    for (uint32_t d = 0; d < n_devices; d++)
        for (uint32_t a = 0; a < n; a++) {
            uint64_t here = table->best[d * n + a];
            for (uint32_t b = a; here > 0 && b < n; b++) {
                const struct range *range = range_at(table, d, a, b);
                uint64_t *best = &table->best[(d + 1) * n + b];
                if (range->link_ns > limit_ns)
                    break; /* longer ranges cost no less */
                if (here + range->saved <= *best)
                    continue;
                *best = here + range->saved;
                table->from[(d + 1) * n + b] = a;
            }
        }
    if (table->best[n_devices * n + n - 1] == 0)
        return false;
    split->at[n_devices] = n - 1;
    for (uint32_t d = n_devices; d > 0; d--)
        split->at[d - 1] = table->from[d * n + split->at[d]];
    measure(table->problem, split);
    return true;
}

/* Least link time in [low, high] within which so much can be saved that the disk takes at most
 * disk_ns, or as long as the link where disk_ns is 0. False: there is none. */
static bool bisect(const struct table *table, uint64_t to_read, uint64_t low, uint64_t high,
    uint64_t disk_ns, struct lam_split *split)
{
    bool found = false;

    while (low <= high && high < UINT64_MAX) {
        uint64_t mid = low + (high - low) / 2;
        struct lam_split tried;
        if (find_by_saved(table, mid, &tried) &&
            lam_plan_disk_ns(table->problem->request, table->problem->drives_share, to_read,
                tried.saved) <= (disk_ns > 0 ? disk_ns : mid)) {
            *split = tried;
            found = true;
            high = mid - 1; /* wraps below 0, which ends the loop */
        } else {
            low = mid + 1;
        }
    }
    return found;
}

/* Where the disk binds: the least time of both in [low, high], and for that the least link time.
 * As lam_split_find. */
static int find_by_both(struct lam_problem *problem, uint64_t to_read, uint64_t low, uint64_t high,
    struct lam_split *split)
{
    struct table table = {0};
    bool ok = table_init(&table, problem, false);
    bool found = ok && bisect(&table, to_read, low, high, 0, split);

    if (found) {
        uint64_t disk_ns =
            lam_plan_disk_ns(problem->request, problem->drives_share, to_read, split->saved);
        uint64_t time_ns = split->link_ns > disk_ns ? split->link_ns : disk_ns;
        found = bisect(&table, to_read, low, time_ns, time_ns, split);
        assert(found); /* it was found before */
    }
    table_done(&table);
    return ok ? found : -1;
}

/* No split can save more, whatever RAM keeps. False: no memory. */
static bool find_saved_max(struct lam_problem *problem)
{
    struct table table = {0};
    struct lam_split split;
    bool ok = problem->saved_max > 0 || table_init(&table, problem, true);

    if (problem->saved_max == 0 && ok) {
        problem->saved_max = 1;
        if (find_by_saved(&table, 0, &split))
            problem->saved_max = table.best[(size_t)(problem->n_active + 1) * problem->n_cuts - 1];
    }
    table_done(&table);
    return ok;
}

int lam_split_find(
    struct lam_problem *problem, uint64_t to_read, uint64_t limit_ns, struct lam_split *ret_split)
{
    struct lam_split split = {0};
    uint64_t disk_ns, most;

    if (to_read > 0 && !find_saved_max(problem))
        return -1;
    most = problem->saved_max < to_read ? problem->saved_max : to_read;
    if (limit_ns == 0 ||
        lam_plan_disk_ns(problem->request, problem->drives_share, to_read, most) >= limit_ns ||
        !find_by_link(problem, limit_ns - 1, &split))
        return 0;
    disk_ns = lam_plan_disk_ns(problem->request, problem->drives_share, to_read, split.saved);
    if (disk_ns > split.link_ns && problem->n_active > 1) {
        uint64_t high = disk_ns < limit_ns - 1 ? disk_ns : limit_ns - 1;
        int found = find_by_both(problem, to_read, split.link_ns, high, &split);
        if (found <= 0)
            return found;
    } else if (disk_ns >= limit_ns) {
        return 0;
    }
    *ret_split = split;
    return 1;
}

/* Windows of the cuts within which every split of that time lies, and the best pairs in them. */
struct evening {
    uint32_t early[LAM_PLAN_DEVICES_MAX + 1];
    uint32_t late[LAM_PLAN_DEVICES_MAX + 1];
    uint64_t *least; /* [n_active + 1, n_cuts]: smallest share so far, plus one; 0: not possible */
    uint32_t *from;
};

static void even_out(
    struct lam_problem *problem, struct evening *evening, uint64_t link_ns, uint32_t *at)
{
    uint32_t n = problem->n_cuts;
    uint32_t n_devices = problem->n_active;

    evening->least[0] = UINT64_MAX;
    for (uint32_t d = 0; d < n_devices; d++)
        for (uint32_t a = evening->early[d]; a <= evening->late[d]; a++) {
            uint64_t here = evening->least[d * n + a];
            for (uint32_t b = evening->early[d + 1]; here > 0 && b <= evening->late[d + 1]; b++) {
                uint64_t *least = &evening->least[(d + 1) * n + b];
                struct lam_share share;
                uint64_t now;
                if (b < a)
                    continue;
                share = lam_share_of(problem, d, a, b, NULL);
                now = share.link_ns + 1 < here ? share.link_ns + 1 : here;
                if (!share.fits || share.link_ns > link_ns || now <= *least)
                    continue;
                *least = now;
                evening->from[(d + 1) * n + b] = a;
            }
        }
    if (evening->least[n_devices * n + n - 1] == 0)
        return;
    at[n_devices] = n - 1;
    for (uint32_t d = n_devices; d > 0; d--)
        at[d - 1] = evening->from[d * n + at[d]];
}

bool lam_split_even(struct lam_problem *problem, uint64_t to_read, struct lam_split *split)
{
    struct demand demand = {DEMAND_TIME, split->link_ns};
    struct lam_split even = *split;
    struct evening evening = {0};
    uint64_t time_ns =
        lam_plan_disk_ns(problem->request, problem->drives_share, to_read, split->saved);
    size_t n_cells = (size_t)(problem->n_active + 1) * problem->n_cuts;
    bool small =
        reach(problem, &demand, evening.late) && reach_back(problem, &demand, evening.early);

    for (uint32_t d = 0; d < problem->n_active && small; d++)
        small = (uint64_t)(evening.late[d] - evening.early[d] + 1) *
                    (evening.late[d + 1] - evening.early[d + 1] + 1) <
                EVEN_PAIRS_MAX;
    evening.least = lam_calloc(n_cells, sizeof *evening.least);
    evening.from = lam_calloc(n_cells, sizeof *evening.from);
    if (small && evening.least && evening.from) {
        even_out(problem, &evening, split->link_ns, even.at);
        measure(problem, &even);
        if (time_ns < split->link_ns)
            time_ns = split->link_ns;
        if (lam_plan_disk_ns(problem->request, problem->drives_share, to_read, even.saved) <=
            time_ns)
            *split = even;
    }
    small = evening.least && evening.from;
    lam_free(evening.least);
    lam_free(evening.from);
    return small;
}

/* far[d][k]: as far as k of the first d devices get. used[d][k]: device d - 1 is one of them. */
struct few {
    uint32_t far[LAM_PLAN_DEVICES_MAX + 1][LAM_PLAN_DEVICES_MAX + 1];
    bool used[LAM_PLAN_DEVICES_MAX + 1][LAM_PLAN_DEVICES_MAX + 1];
};

static void fill_few(struct lam_problem *problem, struct few *few)
{
    const struct demand demand = {DEMAND_RESIDENT, 0};

    for (uint32_t d = 1; d <= problem->n_active; d++)
        for (uint32_t k = 1; k <= d; k++) {
            uint32_t with = farthest(problem, &demand, d - 1, few->far[d - 1][k - 1]);
            few->used[d][k] = with > few->far[d - 1][k];
            few->far[d][k] = few->used[d][k] ? with : few->far[d - 1][k];
        }
}

bool lam_split_resident(struct lam_problem *problem, struct lam_split *ret_split)
{
    struct few few = {0};
    uint32_t n = problem->n_active;
    uint32_t last = problem->n_cuts - 1;
    uint32_t k = 1;

    fill_few(problem, &few);
    while (k < n && few.far[n][k] < last)
        k++;
    if (few.far[n][k] < last)
        return false;
    ret_split->at[n] = last;
    for (uint32_t d = n; d > 0; d--) {
        k -= few.used[d][k];
        ret_split->at[d - 1] = few.far[d - 1][k];
    }
    measure(problem, ret_split);
    return true;
}

uint64_t lam_split_nearest(
    struct lam_problem *problem, struct lam_split *ret_split, uint32_t *ret_device)
{
    struct demand demand = {DEMAND_NEED, 0};
    uint64_t low = 0;
    uint64_t high = (uint64_t)1 << 62; /* sizes are far below: see the check in plan.c */

    while (low < high) {
        demand.limit = low + (high - low) / 2;
        if (reach(problem, &demand, ret_split->at))
            high = demand.limit;
        else
            low = demand.limit + 1;
    }
    demand.limit = low;
    lam_ignore(reach(problem, &demand, ret_split->at), "the bisection has shown that it does");
    for (uint32_t d = 0; d < problem->n_active; d++)
        if (need_of(problem, d, ret_split->at[d], ret_split->at[d + 1]) == low)
            *ret_device = problem->active[d];
    return low;
}
