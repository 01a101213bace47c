/*
 * sessions_act: what follows from an event. The state machine gives out its actions one by one;
 * loads go to the checker, grants and faults to the streams. Nothing here blocks.
 */
#include <assert.h>
#include <stdio.h>

#include "common/clock.h"
#include "common/trace.h"
#include "loader/sessions_impl.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "rpc/message.h"

static void send_response(
    struct lam_sessions *sessions, uint32_t session, Laminar__V1__StreamResponse *response)
{
    struct lam_rpc_call *call = sessions->sessions[session].call;

    if (!lam_message_pack(&response->base, &sessions->message) ||
        !lam_rpc_call_send(call, sessions->message.data, sessions->message.size))
        lam_rpc_call_finish(call, LAM_RESOURCE_EXHAUSTED, "the loader has no memory for a message");
}

uint64_t lam_sessions_offset(const struct lam_sessions *sessions, uint32_t unit, uint32_t place)
{
    return sessions->config.layout->places[place].pool_offset +
           sessions->config.file->manifest.units[unit].file_offset % sessions->config.layout->align;
}

static void grant(struct lam_sessions *sessions, const struct lam_slots_action *action)
{
    Laminar__V1__StreamResponse response = LAMINAR__V1__STREAM_RESPONSE__INIT;
    Laminar__V1__UnitReady ready = LAMINAR__V1__UNIT_READY__INIT;

    ready.unit = action->unit;
    ready.generation = action->generation;
    ready.pool_offset =
        sessions->config.pool_offset + lam_sessions_offset(sessions, action->unit, action->place);
    ready.kept = action->kept;
    ready.pool_ready_bytes = atomic_load(&sessions->config.pool->ready_bytes);
    ready.pool_ready_ns = atomic_load(&sessions->config.pool->ready_ns);
    response.kind_case = LAMINAR__V1__STREAM_RESPONSE__KIND_UNIT_READY;
    response.unit_ready = &ready;
    if (!action->kept)
        lam_watch_grant(&sessions->watch, action->session, action->unit, lam_now_ns());
    else /* never released: a mark in place of a span */
        lam_trace_end(LAM_TRACE_LEASE, "kept", lam_trace_begin(), action->unit, action->place, 0);
    send_response(sessions, action->session, &response);
}

static void report_fault(struct lam_sessions *sessions, const struct lam_slots_action *action)
{
    Laminar__V1__StreamResponse response = LAMINAR__V1__STREAM_RESPONSE__INIT;
    Laminar__V1__UnitFault fault = LAMINAR__V1__UNIT_FAULT__INIT;
    char text[sizeof(sessions->fault_text)];

    snprintf(text, sizeof(text), "%.300s cannot be read: the loader's log says why",
        sessions->config.file->path);
    fault.unit = action->unit;
    fault.status = (int32_t)action->status;
    fault.reason = action->unit == sessions->fault_unit ? sessions->fault_text : text;
    response.kind_case = LAMINAR__V1__STREAM_RESPONSE__KIND_UNIT_FAULT;
    response.unit_fault = &fault;
    send_response(sessions, action->session, &response);
}

static void load(struct lam_sessions *sessions, const struct lam_slots_action *action)
{
    const struct lam_unit *unit = &sessions->config.file->manifest.units[action->unit];
    struct lam_load it = {.place = action->place,
        .generation = action->generation,
        .window = lam_policy_window(unit, sessions->config.layout->align),
        .pool_offset = sessions->config.layout->places[action->place].pool_offset,
        .late_begin = action->late_begin,
        .late_end = action->late_end};

    assert(it.window.bytes <= sessions->config.layout->places[action->place].bytes);
    it.have_bytes = it.window.bytes - action->read_bytes;
    lam_watch_load(&sessions->watch, action->place, lam_now_ns());
    lam_checker_load(sessions->checker, action->unit, &it);
}

void lam_sessions_note_waits(struct lam_sessions *sessions)
{
    uint64_t now_ns = lam_now_ns();
    uint32_t place;

    for (uint32_t s = 0; s < LAM_SLOTS_SESSIONS_MAX; s++) {
        enum lam_slots_wait wait;

        if (sessions->sessions[s].call == NULL)
            continue;
        wait = lam_slots_wait_of(sessions->slots, s, &place);
        if (place != UINT32_MAX && sessions->watch.checking[place])
            wait = LAM_SLOTS_WAIT_CRC;
        lam_watch_wait(&sessions->watch, s, wait, now_ns);
    }
}

void lam_sessions_settle(struct lam_sessions *sessions)
{
    struct lam_slots_action action;

    while (lam_slots_next(sessions->slots, &action)) {
        switch (action.kind) {
        case LAM_SLOTS_LOAD:
            load(sessions, &action);
            break;
        case LAM_SLOTS_OPEN:
            lam_checker_open(sessions->checker, action.place, action.generation);
            break;
        case LAM_SLOTS_CANCEL:
            lam_checker_cancel(sessions->checker, action.place, action.generation);
            break;
        case LAM_SLOTS_GRANT:
            grant(sessions, &action);
            break;
        case LAM_SLOTS_FAULT:
            report_fault(sessions, &action);
            break;
        }
    }
    lam_sessions_note_waits(sessions);
}
