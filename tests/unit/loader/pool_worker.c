/* pool_worker: see the header. */
#include "tests/unit/loader/pool_worker.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "rpc/message.h"

#define TIMEOUT_NS (20 * LAM_NS_PER_S)
#define MESSAGE_BYTES_MAX ((size_t)2 << 20)

/* The greeting and its one descriptor, or -1. */
static int receive_greeting(struct pool_worker *worker)
{
    struct lam_pool_greeting greeting;
    struct iovec part = {.iov_base = &greeting, .iov_len = sizeof(greeting)};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control)};
    int fd;

    if (recvmsg(worker->connection, &message, 0) <= 0)
        return -1;
    assert(greeting.magic == LAM_POOL_MAGIC);
    assert(CMSG_FIRSTHDR(&message) != NULL && CMSG_FIRSTHDR(&message)->cmsg_type == SCM_RIGHTS);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
    memcpy(worker->token, greeting.token, sizeof(worker->token));
    worker->pool_bytes = greeting.pool_bytes;
    return fd;
}

bool pool_worker_try_connect(struct pool_worker *worker, const char *dir)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char target[64];
    void *pool;
    int fd = -1;

    memset(worker, 0, sizeof(*worker));
    worker->model = 1;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/pool.sock", dir);
    worker->connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connect(worker->connection, (struct sockaddr *)&address, sizeof(address)) == 0)
        fd = receive_greeting(worker);
    if (fd < 0) {
        close(worker->connection);
        return false;
    }
    pool = mmap(NULL, worker->pool_bytes, PROT_READ, MAP_SHARED, fd, 0);
    assert(pool != MAP_FAILED);
    worker->pool = pool;
    close(fd);

    worker->received = LAM_BUF(MESSAGE_BYTES_MAX);
    worker->sending = LAM_BUF(MESSAGE_BYTES_MAX);
    assert(lam_arena_init(&worker->arena, MESSAGE_BYTES_MAX, NULL) == LAM_OK);
    assert(lam_arena_init(&worker->stats_arena, MESSAGE_BYTES_MAX, NULL) == LAM_OK);
    snprintf(target, sizeof(target), "unix:%s/loader.sock", dir);
    assert(lam_rpc_channel_create(target, MESSAGE_BYTES_MAX, &worker->channel, NULL) == LAM_OK);
    return true;
}

void pool_worker_connect(struct pool_worker *worker, const char *dir)
{
    bool connected = pool_worker_try_connect(worker, dir);

    assert(connected);
}

void pool_worker_disconnect(struct pool_worker *worker)
{
    lam_rpc_stream_destroy(worker->stream);
    lam_rpc_channel_destroy(worker->channel);
    if (worker->connection >= 0)
        close(worker->connection);
    munmap((void *)worker->pool, worker->pool_bytes);
    lam_buf_done(&worker->received);
    lam_buf_done(&worker->sending);
    lam_arena_done(&worker->arena);
    lam_arena_done(&worker->stats_arena);
}

static void send_request(struct pool_worker *worker, const Laminar__V1__StreamRequest *request)
{
    assert(lam_message_pack(&request->base, &worker->sending));
    /* A stream that the loader has ended refuses: what comes next on it says why. */
    lam_ignore(lam_rpc_stream_send(
                   worker->stream, worker->sending.data, worker->sending.size, NULL) != LAM_OK,
        "seen by pool_worker_next");
}

bool pool_worker_try_open(struct pool_worker *worker)
{
    Laminar__V1__StreamRequest request = LAMINAR__V1__STREAM_REQUEST__INIT;
    Laminar__V1__OpenSession open = LAMINAR__V1__OPEN_SESSION__INIT;

    if (lam_rpc_stream_open(worker->channel, "/laminar.v1.Loader/Stream", LAM_RPC_NO_TIMEOUT,
            &worker->stream, NULL) != LAM_OK)
        return false;
    open.model = worker->model;
    open.token.data = worker->token;
    open.token.len = sizeof(worker->token);
    open.units = (uint32_t *)worker->units; /* protobuf-c has no const */
    open.n_units = worker->n_units;
    request.kind_case = LAMINAR__V1__STREAM_REQUEST__KIND_OPEN;
    request.open = &open;
    send_request(worker, &request);
    return true;
}

void pool_worker_open(struct pool_worker *worker)
{
    bool opened = pool_worker_try_open(worker);

    assert(opened);
}

void pool_worker_credit(struct pool_worker *worker, uint32_t n_units)
{
    Laminar__V1__StreamRequest request = LAMINAR__V1__STREAM_REQUEST__INIT;
    Laminar__V1__Credit credit = LAMINAR__V1__CREDIT__INIT;

    credit.units = n_units;
    request.kind_case = LAMINAR__V1__STREAM_REQUEST__KIND_CREDIT;
    request.credit = &credit;
    send_request(worker, &request);
}

void pool_worker_release(struct pool_worker *worker, uint32_t unit, uint64_t generation)
{
    Laminar__V1__StreamRequest request = LAMINAR__V1__STREAM_REQUEST__INIT;
    Laminar__V1__Release release = LAMINAR__V1__RELEASE__INIT;

    release.unit = unit;
    release.generation = generation;
    request.kind_case = LAMINAR__V1__STREAM_REQUEST__KIND_RELEASE;
    request.release = &release;
    send_request(worker, &request);
}

static void *unpack(struct pool_worker *worker, const ProtobufCMessageDescriptor *type)
{
    bool is_stats = type == &laminar__v1__get_stats_response__descriptor;
    struct lam_arena *arena = is_stats ? &worker->stats_arena : &worker->arena;
    ProtobufCMessage *message = NULL;

    lam_arena_reset(arena);
    assert(lam_message_unpack(type, worker->received.data ? worker->received.data : "",
               worker->received.size, arena, &message, NULL) == LAM_OK);
    return message;
}

enum lam_status pool_worker_next(
    struct pool_worker *worker, struct pool_event *ret_event, struct lam_err *err)
{
    Laminar__V1__StreamResponse *response;
    bool end = false;
    enum lam_status status = lam_rpc_stream_recv(worker->stream, &worker->received, &end, err);

    if (status != LAM_OK || end)
        return status != LAM_OK ? status : LAM_CANCELLED;
    response = unpack(worker, &laminar__v1__stream_response__descriptor);
    memset(ret_event, 0, sizeof(*ret_event));
    if (response->kind_case == LAMINAR__V1__STREAM_RESPONSE__KIND_UNIT_FAULT) {
        ret_event->fault = true;
        ret_event->unit = response->unit_fault->unit;
        ret_event->status = response->unit_fault->status;
        snprintf(ret_event->reason, sizeof(ret_event->reason), "%s", response->unit_fault->reason);
        return LAM_OK;
    }
    assert(response->kind_case == LAMINAR__V1__STREAM_RESPONSE__KIND_UNIT_READY);
    ret_event->unit = response->unit_ready->unit;
    ret_event->generation = response->unit_ready->generation;
    ret_event->pool_offset = response->unit_ready->pool_offset;
    ret_event->pool_ready_bytes = response->unit_ready->pool_ready_bytes;
    ret_event->pool_ready_ns = response->unit_ready->pool_ready_ns;
    ret_event->kept = response->unit_ready->kept;
    return LAM_OK;
}

static enum lam_status unary(struct pool_worker *worker, const char *path,
    const ProtobufCMessage *request, struct lam_err *err)
{
    assert(lam_message_pack(request, &worker->sending));
    lam_buf_clear(&worker->received);
    return lam_rpc_unary(worker->channel, path, worker->sending.data ? worker->sending.data : "",
        worker->sending.size, worker->timeout_ns > 0 ? worker->timeout_ns : TIMEOUT_NS,
        &worker->received, err);
}

Laminar__V1__RegisterModelResponse *pool_worker_register(
    struct pool_worker *worker, const char *path, struct lam_err *err)
{
    Laminar__V1__RegisterModelRequest request = LAMINAR__V1__REGISTER_MODEL_REQUEST__INIT;

    request.path = (char *)path;
    if (unary(worker, "/laminar.v1.Loader/RegisterModel", &request.base, err) != LAM_OK)
        return NULL;
    return unpack(worker, &laminar__v1__register_model_response__descriptor);
}

Laminar__V1__GetStatsResponse *pool_worker_stats_of(struct pool_worker *worker, uint64_t model)
{
    Laminar__V1__GetStatsRequest request = LAMINAR__V1__GET_STATS_REQUEST__INIT;

    request.model = model;
    assert(unary(worker, "/laminar.v1.Loader/GetStats", &request.base, NULL) == LAM_OK);
    return unpack(worker, &laminar__v1__get_stats_response__descriptor);
}

Laminar__V1__GetStatsResponse *pool_worker_stats(struct pool_worker *worker)
{
    return pool_worker_stats_of(worker, 0);
}

static enum lam_status change_pins(struct pool_worker *worker, const char *method, uint32_t *units,
    size_t n_units, struct lam_err *err)
{
    Laminar__V1__PinRequest request = LAMINAR__V1__PIN_REQUEST__INIT;

    request.model = worker->model;
    request.units = units;
    request.n_units = n_units;
    return unary(worker, method, &request.base, err);
}

enum lam_status pool_worker_pin(
    struct pool_worker *worker, uint32_t *units, size_t n_units, struct lam_err *err)
{
    return change_pins(worker, "/laminar.v1.Loader/Pin", units, n_units, err);
}

enum lam_status pool_worker_unpin(
    struct pool_worker *worker, uint32_t *units, size_t n_units, struct lam_err *err)
{
    return change_pins(worker, "/laminar.v1.Loader/Unpin", units, n_units, err);
}

enum lam_status pool_worker_extent(struct pool_worker *worker, uint64_t *offsets, size_t n_offsets,
    uint64_t bytes_each, Laminar__V1__ReadExtentResponse **ret_response, struct lam_err *err)
{
    Laminar__V1__ReadExtentRequest request = LAMINAR__V1__READ_EXTENT_REQUEST__INIT;
    enum lam_status status;

    request.model = worker->model;
    request.offsets = offsets;
    request.n_offsets = n_offsets;
    request.bytes_each = bytes_each;
    status = unary(worker, "/laminar.v1.Loader/ReadExtent", &request.base, err);
    if (status == LAM_OK)
        *ret_response = unpack(worker, &laminar__v1__read_extent_response__descriptor);
    return status;
}

struct lam_rpc_stream *pool_worker_verify(struct pool_worker *worker)
{
    Laminar__V1__VerifyRequest request = LAMINAR__V1__VERIFY_REQUEST__INIT;
    struct lam_rpc_stream *stream = NULL;

    request.model = worker->model;
    assert(lam_message_pack(&request.base, &worker->sending));
    assert(lam_rpc_stream_open(
               worker->channel, "/laminar.v1.Loader/Verify", TIMEOUT_NS, &stream, NULL) == LAM_OK);
    assert(lam_rpc_stream_send(stream, worker->sending.data, worker->sending.size, NULL) == LAM_OK);
    assert(lam_rpc_stream_half_close(stream, NULL) == LAM_OK);
    return stream;
}

enum lam_status pool_worker_verified(struct pool_worker *worker, struct lam_rpc_stream *stream,
    Laminar__V1__VerifyResponse **ret_response, struct lam_err *err)
{
    bool end = false;
    enum lam_status status = lam_rpc_stream_recv(stream, &worker->received, &end, err);

    if (status == LAM_OK)
        *ret_response = end ? NULL : unpack(worker, &laminar__v1__verify_response__descriptor);
    return status;
}
