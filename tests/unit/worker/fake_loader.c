/* fake_loader: see fake_loader.h. */
#include "tests/unit/worker/fake_loader.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/mem.h"
#include "common/size.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "rpc/message.h"

#define MODEL 77
#define HEADER_CHUNK 1000

/* With the table. */
static uint32_t n_units(const struct fake_loader *loader)
{
    const struct lam_manifest *manifest = &loader->tiny->model.manifest;

    return manifest->n_units + manifest->has_table;
}

static bool keeps_table(const struct fake_loader *loader)
{
    return loader->mode == FAKE_TABLE || loader->mode == FAKE_TABLE_LOOSE;
}

static bool is_kept(const struct fake_loader *loader, uint32_t unit)
{
    if (unit == loader->tiny->model.manifest.n_units)
        return keeps_table(loader);
    return unit % 2 == 0 && unit / 2 < loader->n_kept;
}

static void send_packed(struct lam_rpc_call *call, const ProtobufCMessage *message)
{
    struct lam_buf out = LAM_BUF((size_t)2 << 20);

    if (lam_message_pack(message, &out))
        lam_rpc_call_send(call, out.data, out.size);
    lam_buf_done(&out);
}

/* Unpacks into a fresh arena, which the caller frees. */
static ProtobufCMessage *unpack(const ProtobufCMessageDescriptor *type, const void *bytes,
    size_t n_bytes, struct lam_arena *arena)
{
    ProtobufCMessage *message = NULL;
    enum lam_status status = lam_arena_init(arena, (uint64_t)1 << 20, NULL);

    assert(status == LAM_OK);
    status = lam_message_unpack(type, bytes, n_bytes, arena, &message, NULL);
    assert(status == LAM_OK);
    return message;
}

static void on_register(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct fake_loader *loader = arg;
    Laminar__V1__RegisterModelResponse answer = LAMINAR__V1__REGISTER_MODEL_RESPONSE__INIT;

    (void)bytes;
    (void)n_bytes;
    answer.model = MODEL;
    answer.digest = 4711;
    answer.header_bytes = loader->tiny->model.header_bytes;
    if (loader->mode == FAKE_HUGE_HEADER)
        answer.header_bytes = UINT64_MAX - 5;
    answer.file_bytes = loader->tiny->model.file_bytes;
    answer.units = loader->tiny->model.manifest.n_units + (loader->mode == FAKE_WRONG_UNITS);
    answer.table_kept = keeps_table(loader);
    send_packed(call, &answer.base);
    lam_rpc_call_finish(call, LAM_OK, NULL);
}

static void on_read_header(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct fake_loader *loader = arg;
    uint64_t header_bytes = loader->tiny->model.header_bytes;

    (void)bytes;
    (void)n_bytes;
    if (loader->mode == FAKE_SHORT_HEADER)
        header_bytes -= 1;
    if (loader->mode == FAKE_LONG_HEADER)
        header_bytes += 1;
    for (uint64_t offset = 0; offset < header_bytes; offset += HEADER_CHUNK) {
        Laminar__V1__ReadHeaderResponse chunk = LAMINAR__V1__READ_HEADER_RESPONSE__INIT;
        uint64_t n_left = header_bytes - offset;
        chunk.offset = offset;
        chunk.data.data = loader->tiny->image + offset;
        chunk.data.len = n_left < HEADER_CHUNK ? n_left : HEADER_CHUNK;
        send_packed(call, &chunk.base);
    }
    lam_rpc_call_finish(call, LAM_OK, NULL);
}

static void answer_extent(
    struct fake_loader *loader, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct lam_arena arena;
    const Laminar__V1__ReadExtentRequest *request = (const Laminar__V1__ReadExtentRequest *)unpack(
        &laminar__v1__read_extent_request__descriptor, bytes, n_bytes, &arena);
    Laminar__V1__ReadExtentResponse answer = LAMINAR__V1__READ_EXTENT_RESPONSE__INIT;
    uint64_t each = request->bytes_each;

    assert(request->model == MODEL);
    answer.data.len = request->n_offsets * each;
    answer.data.data = lam_calloc(answer.data.len, 1);
    assert(answer.data.data);
    for (size_t i = 0; i < request->n_offsets; i++) {
        assert(lam_size_range_ok(request->offsets[i], each, loader->tiny->model.file_bytes));
        memcpy(answer.data.data + i * each, loader->tiny->image + request->offsets[i], each);
    }
    answer.data.len -= loader->mode == FAKE_SHORT_EXTENT;
    send_packed(call, &answer.base);
    lam_rpc_call_finish(call, LAM_OK, NULL);
    lam_free(answer.data.data);
    lam_arena_done(&arena);
}

struct fake_extent {
    struct lam_rpc_call *call;
    unsigned char bytes[64]; /* of the request, of one range */
    size_t n_bytes;
};

static void on_read_extent(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct fake_loader *loader = arg;
    struct fake_extent *waiting;

    atomic_fetch_add(&loader->n_extents, 1);
    if (loader->n_together == 0) {
        answer_extent(loader, call, bytes, n_bytes);
        return;
    }
    if (!loader->waiting)
        loader->waiting = lam_calloc(loader->n_together, sizeof *loader->waiting);
    assert(loader->waiting && n_bytes <= sizeof loader->waiting->bytes);
    waiting = &loader->waiting[loader->n_waiting++];
    lam_rpc_call_ref(call);
    waiting->call = call;
    waiting->n_bytes = n_bytes;
    memcpy(waiting->bytes, bytes, n_bytes);
    if (loader->n_waiting < loader->n_together)
        return;
    for (uint32_t i = 0; i < loader->n_waiting; i++) {
        waiting = &loader->waiting[i];
        answer_extent(loader, waiting->call, waiting->bytes, waiting->n_bytes);
        lam_rpc_call_unref(waiting->call);
    }
    loader->n_together = 0;
}

static void send_ready(struct fake_loader *loader, struct lam_rpc_call *call, uint32_t unit)
{
    Laminar__V1__StreamResponse response = LAMINAR__V1__STREAM_RESPONSE__INIT;
    Laminar__V1__UnitReady ready = LAMINAR__V1__UNIT_READY__INIT;
    const struct lam_unit *it = &loader->tiny->model.manifest.units[unit];
    bool due = loader->mode > FAKE_SHORT_EXTENT && unit == loader->at;

    memcpy(loader->pool + loader->pool_offsets[unit], loader->tiny->image + it->file_offset,
        it->bytes);
    loader->granted[unit] = ++loader->generation;
    atomic_fetch_add(&loader->n_sent, 1);
    ready.unit = unit;
    ready.generation = loader->generation;
    ready.pool_offset = loader->pool_offsets[unit];
    ready.kept = is_kept(loader, unit);
    ready.pool_ready_bytes = FAKE_READY_BYTES + loader->generation;
    ready.pool_ready_ns = loader->generation;
    if (loader->mode == FAKE_TABLE_LOOSE && unit == loader->tiny->model.manifest.n_units)
        ready.kept = false;
    if (due && loader->mode == FAKE_UNIT_BEYOND)
        ready.unit = loader->tiny->model.manifest.n_units;
    if (due && loader->mode == FAKE_OFFSET_BEYOND)
        ready.pool_offset = lam_align_down(loader->pool_bytes, 4096) + ready.pool_offset % 4096;
    if (due && loader->mode == FAKE_OFFSET_SKEWED)
        ready.pool_offset += 64;
    response.kind_case = LAMINAR__V1__STREAM_RESPONSE__KIND_UNIT_READY;
    response.unit_ready = &ready;
    if (due && loader->mode == FAKE_GARBAGE)
        lam_rpc_call_send(call, "\xff\xff\xff", 3);
    else
        send_packed(call, &response.base);
    if (due && loader->mode == FAKE_TWICE)
        send_packed(call, &response.base);
}

static void send_fault(struct fake_loader *loader, struct lam_rpc_call *call)
{
    Laminar__V1__StreamResponse response = LAMINAR__V1__STREAM_RESPONSE__INIT;
    Laminar__V1__UnitFault fault = LAMINAR__V1__UNIT_FAULT__INIT;

    fault.unit = loader->at;
    fault.status = LAM_DATA_LOSS;
    fault.reason = (char *)"the disk said no";
    response.kind_case = LAMINAR__V1__STREAM_RESPONSE__KIND_UNIT_FAULT;
    response.unit_fault = &fault;
    send_packed(call, &response.base);
}

static bool streams(const struct fake_loader *loader)
{
    for (uint32_t i = 0; i < loader->n_cycle; i++)
        if (!is_kept(loader, loader->cycle[i]))
            return true;
    return false;
}

/* One transit unit for each credit, in the order of a pass. A session holds a unit once. */
static void grant(struct fake_loader *loader, struct lam_rpc_call *call)
{
    while (loader->credits > 0 && streams(loader)) {
        uint32_t unit = loader->cycle[loader->next];
        uint32_t n_held;
        if (loader->granted[unit] != 0 && !is_kept(loader, unit))
            return;
        loader->next = (loader->next + 1) % loader->n_cycle;
        if (is_kept(loader, unit))
            continue;
        if (unit == loader->at && loader->mode == FAKE_SILENCE)
            loader->credits = 0;
        if (unit == loader->at && loader->mode == FAKE_END) {
            lam_rpc_call_finish(call, LAM_UNAVAILABLE, "shutting down");
            loader->credits = 0;
        }
        if (loader->credits == 0)
            return;
        loader->credits--;
        if (unit == loader->at && loader->mode == FAKE_FAULT) {
            send_fault(loader, call);
            continue;
        }
        n_held = atomic_fetch_add(&loader->n_held, 1) + 1;
        if (n_held > atomic_load(&loader->n_held_most))
            atomic_store(&loader->n_held_most, n_held);
        send_ready(loader, call, unit);
    }
}

static void take_release(struct fake_loader *loader, const Laminar__V1__Release *release)
{
    const struct lam_manifest *manifest = &loader->tiny->model.manifest;

    if (release->unit >= manifest->n_units || is_kept(loader, release->unit) ||
        loader->granted[release->unit] == 0 ||
        loader->granted[release->unit] != release->generation) {
        atomic_fetch_add(&loader->n_wrong, 1);
        return;
    }
    loader->granted[release->unit] = 0;
    memset(loader->pool + loader->pool_offsets[release->unit], 0xff,
        manifest->units[release->unit].bytes);
    atomic_fetch_sub(&loader->n_held, 1);
    atomic_fetch_add(&loader->n_released, 1);
}

static void open_session(
    struct fake_loader *loader, struct lam_rpc_call *call, const Laminar__V1__OpenSession *open)
{
    uint32_t n_pass = loader->tiny->model.manifest.n_units;

    if (open->token.len != sizeof loader->token ||
        memcmp(open->token.data, loader->token, sizeof loader->token) != 0)
        atomic_fetch_add(&loader->n_wrong, 1);
    assert(open->n_units <= n_units(loader));
    loader->n_cycle = open->n_units > 0 ? (uint32_t)open->n_units : n_pass;
    loader->next = 0;
    loader->credits = 0;
    atomic_store(&loader->n_held, 0);
    atomic_fetch_add(&loader->n_sessions, 1);
    memset(loader->granted, 0, n_units(loader) * sizeof *loader->granted);
    for (uint32_t i = 0; i < loader->n_cycle; i++) {
        loader->cycle[i] = open->n_units > 0 ? open->units[i] : i;
        if (is_kept(loader, loader->cycle[i]))
            send_ready(loader, call, loader->cycle[i]);
    }
}

static void on_stream(void *arg, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    struct fake_loader *loader = arg;
    struct lam_arena arena;
    const Laminar__V1__StreamRequest *request = (const Laminar__V1__StreamRequest *)unpack(
        &laminar__v1__stream_request__descriptor, bytes, n_bytes, &arena);

    if (request->kind_case == LAMINAR__V1__STREAM_REQUEST__KIND_OPEN) {
        open_session(loader, call, request->open);
    } else if (request->kind_case == LAMINAR__V1__STREAM_REQUEST__KIND_CREDIT) {
        atomic_fetch_add(&loader->n_requests, 1);
        loader->credits += request->credit->units;
        grant(loader, call);
    } else if (request->kind_case == LAMINAR__V1__STREAM_REQUEST__KIND_RELEASE) {
        take_release(loader, request->release);
    }
    lam_arena_done(&arena);
}

static void on_stream_closed(void *arg, struct lam_rpc_call *call)
{
    (void)arg;
    lam_rpc_call_finish(call, LAM_OK, NULL);
}

static const struct lam_rpc_method methods[] = {
    {.path = "/laminar.v1.Loader/RegisterModel", .on_message = on_register},
    {.path = "/laminar.v1.Loader/ReadHeader", .on_message = on_read_header},
    {.path = "/laminar.v1.Loader/ReadExtent", .on_message = on_read_extent},
    {.path = "/laminar.v1.Loader/Stream",
        .on_message = on_stream,
        .on_half_close = on_stream_closed},
};

/* One worker, one greeting; ends when the listener is shut down. */
static void *greeter_main(void *arg)
{
    struct fake_loader *loader = arg;
    struct lam_pool_greeting greeting = {.magic = LAM_POOL_MAGIC, .pool_bytes = loader->pool_bytes};
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control;
    int n_fds = 1 + (loader->mode == FAKE_TWO_DESCRIPTORS) - (loader->mode == FAKE_NO_DESCRIPTOR);
    struct iovec part = {.iov_base = &greeting, .iov_len = sizeof greeting};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    const int fds[2] = {loader->memfd, loader->memfd};
    int connection = accept(loader->listener, NULL, NULL);

    if (connection < 0)
        return NULL;
    loader->connection = connection;
    memcpy(greeting.token, loader->token, sizeof greeting.token);
    greeting.magic += loader->mode == FAKE_WRONG_MAGIC;
    greeting.pool_bytes += loader->mode == FAKE_WRONG_SIZE;
    part.iov_len -= loader->mode == FAKE_SHORT_GREETING;
    if (n_fds > 0) {
        struct cmsghdr *header = &control.align;
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
        memcpy(CMSG_DATA(header), fds, (size_t)n_fds * sizeof(int));
    }
    if (sendmsg(connection, &message, MSG_NOSIGNAL) < 0)
        perror("fake_loader: sendmsg");
    return NULL;
}

static void make_pool(struct fake_loader *loader)
{
    const struct lam_manifest *manifest = &loader->tiny->model.manifest;
    int rc;

    loader->pool_offsets = lam_calloc(n_units(loader), sizeof *loader->pool_offsets);
    loader->granted = lam_calloc(n_units(loader), sizeof *loader->granted);
    loader->cycle = lam_calloc(n_units(loader), sizeof *loader->cycle);
    assert(loader->pool_offsets && loader->granted && loader->cycle);
    for (uint32_t i = 0; i < n_units(loader); i++) {
        uint64_t skew = manifest->units[i].file_offset % 4096;
        loader->pool_offsets[i] = loader->pool_bytes + skew;
        loader->pool_bytes =
            lam_align_up(loader->pool_bytes + skew + manifest->units[i].bytes, 4096);
    }
    loader->memfd = memfd_create("fake_loader", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert(loader->memfd >= 0);
    rc = ftruncate(loader->memfd, (off_t)loader->pool_bytes);
    assert(rc == 0);
    loader->pool =
        mmap(NULL, loader->pool_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, loader->memfd, 0);
    assert(loader->pool != MAP_FAILED);
    memset(loader->pool, 0xff, loader->pool_bytes);
    if (loader->mode != FAKE_UNSEALED) {
        rc = fcntl(loader->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
        assert(rc == 0);
    }
}

static void open_doors(struct fake_loader *loader)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *listen_on[] = {loader->address};
    struct lam_rpc_server_config config = {
        .listen = listen_on, .n_listen = 1, .message_bytes_max = (size_t)1 << 20, .calls_max = 16};
    struct lam_err err = {0};
    enum lam_status status = lam_rpc_server_create(&config, &loader->server, &err);
    int rc;

    if (status == LAM_OK)
        status = lam_rpc_server_add(loader->server, methods, 4, loader, &err);
    if (status == LAM_OK)
        status = lam_rpc_server_start(loader->server, &err);
    if (status != LAM_OK)
        fprintf(stderr, "fake_loader: %s\n", err.text);
    assert(status == LAM_OK);
    memcpy(address.sun_path, loader->pool_path, strlen(loader->pool_path) + 1);
    loader->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    rc = bind(loader->listener, (const struct sockaddr *)&address, sizeof address);
    assert(rc == 0);
    rc = listen(loader->listener, 4);
    assert(rc == 0);
    rc = pthread_create(&loader->greeter, NULL, greeter_main, loader);
    assert(rc == 0);
}

void fake_loader_start(struct fake_loader *loader, const struct tiny_model *tiny,
    enum fake_mode mode, uint32_t at, uint32_t n_kept)
{
    const char *made;

    *loader = (struct fake_loader){
        .tiny = tiny, .mode = mode, .at = at, .n_kept = n_kept, .connection = -1};
    snprintf(loader->dir, sizeof loader->dir, "/tmp/lam-fake-XXXXXX");
    made = mkdtemp(loader->dir);
    assert(made);
    snprintf(loader->address, sizeof loader->address, "unix:%s/loader.sock", loader->dir);
    snprintf(loader->pool_path, sizeof loader->pool_path, "%s/pool.sock", loader->dir);
    memset(loader->token, 0x5a, sizeof loader->token);
    make_pool(loader);
    open_doors(loader);
}

void fake_loader_kill(struct fake_loader *loader)
{
    if (!loader->server)
        return;
    shutdown(loader->listener, SHUT_RDWR);
    pthread_join(loader->greeter, NULL);
    close(loader->listener);
    if (loader->connection >= 0)
        close(loader->connection);
    unlink(loader->pool_path);
    lam_rpc_server_shutdown(loader->server, 0);
    lam_rpc_server_destroy(loader->server);
    loader->server = NULL;
}

void fake_loader_stop(struct fake_loader *loader)
{
    fake_loader_kill(loader);
    munmap(loader->pool, loader->pool_bytes);
    close(loader->memfd);
    rmdir(loader->dir);
    lam_free(loader->pool_offsets);
    lam_free(loader->granted);
    lam_free(loader->cycle);
    lam_free(loader->waiting);
}
