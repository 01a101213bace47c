/* service: see the header. */
#include "loader/service.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "rpc/message.h"

/* A ReadExtent of 4,096 offsets is the largest message. */
#define ARENA_BYTES 262144u

#define REPLY_BYTES_MAX 16384u

static void finish_err(struct lam_rpc_call *call, const struct lam_err *err)
{
    lam_rpc_call_finish(call, err->status, err->text);
}

/* The message, or NULL after having ended the call. Lives until the next one. */
static void *unpack(struct lam_service *service, struct lam_rpc_call *call,
    const ProtobufCMessageDescriptor *type, const void *bytes, size_t n_bytes)
{
    ProtobufCMessage *message = NULL;
    struct lam_err err = {0};

    lam_arena_reset(&service->arena);
    if (lam_message_unpack(type, bytes, n_bytes, &service->arena, &message, &err) == LAM_OK)
        return message;
    finish_err(call, &err);
    return NULL;
}

static void reply(struct lam_rpc_call *call, const ProtobufCMessage *message)
{
    struct lam_buf packed = LAM_BUF(REPLY_BYTES_MAX);

    if (lam_message_pack(message, &packed))
        lam_rpc_call_reply(call, packed.data, packed.size);
    else
        lam_rpc_call_finish(
            call, LAM_RESOURCE_EXHAUSTED, "the loader has no memory for the answer");
    lam_buf_done(&packed);
}

/* NULL: no such model, *err says so. */
static struct lam_share *find_model(
    const struct lam_service *service, uint64_t model, struct lam_err *err)
{
    struct lam_share *share = lam_models_at(service->models, model);

    if (share == NULL)
        lam_ignore(lam_fail(err, LAM_NOT_FOUND,
                       "no model %" PRIu64 " here: RegisterModel gives the handles of the %" PRIu32
                       " that this loader serves",
                       model, service->models->n_shares),
            "NULL says it");
    return share;
}

/* ---- RegisterModel ---- */

static struct lam_share *find_path(
    const struct lam_service *service, const char *path, uint64_t *ret_model, struct lam_err *err)
{
    uint64_t model = lam_models_find(service->models, path);

    if (model == 0) {
        lam_ignore(lam_fail(err, LAM_NOT_FOUND,
                       "this loader does not serve %.200s (its first model is %.200s): start it "
                       "with --model for each model",
                       path, service->models->names[0].given),
            "NULL says it");
        return NULL;
    }
    *ret_model = model;
    return lam_models_at(service->models, model);
}

static void register_model(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_service *service = arg;
    Laminar__V1__RegisterModelResponse response = LAMINAR__V1__REGISTER_MODEL_RESPONSE__INIT;
    Laminar__V1__RegisterModelRequest *request =
        unpack(service, call, &laminar__v1__register_model_request__descriptor, bytes, n_bytes);
    struct lam_err err = {0};
    const struct lam_share *share;
    struct lam_reader_info info;

    if (request == NULL)
        return;
    share = find_path(service, request->path, &response.model, &err);
    if (share == NULL || lam_checker_lost(share->checker, &err) != LAM_OK) {
        finish_err(call, &err);
        return;
    }
    response.digest = share->file.digest;
    response.header_bytes = share->file.header_bytes;
    response.file_bytes = share->file.bytes;
    response.units = share->file.manifest.n_units;
    response.unit_bytes_total = share->file.manifest.unit_bytes_total;
    response.unit_bytes_max = share->file.manifest.unit_bytes_max;
    response.units_kept = share->layout.n_kept - share->layout.has_table;
    response.table_kept = share->layout.has_table;
    response.pool_bytes = service->pool->bytes;
    lam_reader_info(share->reader, &info);
    response.slots = share->layout.n_lanes;
    response.ahead_bytes = info.depth * info.request_bytes;
    reply(call, &response.base);
}

/* ---- ReadHeader ---- */

static void read_header(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_service *service = arg;
    const struct lam_share *share;
    const struct lam_file *file;
    struct lam_buf packed = LAM_BUF(LAM_SERVICE_CHUNK_BYTES + 64);
    Laminar__V1__ReadHeaderRequest *request =
        unpack(service, call, &laminar__v1__read_header_request__descriptor, bytes, n_bytes);
    struct lam_err err = {0};
    bool sent = true;

    if (request == NULL)
        return;
    share = find_model(service, request->model, &err);
    if (share == NULL) {
        finish_err(call, &err);
        return;
    }
    file = &share->file;
    for (uint64_t at = 0; at < file->header_bytes && sent; at += LAM_SERVICE_CHUNK_BYTES) {
        Laminar__V1__ReadHeaderResponse response = LAMINAR__V1__READ_HEADER_RESPONSE__INIT;
        uint64_t left = file->header_bytes - at;

        response.offset = at;
        response.data.data = file->header + at;
        response.data.len = left < LAM_SERVICE_CHUNK_BYTES ? left : LAM_SERVICE_CHUNK_BYTES;
        sent = lam_message_pack(&response.base, &packed) &&
               lam_rpc_call_send(call, packed.data, packed.size);
    }
    lam_buf_done(&packed);
    if (sent)
        lam_rpc_call_finish(call, LAM_OK, NULL);
    else
        lam_rpc_call_finish(
            call, LAM_RESOURCE_EXHAUSTED, "the loader has no memory for the header");
}

/* ---- ReadExtent ---- */

static void read_extent(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_service *service = arg;
    Laminar__V1__ReadExtentRequest *request =
        unpack(service, call, &laminar__v1__read_extent_request__descriptor, bytes, n_bytes);
    struct lam_share *share;
    struct lam_err err = {0};

    /* One request a call: a second message would be answered into a call that has ended. */
    if (request == NULL || lam_rpc_call_user(call) != NULL)
        return;
    lam_rpc_call_set_user(call, service);
    share = find_model(service, request->model, &err);
    if (share == NULL || lam_extents_read(share->extents, call, request->offsets,
                             request->n_offsets, request->bytes_each, &err) != LAM_OK)
        finish_err(call, &err);
}

/* ---- Stream ---- */

static enum lam_status open_session(struct lam_service *service, struct lam_rpc_call *call,
    const Laminar__V1__OpenSession *open, struct lam_err *err)
{
    struct lam_share *share = find_model(service, open->model, err);
    struct lam_session_request request = {.token = open->token.data,
        .token_bytes = open->token.len,
        .units = open->units,
        .n_units = open->n_units};
    enum lam_status status;

    if (share == NULL)
        return err->status;
    status = lam_checker_lost(share->checker, err);
    if (status == LAM_OK && lam_rpc_call_user(call) != NULL)
        status = lam_fail(
            err, LAM_FAILED_PRECONDITION, "this stream has a session already: open another stream");
    if (status == LAM_OK)
        status = lam_sessions_open(share->sessions, call, &request, err);
    if (status == LAM_OK)
        lam_rpc_call_set_user(call, share);
    return status;
}

/* The stream ends, and its worker has not said that it is done. */
static void detach_session(struct lam_rpc_call *call)
{
    struct lam_share *share = lam_rpc_call_user(call);

    if (share != NULL)
        lam_sessions_detach(share->sessions, call);
}

static enum lam_status take_message(struct lam_service *service, struct lam_rpc_call *call,
    const Laminar__V1__StreamRequest *request, struct lam_err *err)
{
    struct lam_share *share = lam_rpc_call_user(call);

    if (request->kind_case == LAMINAR__V1__STREAM_REQUEST__KIND_OPEN)
        return open_session(service, call, request->open, err);
    if (share == NULL)
        return lam_fail(
            err, LAM_FAILED_PRECONDITION, "the first message of a stream has to be an OpenSession");
    if (request->kind_case == LAMINAR__V1__STREAM_REQUEST__KIND_CREDIT)
        return lam_sessions_credit(share->sessions, call, request->credit->units, err);
    if (request->kind_case == LAMINAR__V1__STREAM_REQUEST__KIND_RELEASE)
        return lam_sessions_release(
            share->sessions, call, request->release->unit, request->release->generation, err);
    return lam_fail(err, LAM_INVALID_ARGUMENT,
        "a message on the stream is neither open nor credit nor release");
}

static void stream_message(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_service *service = arg;
    Laminar__V1__StreamRequest *request =
        unpack(service, call, &laminar__v1__stream_request__descriptor, bytes, n_bytes);
    struct lam_err err = {0};

    if (request == NULL) {
        detach_session(call);
        return;
    }
    if (take_message(service, call, request, &err) == LAM_OK)
        return;
    detach_session(call);
    finish_err(call, &err);
}

static void stream_half_close(void *arg, struct lam_rpc_call *call)
{
    struct lam_share *share = lam_rpc_call_user(call);

    (void)arg;
    if (share != NULL)
        lam_sessions_close(share->sessions, call);
    lam_rpc_call_finish(call, LAM_OK, NULL);
}

static void stream_done(void *arg, struct lam_rpc_call *call, bool cancelled)
{
    (void)arg;
    (void)cancelled;
    detach_session(call);
}

/* ---- Pin, Unpin ---- */

static uint32_t count_pinned(const struct lam_share *share)
{
    struct lam_slots_counts counts;

    lam_sessions_count(share->sessions, &counts);
    return counts.pinned;
}

static void change_pins(struct lam_service *service, struct lam_rpc_call *call, const void *bytes,
    size_t n_bytes,
    enum lam_status (*change)(struct lam_sessions *sessions, uint32_t unit, struct lam_err *err))
{
    Laminar__V1__PinResponse response = LAMINAR__V1__PIN_RESPONSE__INIT;
    Laminar__V1__PinRequest *request =
        unpack(service, call, &laminar__v1__pin_request__descriptor, bytes, n_bytes);
    struct lam_err err = {0};
    struct lam_share *share;

    if (request == NULL)
        return;
    share = find_model(service, request->model, &err);
    for (size_t i = 0; i < request->n_units && err.status == LAM_OK; i++)
        lam_ignore(change(share->sessions, request->units[i], &err), "err has it");
    if (err.status != LAM_OK) {
        finish_err(call, &err);
        return;
    }
    response.units_pinned = count_pinned(share);
    reply(call, &response.base);
}

static void pin(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    change_pins(arg, call, bytes, n_bytes, lam_sessions_pin);
}

static void unpin(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    change_pins(arg, call, bytes, n_bytes, lam_sessions_unpin);
}

/* ---- GetStats ---- */

/* Adds the counters of one model. */
static void add_stats(const struct lam_share *share, Laminar__V1__GetStatsResponse *response)
{
    struct lam_slots_counts counts;
    struct lam_integrity_counts checks = {0};
    struct lam_reader_info info;

    lam_reader_info(share->reader, &info);
    lam_sessions_count(share->sessions, &counts);
    if (share->integrity != NULL)
        lam_integrity_count(share->integrity, &checks);
    response->direct = response->direct && info.direct;
    response->fixed_buffers = response->fixed_buffers && info.fixed_buffers;
    response->pool_used_bytes += counts.ready_bytes;
    response->disk_bytes += info.bytes;
    response->disk_reads += info.reads;
    response->units_loaded += counts.loads;
    response->units_hit += counts.hits;
    response->units_granted += counts.grants;
    response->sessions += counts.sessions;
    response->units_kept_loaded += counts.kept_loaded;
    response->units_kept += share->layout.n_kept - share->layout.has_table;
    response->leases += counts.leases;
    response->slots_free += counts.slots_free;
    response->slots_loading += counts.slots_loading;
    response->slots_ready += counts.slots_ready;
    response->slots_held += counts.slots_held;
    response->crc_failures += checks.crc_failures;
    response->chunks_compared += checks.compared;
    response->chunks_recorded += checks.recorded;
}

static void get_stats(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_service *service = arg;
    Laminar__V1__GetStatsResponse response = LAMINAR__V1__GET_STATS_RESPONSE__INIT;
    Laminar__V1__GetStatsRequest *request =
        unpack(service, call, &laminar__v1__get_stats_request__descriptor, bytes, n_bytes);
    const struct lam_share *only = NULL;
    struct lam_reader_info info;
    struct lam_err err = {0};
    char engine[16], pages[16];

    if (request == NULL)
        return;
    if (request->model != 0) {
        only = find_model(service, request->model, &err);
        if (only == NULL) {
            finish_err(call, &err);
            return;
        }
    }
    response.direct = response.fixed_buffers = true;
    for (uint32_t i = 0; i < service->models->n_shares; i++) {
        if (only == NULL || only == &service->models->shares[i])
            add_stats(&service->models->shares[i], &response);
    }
    lam_reader_info((only != NULL ? only : &service->models->shares[0])->reader, &info);
    /* protobuf-c has no const for texts. */
    snprintf(engine, sizeof(engine), "%s", info.engine);
    snprintf(pages, sizeof(pages), "%s", service->pool->pages);
    response.engine = engine;
    response.pages = pages;
    response.pool_bytes = only != NULL ? only->layout.pool_bytes : service->pool->bytes;
    response.pool_ready_bytes = atomic_load(&service->pool->ready_bytes);
    response.pool_ready_ns = atomic_load(&service->pool->ready_ns);
    reply(call, &response.base);
}

/* ---- Verify ---- */

static void verify(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_service *service = arg;
    Laminar__V1__VerifyRequest *request =
        unpack(service, call, &laminar__v1__verify_request__descriptor, bytes, n_bytes);
    struct lam_share *share;
    struct lam_err err = {0};

    if (request == NULL || lam_rpc_call_user(call) != NULL)
        return;
    share = find_model(service, request->model, &err);
    if (share == NULL || lam_verifier_begin(share->verifier, call, &err) != LAM_OK)
        finish_err(call, &err);
    else
        lam_rpc_call_set_user(call, share);
}

static void verify_done(void *arg, struct lam_rpc_call *call, bool cancelled)
{
    struct lam_share *share = lam_rpc_call_user(call);

    (void)arg;
    (void)cancelled;
    if (share != NULL)
        lam_verifier_drop(share->verifier, call);
}

/* ---- life ---- */

static const struct lam_rpc_method methods[] = {
    {.path = "/laminar.v1.Loader/RegisterModel", .on_message = register_model},
    {.path = "/laminar.v1.Loader/ReadHeader", .on_message = read_header},
    {.path = "/laminar.v1.Loader/ReadExtent", .on_message = read_extent},
    {.path = "/laminar.v1.Loader/Stream",
        .on_message = stream_message,
        .on_half_close = stream_half_close,
        .on_done = stream_done},
    {.path = "/laminar.v1.Loader/Pin", .on_message = pin},
    {.path = "/laminar.v1.Loader/Unpin", .on_message = unpin},
    {.path = "/laminar.v1.Loader/GetStats", .on_message = get_stats},
    {.path = "/laminar.v1.Loader/Verify", .on_message = verify, .on_done = verify_done},
};

enum lam_status lam_service_init(struct lam_service *service, struct lam_err *err)
{
    return lam_arena_init(&service->arena, ARENA_BYTES, err);
}

void lam_service_done(struct lam_service *service)
{
    lam_arena_done(&service->arena);
}

enum lam_status lam_service_add(
    struct lam_service *service, struct lam_rpc_server *server, struct lam_err *err)
{
    return lam_rpc_server_add(server, methods, sizeof(methods) / sizeof(*methods), service, err);
}
