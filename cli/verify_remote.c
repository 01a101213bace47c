/* verify_remote: laminar.v1.Loader/Verify, from the side of `laminar verify --target`. */
#include <stdio.h>

#include "cli/verify_report.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/mem.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "rpc/client.h"
#include "rpc/message.h"

#define MESSAGE_BYTES_MAX 65536u
#define ARENA_BYTES 65536u
#define ANSWER_TIMEOUT_NS (10 * LAM_NS_PER_S)

struct remote {
    struct lam_rpc_channel *channel;
    struct lam_rpc_stream *stream;
    struct lam_arena arena;
    struct lam_buf out;
    struct lam_buf in;
    lam_verify_progress_fn *on_progress;
    void *arg;
};

static enum lam_status pack(
    struct remote *remote, const ProtobufCMessage *message, struct lam_err *err)
{
    if (lam_message_pack(message, &remote->out))
        return LAM_OK;
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "the question is too long for a loader");
}

static enum lam_status unpack(struct remote *remote, const ProtobufCMessageDescriptor *type,
    ProtobufCMessage **ret_message, struct lam_err *err)
{
    lam_arena_reset(&remote->arena);
    return lam_message_unpack(
        type, remote->in.data, remote->in.size, &remote->arena, ret_message, err);
}

static enum lam_status find_model(
    struct remote *remote, const char *path, uint64_t *ret_model, struct lam_err *err)
{
    Laminar__V1__RegisterModelRequest request = LAMINAR__V1__REGISTER_MODEL_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    enum lam_status status;

    request.path = (char *)path; /* protobuf-c has no const for texts */
    status = pack(remote, &request.base, err);
    if (status == LAM_OK)
        status = lam_rpc_unary(remote->channel, "/laminar.v1.Loader/RegisterModel",
            remote->out.data, remote->out.size, ANSWER_TIMEOUT_NS, &remote->in, err);
    if (status == LAM_OK)
        status = unpack(remote, &laminar__v1__register_model_response__descriptor, &message, err);
    if (status == LAM_OK)
        *ret_model = ((const Laminar__V1__RegisterModelResponse *)message)->model;
    return status;
}

static enum lam_status ask(struct remote *remote, uint64_t model, struct lam_err *err)
{
    Laminar__V1__VerifyRequest request = LAMINAR__V1__VERIFY_REQUEST__INIT;
    enum lam_status status;

    request.model = model;
    status = pack(remote, &request.base, err);
    if (status == LAM_OK)
        status = lam_rpc_stream_open(
            remote->channel, "/laminar.v1.Loader/Verify", LAM_RPC_NO_TIMEOUT, &remote->stream, err);
    if (status == LAM_OK)
        status = lam_rpc_stream_send(remote->stream, remote->out.data, remote->out.size, err);
    if (status == LAM_OK)
        status = lam_rpc_stream_half_close(remote->stream, err);
    return status;
}

static void take_finding(
    const Laminar__V1__VerifyFinding *finding, struct lam_verify_report *report)
{
    struct lam_verify_place *place = &report->places[report->n_places];

    if (report->n_places == LAM_VERIFY_PLACES_MAX)
        return;
    report->n_places++;
    place->offset = finding->offset;
    place->bytes = finding->bytes;
    snprintf(place->part, sizeof place->part, "%s", finding->part);
}

static void take_summary(
    const Laminar__V1__VerifySummary *summary, struct lam_verify_report *report)
{
    report->total_bytes = summary->total_bytes;
    report->n_chunks = summary->chunks;
    report->n_compared = summary->compared;
    report->n_recorded = summary->recorded;
    report->n_different = summary->different;
    snprintf(report->record, sizeof report->record, "%s", summary->record);
}

/* One answer; *summed: it was the summary. */
static enum lam_status take(
    struct remote *remote, struct lam_verify_report *report, bool *summed, struct lam_err *err)
{
    const Laminar__V1__VerifyResponse *response;
    ProtobufCMessage *message = NULL;
    enum lam_status status =
        unpack(remote, &laminar__v1__verify_response__descriptor, &message, err);

    if (status != LAM_OK)
        return status;
    response = (const Laminar__V1__VerifyResponse *)message;
    if (response->kind_case == LAMINAR__V1__VERIFY_RESPONSE__KIND_PROGRESS &&
        response->progress->done_bytes <= response->progress->total_bytes)
        remote->on_progress(
            remote->arg, response->progress->done_bytes, response->progress->total_bytes);
    else if (response->kind_case == LAMINAR__V1__VERIFY_RESPONSE__KIND_FINDING)
        take_finding(response->finding, report);
    else if (response->kind_case == LAMINAR__V1__VERIFY_RESPONSE__KIND_SUMMARY)
        take_summary(response->summary, report);
    *summed = response->kind_case == LAMINAR__V1__VERIFY_RESPONSE__KIND_SUMMARY;
    return LAM_OK;
}

static enum lam_status receive(
    struct remote *remote, struct lam_verify_report *report, struct lam_err *err)
{
    enum lam_status status = LAM_OK;
    bool summed = false;
    bool end = false;

    while (status == LAM_OK && !end) {
        status = lam_rpc_stream_recv(remote->stream, &remote->in, &end, err);
        if (status == LAM_OK && !end)
            status = take(remote, report, &summed, err);
    }
    if (status == LAM_OK && !summed)
        status = lam_fail(err, LAM_DATA_LOSS, "the loader ended without a result: try again");
    return status;
}

enum lam_status lam_verify_remote(const char *target, const char *path,
    lam_verify_progress_fn *on_progress, void *arg, struct lam_verify_report *report,
    struct lam_err *err)
{
    struct remote remote = {.out = LAM_BUF(MESSAGE_BYTES_MAX),
        .in = LAM_BUF(MESSAGE_BYTES_MAX),
        .on_progress = on_progress,
        .arg = arg};
    uint64_t model = 0;
    enum lam_status status = lam_arena_init(&remote.arena, ARENA_BYTES, err);

    if (status == LAM_OK)
        status = lam_rpc_channel_create(target, MESSAGE_BYTES_MAX, &remote.channel, err);
    if (status == LAM_OK)
        status = find_model(&remote, path, &model, err);
    if (status == LAM_UNAVAILABLE)
        lam_err_wrap(err, status,
            "no loader answers: --target is what a laminar-loader has as --listen, and without it "
            "the file is read here");
    if (status == LAM_OK)
        status = ask(&remote, model, err);
    if (status == LAM_OK)
        status = receive(&remote, report, err);
    lam_rpc_stream_destroy(remote.stream);
    lam_rpc_channel_destroy(remote.channel);
    lam_arena_done(&remote.arena);
    lam_buf_done(&remote.out);
    lam_buf_done(&remote.in);
    return status;
}
