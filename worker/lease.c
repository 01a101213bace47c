/*
 * lease: see lease.h.
 *
 * The receiver thread writes the state of units and `end` under the lock; it never sends, because a
 * stream has one sender: the engine's thread. Every number in a message is checked before it is
 * believed: a wrong offset would be computed on as if it were weights.
 */
#include "worker/lease.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/mem.h"
#include "common/trace.h"
#include "common/size.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "rpc/message.h"

#define LEASE_MESSAGE_BYTES_MAX 4096u
#define LEASE_ARENA_BYTES 16384u
#define LEASE_UNIT_BYTES_MAX 5u /* of a unit's number in a cycle */
#define GOODBYE_NS (500 * LAM_NS_PER_MS)
#define LEASE_OFFSET_ALIGN                                                                         \
    4096u /* a unit keeps its file offset modulo this, so floats stay aligned */

enum unit_state {
    UNIT_AWAY,
    UNIT_READY, /* here until we release it */
    UNIT_KEPT,  /* here for as long as the session */
    UNIT_FAULTY,
};

struct unit_lease {
    enum unit_state state;
    uint64_t generation;
    uint64_t pool_offset;
};

struct lam_leases {
    struct lam_lease_config config;
    struct lam_rpc_stream *stream;
    struct lam_buf sending;
    struct lam_buf receiving;
    struct lam_arena arena; /* the receiver's */
    uint32_t *cycle;        /* [n_cycle], and the table behind them */
    uint32_t n_cycle;       /* units that are acquired and released */
    uint64_t n_acquired;    /* units, since the beginning: the next one is cycle[n % n_cycle] */
    uint64_t n_released;
    uint32_t owed;    /* credits of released units, not given back yet */
    uint64_t to_give; /* credits that may still be given */
    uint64_t stall_ns;
    pthread_t receiver;
    bool receiver_started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under the lock: */
    struct unit_lease *units; /* [n_units()] */
    struct lam_pool_ready pool_ready;
    bool ended;
    bool stopped;
    struct lam_err end;   /* why, when ended */
    struct lam_err fault; /* of the last unit that became UNIT_FAULTY */
};

static enum lam_status send_request(
    struct lam_leases *leases, const Laminar__V1__StreamRequest *request, struct lam_err *err)
{
    if (!lam_message_pack(&request->base, &leases->sending))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a message to the loader");
    return lam_rpc_stream_send(leases->stream, leases->sending.data, leases->sending.size, err);
}

static enum lam_status send_open(struct lam_leases *leases, struct lam_err *err)
{
    Laminar__V1__OpenSession open = LAMINAR__V1__OPEN_SESSION__INIT;
    Laminar__V1__StreamRequest request = LAMINAR__V1__STREAM_REQUEST__INIT;

    open.model = leases->config.model;
    open.token.data = (uint8_t *)leases->config.pool->token;
    open.token.len = sizeof leases->config.pool->token;
    if (leases->config.cycle || leases->config.table) { /* none: all of a pass */
        open.units = leases->cycle;
        open.n_units = (size_t)leases->n_cycle + leases->config.table;
    }
    request.kind_case = LAMINAR__V1__STREAM_REQUEST__KIND_OPEN;
    request.open = &open;
    return send_request(leases, &request, err);
}

static enum lam_status send_credit(struct lam_leases *leases, uint32_t n_units, struct lam_err *err)
{
    Laminar__V1__Credit credit = LAMINAR__V1__CREDIT__INIT;
    Laminar__V1__StreamRequest request = LAMINAR__V1__STREAM_REQUEST__INIT;

    if (n_units > leases->to_give)
        n_units = (uint32_t)leases->to_give;
    if (n_units == 0)
        return LAM_OK;
    leases->to_give -= n_units;
    credit.units = n_units;
    request.kind_case = LAMINAR__V1__STREAM_REQUEST__KIND_CREDIT;
    request.credit = &credit;
    return send_request(leases, &request, err);
}

static enum lam_status send_release(
    struct lam_leases *leases, uint32_t unit, uint64_t generation, struct lam_err *err)
{
    Laminar__V1__Release release = LAMINAR__V1__RELEASE__INIT;
    Laminar__V1__StreamRequest request = LAMINAR__V1__STREAM_REQUEST__INIT;

    release.unit = unit;
    release.generation = generation;
    request.kind_case = LAMINAR__V1__STREAM_REQUEST__KIND_RELEASE;
    request.release = &release;
    return send_request(leases, &request, err);
}

/* That the loader may speak of. */
static uint32_t n_units(const struct lam_leases *leases)
{
    return leases->config.manifest->n_units + leases->config.table;
}

/* The receiver's thread, under the lock. */
static enum lam_status on_ready(
    struct lam_leases *leases, const Laminar__V1__UnitReady *ready, struct lam_err *err)
{
    const struct lam_manifest *manifest = leases->config.manifest;
    struct unit_lease *lease;

    if (ready->unit >= n_units(leases))
        return lam_fail(err, LAM_DATA_LOSS, "the loader sent unit %" PRIu32 " of %" PRIu32,
            ready->unit, n_units(leases));
    if (ready->unit == manifest->n_units && !ready->kept)
        return lam_fail(err, LAM_DATA_LOSS, "the loader sent the embedding as a unit that streams");
    if (!lam_size_range_ok(
            ready->pool_offset, manifest->units[ready->unit].bytes, leases->config.pool->bytes) ||
        (ready->pool_offset - manifest->units[ready->unit].file_offset) % LEASE_OFFSET_ALIGN != 0)
        return lam_fail(err, LAM_DATA_LOSS,
            "the loader put unit %" PRIu32 " at offset %" PRIu64 " of the pool, where it cannot be",
            ready->unit, ready->pool_offset);
    lease = &leases->units[ready->unit];
    if (lease->state == UNIT_READY)
        return lam_fail(err, LAM_DATA_LOSS,
            "the loader sent unit %" PRIu32 " again before its release", ready->unit);
    *lease = (struct unit_lease){
        .state = ready->kept ? UNIT_KEPT : UNIT_READY,
        .generation = ready->generation,
        .pool_offset = ready->pool_offset,
    };
    leases->pool_ready = (struct lam_pool_ready){ready->pool_ready_bytes, ready->pool_ready_ns};
    return LAM_OK;
}

static enum lam_status on_fault(
    struct lam_leases *leases, const Laminar__V1__UnitFault *fault, struct lam_err *err)
{
    enum lam_status status = lam_status_from_wire(fault->status);

    if (fault->unit >= n_units(leases))
        return lam_fail(err, LAM_DATA_LOSS,
            "the loader sent a fault of unit %" PRIu32 " of %" PRIu32, fault->unit,
            n_units(leases));
    lam_ignore(lam_fail(&leases->fault, status == LAM_OK ? LAM_UNKNOWN : status,
                   "unit %" PRIu32 " of the model: %s", fault->unit, fault->reason),
        "kept for acquire");
    leases->units[fault->unit].state = UNIT_FAULTY;
    return LAM_OK;
}

static enum lam_status receive_one(struct lam_leases *leases, bool *ret_end, struct lam_err *err)
{
    ProtobufCMessage *message;
    const Laminar__V1__StreamResponse *response;
    enum lam_status status = lam_rpc_stream_recv(leases->stream, &leases->receiving, ret_end, err);

    if (status != LAM_OK || *ret_end)
        return status;
    lam_arena_reset(&leases->arena);
    status = lam_message_unpack(&laminar__v1__stream_response__descriptor, leases->receiving.data,
        leases->receiving.size, &leases->arena, &message, err);
    if (status != LAM_OK)
        return status;
    response = (const Laminar__V1__StreamResponse *)message;
    pthread_mutex_lock(&leases->lock);
    if (response->kind_case == LAMINAR__V1__STREAM_RESPONSE__KIND_UNIT_READY)
        status = on_ready(leases, response->unit_ready, err);
    else if (response->kind_case == LAMINAR__V1__STREAM_RESPONSE__KIND_UNIT_FAULT)
        status = on_fault(leases, response->unit_fault, err);
    pthread_cond_signal(&leases->changed);
    pthread_mutex_unlock(&leases->lock);
    return status;
}

static void *receiver_main(void *arg)
{
    struct lam_leases *leases = arg;
    struct lam_err err = {0};
    bool end = false;
    bool stopped;
    enum lam_status status;

    do {
        status = receive_one(leases, &end, &err);
    } while (status == LAM_OK && !end);
    if (status == LAM_OK)
        status = lam_fail(&err, LAM_UNAVAILABLE, "%s ended the session", leases->config.loader);
    pthread_mutex_lock(&leases->lock);
    leases->ended = true;
    lam_ignore(lam_fail(&leases->end, status, "lost the loader: %s", err.text), "kept for acquire");
    stopped = leases->stopped;
    pthread_cond_signal(&leases->changed);
    pthread_mutex_unlock(&leases->lock);
    if (leases->config.on_lost && !stopped)
        leases->config.on_lost(leases->config.lost_arg);
    return NULL;
}

static bool init_lock(struct lam_leases *leases)
{
    pthread_condattr_t attr;
    bool made;

    if (pthread_condattr_init(&attr) != 0)
        return false;
    made = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 &&
           pthread_cond_init(&leases->changed, &attr) == 0;
    pthread_condattr_destroy(&attr);
    if (made && pthread_mutex_init(&leases->lock, NULL) != 0) {
        pthread_cond_destroy(&leases->changed);
        return false;
    }
    return made;
}

static enum lam_status open_session(struct lam_leases *leases, struct lam_err *err)
{
    enum lam_status status = lam_rpc_stream_open(leases->config.channel,
        "/laminar.v1.Loader/Stream", LAM_RPC_NO_TIMEOUT, &leases->stream, err);

    if (status == LAM_OK)
        status = send_open(leases, err);
    if (status == LAM_OK)
        status = send_credit(leases, leases->config.credits, err);
    if (status != LAM_OK)
        return status;
    if (pthread_create(&leases->receiver, NULL, receiver_main, leases) != 0)
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "cannot start a thread for the loader's stream");
    leases->receiver_started = true;
    return LAM_OK;
}

enum lam_status lam_leases_create(
    const struct lam_lease_config *config, struct lam_leases **ret_leases, struct lam_err *err)
{
    struct lam_leases *leases = lam_calloc(1, sizeof *leases);
    enum lam_status status;

    assert(config->batch > 0 && config->batch <= config->credits);
    if (!leases || !init_lock(leases)) {
        lam_free(leases);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the leases");
    }
    leases->config = *config;
    leases->sending = LAM_BUF(LEASE_MESSAGE_BYTES_MAX + LEASE_UNIT_BYTES_MAX * n_units(leases));
    leases->receiving = LAM_BUF(LEASE_MESSAGE_BYTES_MAX);
    leases->units = lam_calloc(n_units(leases), sizeof *leases->units);
    leases->n_cycle = config->cycle ? config->n_cycle : config->manifest->n_units;
    leases->to_give = config->once ? leases->n_cycle : UINT64_MAX;
    leases->cycle = lam_calloc((size_t)leases->n_cycle + 1, sizeof *leases->cycle);
    for (uint32_t i = 0; leases->cycle && i < leases->n_cycle; i++)
        leases->cycle[i] = config->cycle ? config->cycle[i] : i;
    if (leases->cycle)
        leases->cycle[leases->n_cycle] = config->manifest->n_units;
    status = lam_arena_init(&leases->arena, LEASE_ARENA_BYTES, err);
    if (status == LAM_OK && (!leases->units || !leases->cycle))
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the leases");
    if (status == LAM_OK)
        status = open_session(leases, err);
    if (status != LAM_OK) {
        lam_leases_destroy(leases);
        return status;
    }
    *ret_leases = leases;
    return LAM_OK;
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){
        .tv_sec = (time_t)(ns / LAM_NS_PER_S),
        .tv_nsec = (long)(ns % LAM_NS_PER_S),
    };
}

/* Tells the loader that we are done with all units, and gives it a moment to say that it heard. */
static void say_goodbye(struct lam_leases *leases)
{
    struct timespec until = timespec_of(lam_now_ns() + GOODBYE_NS);
    bool in_time = lam_rpc_stream_half_close(leases->stream, NULL) == LAM_OK;

    pthread_mutex_lock(&leases->lock);
    while (in_time && !leases->ended)
        in_time = pthread_cond_timedwait(&leases->changed, &leases->lock, &until) != ETIMEDOUT;
    pthread_mutex_unlock(&leases->lock);
}

void lam_leases_destroy(struct lam_leases *leases)
{
    if (!leases)
        return;
    lam_leases_stop(leases);
    if (leases->receiver_started)
        say_goodbye(leases);
    if (leases->stream)
        lam_rpc_stream_cancel(leases->stream);
    if (leases->receiver_started)
        pthread_join(leases->receiver, NULL);
    lam_rpc_stream_destroy(leases->stream);
    pthread_cond_destroy(&leases->changed);
    pthread_mutex_destroy(&leases->lock);
    lam_arena_done(&leases->arena);
    lam_buf_done(&leases->sending);
    lam_buf_done(&leases->receiving);
    lam_free(leases->cycle);
    lam_free(leases->units);
    lam_free(leases);
}

/* Under the lock: until unit `index` is here, or cannot come any more. */
static enum lam_status wait_for(struct lam_leases *leases, uint32_t index, struct lam_err *err)
{
    const struct unit_lease *lease = &leases->units[index];
    struct timespec until = timespec_of(lam_now_ns() + leases->config.timeout_ns);
    bool in_time = true;

    for (;;) {
        if (leases->stopped)
            return lam_fail(err, LAM_CANCELLED, "the worker is stopping");
        if (lease->state == UNIT_READY || lease->state == UNIT_KEPT)
            return LAM_OK;
        if (lease->state == UNIT_FAULTY)
            return lam_fail(err, leases->fault.status, "%s", leases->fault.text);
        if (leases->ended)
            return lam_fail(err, leases->end.status, "%s", leases->end.text);
        if (!in_time)
            return lam_fail(err, LAM_DEADLINE_EXCEEDED,
                "the loader at %s did not bring unit %" PRIu32 " within %.0f s: is its disk stuck?",
                leases->config.loader, index, (double)leases->config.timeout_ns / LAM_NS_PER_S);
        in_time = pthread_cond_timedwait(&leases->changed, &leases->lock, &until) != ETIMEDOUT;
    }
}

bool lam_leases_ready(struct lam_leases *leases, uint32_t index)
{
    bool ready;

    pthread_mutex_lock(&leases->lock);
    ready = leases->units[index].state != UNIT_AWAY || leases->ended || leases->stopped;
    pthread_mutex_unlock(&leases->lock);
    return ready;
}

enum lam_status lam_leases_acquire(
    struct lam_leases *leases, uint32_t index, const void **ret_base, struct lam_err *err)
{
    uint64_t begin_ns = lam_now_ns();
    uint64_t pool_offset;
    enum lam_status status;

    assert(index == leases->cycle[leases->n_acquired % leases->n_cycle]);
    assert(leases->n_acquired - leases->n_released < leases->n_cycle);
    pthread_mutex_lock(&leases->lock);
    status = wait_for(leases, index, err);
    pool_offset = leases->units[index].pool_offset;
    pthread_mutex_unlock(&leases->lock);
    leases->stall_ns += lam_now_ns() - begin_ns;
    lam_trace_end(LAM_TRACE_WAIT, "wait for unit", begin_ns, index, LAM_TRACE_NONE, 0);
    if (status != LAM_OK)
        return status;
    leases->n_acquired++;
    *ret_base = leases->config.pool->base + pool_offset;
    return LAM_OK;
}

void lam_leases_release(struct lam_leases *leases, uint32_t index)
{
    uint64_t generation;
    bool give_back;

    assert(leases->n_released < leases->n_acquired);
    assert(index == leases->cycle[leases->n_released % leases->n_cycle]);
    leases->n_released++;
    pthread_mutex_lock(&leases->lock);
    generation = leases->units[index].generation;
    give_back = leases->units[index].state == UNIT_READY;
    if (give_back)
        leases->units[index].state = UNIT_AWAY;
    pthread_mutex_unlock(&leases->lock);
    /* A stream that has ended refuses both; the receiver reports its end. */
    if (!give_back || send_release(leases, index, generation, NULL) != LAM_OK)
        return;
    if (++leases->owed < leases->config.batch)
        return;
    lam_ignore(send_credit(leases, leases->owed, NULL), "as above");
    leases->owed = 0;
}

const void *lam_leases_find_kept(struct lam_leases *leases, uint32_t index)
{
    const void *base = NULL;

    pthread_mutex_lock(&leases->lock);
    if (index < n_units(leases) && leases->units[index].state == UNIT_KEPT)
        base = leases->config.pool->base + leases->units[index].pool_offset;
    pthread_mutex_unlock(&leases->lock);
    return base;
}

enum lam_status lam_leases_check(struct lam_leases *leases, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    pthread_mutex_lock(&leases->lock);
    if (leases->ended)
        status = lam_fail(err, leases->end.status, "%s", leases->end.text);
    pthread_mutex_unlock(&leases->lock);
    return status;
}

void lam_leases_stop(struct lam_leases *leases)
{
    pthread_mutex_lock(&leases->lock);
    leases->stopped = true;
    pthread_cond_signal(&leases->changed);
    pthread_mutex_unlock(&leases->lock);
}

struct lam_pool_ready lam_leases_pool_ready(struct lam_leases *leases)
{
    struct lam_pool_ready ready;

    pthread_mutex_lock(&leases->lock);
    ready = leases->pool_ready;
    pthread_mutex_unlock(&leases->lock);
    return ready;
}

uint64_t lam_leases_stall_ns(const struct lam_leases *leases)
{
    return leases->stall_ns;
}
