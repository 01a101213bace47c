/* watch: see the header. */
#include "loader/watch.h"

#include <assert.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"

#define MS LAM_NS_PER_MS
#define NO_UNIT UINT32_MAX

/* ---- loads ---- */

void lam_watch_load(struct lam_watch *watch, uint32_t place, uint64_t now_ns)
{
    watch->load_ns[place] = now_ns;
    watch->checking[place] = false;
}

void lam_watch_check(struct lam_watch *watch, uint32_t place)
{
    watch->checking[place] = true;
}

void lam_watch_loaded(struct lam_watch *watch, uint32_t place, uint64_t now_ns)
{
    watch->checking[place] = false;
    lam_metric_observe(&watch->unit_seconds, now_ns - watch->load_ns[place]);
}

/* ---- leases ---- */

static struct lam_watch_lease *find(const struct lam_watch *watch, uint32_t session, uint32_t unit)
{
    struct lam_watch_lease *leases = watch->leases + (size_t)session * watch->n_slots;

    for (uint32_t i = 0; i < watch->n_slots; i++) {
        if (leases[i].unit == unit)
            return &leases[i];
    }
    return NULL;
}

void lam_watch_grant(struct lam_watch *watch, uint32_t session, uint32_t unit, uint64_t now_ns)
{
    struct lam_watch_lease *lease = find(watch, session, NO_UNIT);

    assert(lease != NULL); /* a session holds no more units than there are slots */
    *lease = (struct lam_watch_lease){.unit = unit, .since_ns = now_ns};
}

uint64_t lam_watch_release(struct lam_watch *watch, uint32_t session, uint32_t unit)
{
    struct lam_watch_lease *lease = find(watch, session, unit);

    if (lease == NULL)
        return 0;
    lease->unit = NO_UNIT;
    return lease->since_ns;
}

/* What most of them take at least: a quarter is less. */
static uint64_t quarter_of(const uint64_t values[LAM_WATCH_STEPS])
{
    uint64_t sorted[LAM_WATCH_STEPS];

    for (uint32_t i = 0; i < LAM_WATCH_STEPS; i++) {
        uint32_t at = i;

        for (; at > 0 && sorted[at - 1] > values[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = values[i];
    }
    return sorted[LAM_WATCH_STEPS / 4];
}

uint64_t lam_watch_step(
    struct lam_watch *watch, uint32_t session, uint64_t since_ns, uint32_t n_steps, uint64_t now_ns)
{
    uint64_t before_ns = watch->released_ns[session];
    uint64_t step_ns = now_ns - since_ns;

    if (before_ns > 0 && (now_ns - before_ns) / n_steps < step_ns)
        step_ns = (now_ns - before_ns) / n_steps;
    watch->released_ns[session] = now_ns;
    watch->step_ns[watch->n_steps++ % LAM_WATCH_STEPS] = step_ns;
    return quarter_of(watch->step_ns);
}

uint64_t lam_watch_oldest_ns(const struct lam_watch *watch, uint64_t now_ns)
{
    uint64_t oldest_ns = 0;

    for (size_t i = 0; i < (size_t)LAM_SLOTS_SESSIONS_MAX * watch->n_slots; i++) {
        const struct lam_watch_lease *lease = &watch->leases[i];

        if (lease->unit != NO_UNIT && now_ns - lease->since_ns > oldest_ns)
            oldest_ns = now_ns - lease->since_ns;
    }
    return oldest_ns;
}

/* ---- waiting ---- */

static uint64_t waiting_ns(const struct lam_watch_session *session, uint64_t now_ns)
{
    return session->open ? now_ns - session->since_ns : 0;
}

void lam_watch_wait(struct lam_watch *watch, uint32_t s, enum lam_slots_wait wait, uint64_t now_ns)
{
    struct lam_watch_session *session = &watch->sessions[s];

    watch->waited_ns[session->wait] += waiting_ns(session, now_ns);
    *session = (struct lam_watch_session){.open = true, .wait = wait, .since_ns = now_ns};
}

void lam_watch_close(struct lam_watch *watch, uint32_t s, uint64_t now_ns)
{
    struct lam_watch_session *session = &watch->sessions[s];

    watch->waited_ns[session->wait] += waiting_ns(session, now_ns);
    session->open = false;
    watch->released_ns[s] = 0;
    for (uint32_t i = 0; i < watch->n_slots; i++)
        watch->leases[(size_t)s * watch->n_slots + i].unit = NO_UNIT;
}

uint64_t lam_watch_waited_ns(
    const struct lam_watch *watch, enum lam_slots_wait wait, uint64_t now_ns)
{
    uint64_t all_ns = watch->waited_ns[wait];

    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        if (watch->sessions[s].wait == wait)
            all_ns += waiting_ns(&watch->sessions[s], now_ns);
    }
    return all_ns;
}

/* ---- life ---- */

enum lam_status lam_watch_init(
    struct lam_watch *watch, uint32_t n_slots, uint32_t n_places, struct lam_err *err)
{
    size_t n_leases = (size_t)LAM_SLOTS_SESSIONS_MAX * n_slots;

    *watch = (struct lam_watch){.n_slots = n_slots,
        .n_places = n_places,
        .unit_seconds = {.name = "laminar_loader_unit_seconds",
            .help = "Time of one unit's load, from the decision to bytes that may be used.",
            .kind = LAM_HISTOGRAM,
            .unit = LAM_UNIT_SECONDS,
            .bounds = {MS, 2 * MS, 4 * MS, 8 * MS, 16 * MS, 32 * MS, 64 * MS, 125 * MS, 250 * MS,
                500 * MS, 1000 * MS, 2000 * MS, 4000 * MS, 8000 * MS, 16000 * MS, 32000 * MS}}};
    watch->load_ns = lam_calloc(n_places, sizeof(*watch->load_ns));
    watch->checking = lam_calloc(n_places, sizeof(*watch->checking));
    watch->leases = lam_calloc(n_leases + 1, sizeof(*watch->leases)); /* + 1: there may be none */
    if (watch->load_ns == NULL || watch->checking == NULL || watch->leases == NULL) {
        lam_watch_done(watch);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to watch the sessions");
    }
    for (size_t i = 0; i < n_leases; i++)
        watch->leases[i].unit = NO_UNIT;
    return LAM_OK;
}

void lam_watch_done(struct lam_watch *watch)
{
    lam_free(watch->load_ns);
    lam_free(watch->checking);
    lam_free(watch->leases);
    memset(watch, 0, sizeof(*watch));
}
