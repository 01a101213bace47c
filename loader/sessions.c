/* sessions: see the header. Here are the events, each of which takes the lock; sessions_act.c
 * carries out what follows from them. */
#include "loader/sessions.h"

#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/size.h"
#include "common/trace.h"
#include "loader/sessions_impl.h"

/* Bytes that wait in the reader: as many as it has under way, so that it never runs dry between two
 * units. */
#define LOAD_BYTES_MAX (32 * LAM_MIB)

#define MESSAGE_BYTES_MAX 4096

/* ---- streams ---- */

/* The session of a call, or LAM_SLOTS_SESSIONS_MAX. */
static uint32_t find_call(const struct lam_sessions *sessions, const struct lam_rpc_call *call)
{
    uint32_t s = 0;

    while (s < LAM_SLOTS_SESSIONS_MAX && sessions->sessions[s].call != call)
        s++;
    return s;
}

static uint32_t find_token(const struct lam_sessions *sessions, const void *token)
{
    uint32_t s = 0;

    while (s < LAM_SLOTS_SESSIONS_MAX &&
           (!sessions->sessions[s].open ||
               memcmp(sessions->sessions[s].token, token, LAM_POOL_TOKEN_BYTES) != 0))
        s++;
    return s;
}

enum lam_status lam_sessions_open(struct lam_sessions *sessions, struct lam_rpc_call *call,
    const struct lam_session_request *request, struct lam_err *err)
{
    enum lam_status status;
    uint32_t s;

    pthread_mutex_lock(&sessions->lock);
    /* Asked under our lock: if the peer goes after a yes, its on_gone waits for the lock and then
     * finds the session. */
    if (!lam_handover_knows(sessions->handover, request->token, request->token_bytes))
        status = lam_fail(err, LAM_PERMISSION_DENIED,
            "the token is not that of an open connection to the pool socket: connect there first");
    else if (find_call(sessions, call) < LAM_SLOTS_SESSIONS_MAX ||
             find_token(sessions, request->token) < LAM_SLOTS_SESSIONS_MAX)
        status = lam_fail(err, LAM_FAILED_PRECONDITION,
            "this stream or this pool connection has a session already: one each at a time");
    else
        status = lam_slots_open(sessions->slots, request->units, request->n_units, &s, err);
    if (status == LAM_OK) {
        sessions->sessions[s].open = true;
        sessions->sessions[s].call = call;
        memcpy(sessions->sessions[s].token, request->token, LAM_POOL_TOKEN_BYTES);
        lam_sessions_settle(sessions);
    }
    pthread_mutex_unlock(&sessions->lock);
    return status;
}

static enum lam_status fail_no_session(struct lam_err *err)
{
    return lam_fail(
        err, LAM_FAILED_PRECONDITION, "the first message of a stream has to be an OpenSession");
}

enum lam_status lam_sessions_credit(
    struct lam_sessions *sessions, struct lam_rpc_call *call, uint32_t n_units, struct lam_err *err)
{
    enum lam_status status;
    uint32_t s;

    pthread_mutex_lock(&sessions->lock);
    s = find_call(sessions, call);
    if (s == LAM_SLOTS_SESSIONS_MAX)
        status = fail_no_session(err);
    else
        status = lam_slots_credit(sessions->slots, s, n_units, err);
    lam_sessions_settle(sessions);
    pthread_mutex_unlock(&sessions->lock);
    return status;
}

static void note_release(struct lam_sessions *sessions, uint32_t s, uint32_t unit)
{
    uint64_t since_ns = lam_watch_release(&sessions->watch, s, unit);
    uint64_t step_ns;

    if (since_ns == 0) /* a kept unit */
        return;
    lam_trace_end(LAM_TRACE_LEASE, "lease", since_ns, unit, LAM_TRACE_NONE,
        sessions->config.file->manifest.units[unit].bytes);
    step_ns = lam_watch_step(
        &sessions->watch, s, since_ns, lam_slots_stride(sessions->slots, s, unit), lam_now_ns());
    lam_slots_pace(sessions->slots, s, lam_reader_bytes_in(sessions->reader, step_ns));
}

enum lam_status lam_sessions_release(struct lam_sessions *sessions, struct lam_rpc_call *call,
    uint32_t unit, uint64_t generation, struct lam_err *err)
{
    enum lam_status status;
    uint32_t s;

    pthread_mutex_lock(&sessions->lock);
    s = find_call(sessions, call);
    if (s == LAM_SLOTS_SESSIONS_MAX)
        status = fail_no_session(err);
    else
        status = lam_slots_release(sessions->slots, s, unit, generation, err);
    if (status == LAM_OK)
        note_release(sessions, s, unit);
    lam_sessions_settle(sessions);
    pthread_mutex_unlock(&sessions->lock);
    return status;
}

static void end_session(struct lam_sessions *sessions, uint32_t s)
{
    sessions->sessions[s].open = false;
    sessions->sessions[s].call = NULL;
    lam_slots_close(sessions->slots, s);
    lam_watch_close(&sessions->watch, s, lam_now_ns());
    lam_sessions_settle(sessions);
}

static void detach_session(struct lam_sessions *sessions, uint32_t s)
{
    sessions->sessions[s].call = NULL;
    lam_slots_detach(sessions->slots, s);
    lam_watch_wait(&sessions->watch, s, LAM_SLOTS_WAIT_NONE, lam_now_ns());
    lam_sessions_settle(sessions);
}

void lam_sessions_close(struct lam_sessions *sessions, struct lam_rpc_call *call)
{
    uint32_t s;

    pthread_mutex_lock(&sessions->lock);
    s = find_call(sessions, call);
    if (s < LAM_SLOTS_SESSIONS_MAX)
        end_session(sessions, s);
    pthread_mutex_unlock(&sessions->lock);
}

void lam_sessions_detach(struct lam_sessions *sessions, struct lam_rpc_call *call)
{
    uint32_t s;

    pthread_mutex_lock(&sessions->lock);
    s = find_call(sessions, call);
    if (s < LAM_SLOTS_SESSIONS_MAX)
        detach_session(sessions, s);
    pthread_mutex_unlock(&sessions->lock);
}

void lam_sessions_tick(struct lam_sessions *sessions)
{
    pthread_mutex_lock(&sessions->lock);
    if (!sessions->lost && lam_slots_retry(sessions->slots) > 0)
        lam_sessions_settle(sessions);
    pthread_mutex_unlock(&sessions->lock);
}

enum lam_status lam_sessions_pin(struct lam_sessions *sessions, uint32_t unit, struct lam_err *err)
{
    enum lam_status status;

    pthread_mutex_lock(&sessions->lock);
    status = lam_slots_pin(sessions->slots, unit, err);
    lam_sessions_settle(sessions);
    pthread_mutex_unlock(&sessions->lock);
    return status;
}

enum lam_status lam_sessions_unpin(
    struct lam_sessions *sessions, uint32_t unit, struct lam_err *err)
{
    enum lam_status status;

    pthread_mutex_lock(&sessions->lock);
    status = lam_slots_unpin(sessions->slots, unit, err);
    pthread_mutex_unlock(&sessions->lock);
    return status;
}

/* ---- other threads ---- */

void lam_sessions_on_gone(void *arg, const unsigned char *token, int pid)
{
    struct lam_sessions *sessions = arg;
    struct lam_slots_counts before, after;
    bool had_session;
    uint32_t s;

    pthread_mutex_lock(&sessions->lock);
    s = find_token(sessions, token);
    had_session = s < LAM_SLOTS_SESSIONS_MAX;
    lam_slots_count(sessions->slots, &before);
    if (had_session) {
        if (sessions->sessions[s].call != NULL)
            lam_rpc_call_finish(
                sessions->sessions[s].call, LAM_UNAVAILABLE, "the pool connection was closed");
        end_session(sessions, s);
        sessions->watch.deaths++;
    }
    lam_slots_count(sessions->slots, &after);
    pthread_mutex_unlock(&sessions->lock);
    if (had_session)
        lam_info(
            "worker %d is gone: %" PRIu32 " leases dropped", pid, before.leases - after.leases);
}

void lam_sessions_on_lost(void *arg, const struct lam_err *why)
{
    struct lam_sessions *sessions = arg;

    lam_error("%s", why->text);
    pthread_mutex_lock(&sessions->lock);
    sessions->lost = true;
    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        if (sessions->sessions[s].call == NULL)
            continue;
        lam_rpc_call_finish(sessions->sessions[s].call, why->status, why->text);
        detach_session(sessions, s);
    }
    pthread_mutex_unlock(&sessions->lock);
}

void lam_sessions_on_issued(void *arg, const struct lam_load *issued)
{
    struct lam_sessions *sessions = arg;

    pthread_mutex_lock(&sessions->lock);
    lam_slots_issued(sessions->slots, issued->place, issued->generation);
    lam_sessions_settle(sessions);
    pthread_mutex_unlock(&sessions->lock);
}

void lam_sessions_on_read(void *arg, const struct lam_load_end *end)
{
    struct lam_sessions *sessions = arg;

    pthread_mutex_lock(&sessions->lock);
    lam_watch_check(&sessions->watch, end->place);
    lam_sessions_note_waits(sessions);
    pthread_mutex_unlock(&sessions->lock);
}

void lam_sessions_on_idle(void *arg)
{
    struct lam_sessions *sessions = arg;

    pthread_mutex_lock(&sessions->lock);
    lam_slots_idle(sessions->slots);
    lam_sessions_settle(sessions);
    pthread_mutex_unlock(&sessions->lock);
}

/* Once, however often it is tried again. */
static void say_failure(struct lam_sessions *sessions, uint32_t unit, const struct lam_err *err)
{
    if (!sessions->lost && !sessions->failing[unit])
        lam_error("%s", err->text);
    sessions->failing[unit] = true;
    sessions->fault_unit = unit;
    memcpy(sessions->fault_text, err->text, sizeof(sessions->fault_text));
}

static void say_recovery(struct lam_sessions *sessions, uint32_t unit)
{
    if (sessions->failing[unit])
        lam_info("unit %" PRIu32 " of %s can be read again", unit, sessions->config.file->path);
    sessions->failing[unit] = false;
}

void lam_sessions_on_load_end(void *arg, const struct lam_load_end *end)
{
    struct lam_sessions *sessions = arg;
    bool failed = end->status != LAM_OK && end->status != LAM_CANCELLED;
    uint32_t unit;

    pthread_mutex_lock(&sessions->lock);
    if (failed && lam_slots_is_stuck(sessions->slots, end->place))
        failed = false; /* it was told when it expired */
    else
        lam_watch_loaded(&sessions->watch, end->place, lam_now_ns());
    if (end->expired)
        unit = lam_slots_expired(sessions->slots, end->place, end->generation, end->status);
    else
        unit = lam_slots_loaded(sessions->slots, end->place, end->generation, end->status);
    if (failed)
        say_failure(sessions, unit, &end->err);
    else if (end->status == LAM_OK)
        say_recovery(sessions, unit);
    lam_sessions_settle(sessions);
    pthread_mutex_unlock(&sessions->lock);
}

void lam_sessions_back(struct lam_sessions *sessions, uint32_t r)
{
    pthread_mutex_lock(&sessions->lock);
    lam_regions_add(&sessions->regions, r);
    for (uint32_t p = 0; p < sessions->config.layout->n_places; p++) {
        if (lam_regions_have(&sessions->regions, p))
            lam_slots_back(sessions->slots, p);
    }
    lam_sessions_settle(sessions);
    pthread_mutex_unlock(&sessions->lock);
}

bool lam_sessions_next_region(
    struct lam_sessions *sessions, uint32_t *ret_region, bool *ret_awaited)
{
    uint32_t place;
    bool more;

    pthread_mutex_lock(&sessions->lock);
    place = lam_slots_lacks(sessions->slots);
    more = lam_regions_next(&sessions->regions, place, ret_region);
    pthread_mutex_unlock(&sessions->lock);
    *ret_awaited = place != LAM_REGIONS_NO_PLACE;
    return more;
}

bool lam_sessions_find_kept(
    struct lam_sessions *sessions, uint64_t file_offset, uint64_t bytes, uint64_t *ret_pool_offset)
{
    const struct lam_manifest *manifest = &sessions->config.file->manifest;
    bool found = false;

    pthread_mutex_lock(&sessions->lock);
    for (uint32_t u = 0; u < sessions->config.layout->n_units && !found; u++) {
        const struct lam_unit *unit = &manifest->units[u];
        uint32_t place;

        if (file_offset < unit->file_offset ||
            !lam_size_range_ok(file_offset - unit->file_offset, bytes, unit->bytes) ||
            !lam_slots_kept_ready(sessions->slots, u, &place))
            continue;
        *ret_pool_offset =
            lam_sessions_offset(sessions, u, place) + file_offset - unit->file_offset;
        found = true;
    }
    pthread_mutex_unlock(&sessions->lock);
    return found;
}

void lam_sessions_count(struct lam_sessions *sessions, struct lam_slots_counts *ret_counts)
{
    pthread_mutex_lock(&sessions->lock);
    lam_slots_count(sessions->slots, ret_counts);
    pthread_mutex_unlock(&sessions->lock);
}

void lam_sessions_time(struct lam_sessions *sessions, struct lam_sessions_times *ret_times)
{
    uint64_t now_ns;

    pthread_mutex_lock(&sessions->lock);
    now_ns = lam_now_ns();
    for (int wait = 0; wait < LAM_SLOTS_WAITS; wait++)
        ret_times->waited_ns[wait] =
            lam_watch_waited_ns(&sessions->watch, (enum lam_slots_wait)wait, now_ns);
    ret_times->lease_oldest_ns = lam_watch_oldest_ns(&sessions->watch, now_ns);
    ret_times->deaths = sessions->watch.deaths;
    pthread_mutex_unlock(&sessions->lock);
}

const struct lam_metric *lam_sessions_unit_seconds(const struct lam_sessions *sessions)
{
    return &sessions->watch.unit_seconds;
}

/* ---- life ---- */

enum lam_status lam_sessions_create(
    const struct lam_sessions_config *from, struct lam_sessions **ret_sessions, struct lam_err *err)
{
    const struct lam_layout *layout = from->layout;
    struct lam_sessions *sessions = lam_calloc(1, sizeof(*sessions));
    uint64_t *unit_bytes = lam_calloc(layout->n_units, sizeof(*unit_bytes));
    struct lam_slots_config config = {.n_seats = from->n_workers,
        .layout = layout,
        .unit_bytes = unit_bytes,
        .load_bytes_max = LOAD_BYTES_MAX};
    enum lam_status status;

    if (sessions == NULL || unit_bytes == NULL) {
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the sessions");
        goto fail;
    }
    for (uint32_t u = 0; u < layout->n_units; u++)
        unit_bytes[u] = lam_policy_window(&from->file->manifest.units[u], layout->align).bytes;
    sessions->config = *from;
    sessions->message = LAM_BUF(MESSAGE_BYTES_MAX);
    sessions->failing = lam_calloc(layout->n_units, sizeof(*sessions->failing));
    status = sessions->failing != NULL
                 ? lam_slots_create(&config, &sessions->slots, err)
                 : lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the sessions");
    if (status == LAM_OK)
        status = lam_regions_init(&sessions->regions, layout, err);
    if (status == LAM_OK)
        status = lam_watch_init(
            &sessions->watch, layout->n_slots + layout->n_ahead, layout->n_places, err);
    if (status != LAM_OK)
        goto fail;
    pthread_mutex_init(&sessions->lock, NULL);
    lam_free(unit_bytes);
    *ret_sessions = sessions;
    return LAM_OK;

fail:
    if (sessions != NULL) {
        lam_slots_destroy(sessions->slots);
        lam_regions_done(&sessions->regions);
        lam_free(sessions->failing);
    }
    lam_free(unit_bytes);
    lam_free(sessions);
    return status;
}

void lam_sessions_connect(struct lam_sessions *sessions, struct lam_reader *reader,
    struct lam_checker *checker, struct lam_handover *handover)
{
    sessions->reader = reader;
    sessions->checker = checker;
    sessions->handover = handover;
}

void lam_sessions_destroy(struct lam_sessions *sessions)
{
    if (sessions == NULL)
        return;
    lam_slots_destroy(sessions->slots);
    lam_regions_done(&sessions->regions);
    lam_watch_done(&sessions->watch);
    lam_buf_done(&sessions->message);
    lam_free(sessions->failing);
    pthread_mutex_destroy(&sessions->lock);
    lam_free(sessions);
}
