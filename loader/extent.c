/* extent: see the header. */
#include "loader/extent.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "common/buf.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/size.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "rpc/message.h"

/* A request with ranges that are on the disk only. */
struct request {
    struct request *next;
    struct lam_rpc_call *call; /* a reference */
    uint64_t bytes_each;
    size_t n_ranges;
    size_t n_missing;
    bool expected;       /* the thread has announced what is missing */
    uint64_t *offsets;   /* [n_ranges] */
    size_t *missing;     /* [n_missing] indexes of ranges */
    unsigned char *data; /* [n_ranges * bytes_each] */
};

struct lam_extents {
    const struct lam_file *file;
    struct lam_integrity *integrity; /* or NULL */
    const unsigned char *pool_base;
    struct lam_sessions *sessions;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct request *first, **last;
    uint32_t n_waiting; /* in the queue */
    bool stopping;
    unsigned char scratch[LAM_RECORD_SMALL_CHUNK_BYTES]; /* the thread's */
};

static void destroy_request(struct request *request)
{
    if (request == NULL)
        return;
    if (request->call != NULL)
        lam_rpc_call_unref(request->call);
    lam_free(request->offsets);
    lam_free(request->missing);
    lam_free(request->data);
    lam_free(request);
}

static void answer(const struct request *request)
{
    Laminar__V1__ReadExtentResponse response = LAMINAR__V1__READ_EXTENT_RESPONSE__INIT;
    struct lam_buf packed = LAM_BUF(LAM_EXTENT_BYTES_MAX + 64);

    response.data.data = request->data;
    response.data.len = request->n_ranges * request->bytes_each;
    if (lam_message_pack(&response.base, &packed))
        lam_rpc_call_reply(request->call, packed.data, packed.size);
    else
        lam_rpc_call_finish(
            request->call, LAM_RESOURCE_EXHAUSTED, "the loader has no memory for the rows");
    lam_buf_done(&packed);
}

/* ---- the thread: ranges from the disk ---- */

static enum lam_status read_range(
    struct lam_extents *extents, uint64_t offset, void *out, uint64_t bytes, struct lam_err *err)
{
    if (extents->integrity != NULL)
        return lam_integrity_read(extents->integrity, offset, out, bytes, extents->scratch, err);
    return lam_file_read(extents->file, offset, out, bytes, err);
}

static void expect_range(struct lam_extents *extents, uint64_t offset, uint64_t bytes)
{
    if (extents->integrity != NULL)
        lam_integrity_expect(extents->integrity, offset, bytes);
    else
        lam_file_advise(extents->file, offset, bytes, POSIX_FADV_WILLNEED);
}

static void expect_missing(struct lam_extents *extents, struct request *request)
{
    for (size_t i = 0; i < request->n_missing && !request->expected; i++)
        expect_range(extents, request->offsets[request->missing[i]], request->bytes_each);
    request->expected = true;
}

/* Starts all reads of the disk before waiting for the first: of this request, which is in the queue
 * no more, and of those that wait. */
static void expect_all(struct lam_extents *extents, struct request *request)
{
    struct request *next;

    pthread_mutex_lock(&extents->lock);
    next = extents->first;
    pthread_mutex_unlock(&extents->lock);
    if (request->n_missing > 1 || next != NULL)
        expect_missing(extents, request);
    while (next != NULL) { /* only this thread takes requests out */
        expect_missing(extents, next);
        pthread_mutex_lock(&extents->lock);
        next = next->next;
        pthread_mutex_unlock(&extents->lock);
    }
}

static void read_missing(struct lam_extents *extents, const struct request *request)
{
    struct lam_err err = {0};
    enum lam_status status = lam_file_check(extents->file, &err);

    for (size_t i = 0; i < request->n_missing && status == LAM_OK; i++) {
        size_t r = request->missing[i];

        status = read_range(extents, request->offsets[r], request->data + r * request->bytes_each,
            request->bytes_each, &err);
    }
    if (status == LAM_OK) {
        answer(request);
        return;
    }
    lam_error("%s", err.text);
    lam_rpc_call_finish(request->call, status, err.text);
}

static void *run(void *arg)
{
    struct lam_extents *extents = arg;

    pthread_mutex_lock(&extents->lock);
    while (!extents->stopping) {
        struct request *request = extents->first;

        if (request == NULL) {
            pthread_cond_wait(&extents->work, &extents->lock);
            continue;
        }
        extents->first = request->next;
        if (extents->first == NULL)
            extents->last = &extents->first;
        extents->n_waiting--;
        pthread_mutex_unlock(&extents->lock);
        lam_fault_pass("extent");
        expect_all(extents, request);
        read_missing(extents, request);
        destroy_request(request);
        pthread_mutex_lock(&extents->lock);
    }
    pthread_mutex_unlock(&extents->lock);
    return NULL;
}

/* ---- the I/O thread: ranges from memory ---- */

static enum lam_status check_ranges(const struct lam_file *file, const uint64_t *offsets,
    size_t n_offsets, uint64_t bytes_each, struct lam_err *err)
{
    uint64_t total;

    if (n_offsets == 0 || n_offsets > LAM_EXTENT_RANGES_MAX || bytes_each == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%zu ranges of %" PRIu64
            " bytes: 1 to %u ranges of at least one byte can be read at a time",
            n_offsets, bytes_each, LAM_EXTENT_RANGES_MAX);
    if (!lam_size_mul(n_offsets, bytes_each, &total) || total > LAM_EXTENT_BYTES_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%zu ranges of %" PRIu64 " bytes are more than the 1 MiB of one answer: ask for fewer",
            n_offsets, bytes_each);
    for (size_t i = 0; i < n_offsets; i++) {
        if (!lam_size_range_ok(offsets[i], bytes_each, file->bytes))
            return lam_fail(err, LAM_OUT_OF_RANGE,
                "range %zu, %" PRIu64 " bytes at %" PRIu64 ", is not inside of %s", i, bytes_each,
                offsets[i], file->path);
    }
    return LAM_OK;
}

/* From the pool, or from the page cache if nobody wants it checked, without waiting. */
static bool read_now(
    struct lam_extents *extents, uint64_t offset, uint64_t bytes, unsigned char *out)
{
    uint64_t pool_offset;

    if (lam_sessions_find_kept(extents->sessions, offset, bytes, &pool_offset)) {
        memcpy(out, extents->pool_base + pool_offset, bytes);
        return true;
    }
    return extents->integrity == NULL && lam_file_read_cached(extents->file, offset, out, bytes);
}

static struct request *create_request(
    struct lam_rpc_call *call, const uint64_t *offsets, size_t n_offsets, uint64_t bytes_each)
{
    struct request *request = lam_calloc(1, sizeof(*request));

    if (request == NULL)
        return NULL;
    request->n_ranges = n_offsets;
    request->bytes_each = bytes_each;
    request->offsets = lam_calloc(n_offsets, sizeof(*request->offsets));
    request->missing = lam_calloc(n_offsets, sizeof(*request->missing));
    request->data = lam_calloc(n_offsets, bytes_each);
    if (request->offsets == NULL || request->missing == NULL || request->data == NULL) {
        destroy_request(request);
        return NULL;
    }
    memcpy(request->offsets, offsets, n_offsets * sizeof(*offsets));
    lam_rpc_call_ref(call);
    request->call = call;
    return request;
}

/* False: too many wait. */
static bool put(struct lam_extents *extents, struct request *request)
{
    bool room;

    pthread_mutex_lock(&extents->lock);
    room = extents->n_waiting < LAM_EXTENT_WAITING_MAX;
    if (room) {
        *extents->last = request;
        extents->last = &request->next;
        extents->n_waiting++;
        pthread_cond_signal(&extents->work);
    }
    pthread_mutex_unlock(&extents->lock);
    return room;
}

enum lam_status lam_extents_read(struct lam_extents *extents, struct lam_rpc_call *call,
    const uint64_t *offsets, size_t n_offsets, uint64_t bytes_each, struct lam_err *err)
{
    enum lam_status status = check_ranges(extents->file, offsets, n_offsets, bytes_each, err);
    struct request *request;

    if (status != LAM_OK)
        return status;
    request = create_request(call, offsets, n_offsets, bytes_each);
    if (request == NULL)
        return lam_fail(
            err, LAM_RESOURCE_EXHAUSTED, "the loader has no memory for %zu rows", n_offsets);
    for (size_t i = 0; i < n_offsets; i++) {
        if (!read_now(extents, offsets[i], bytes_each, request->data + i * bytes_each))
            request->missing[request->n_missing++] = i;
    }
    if (request->n_missing == 0) {
        answer(request);
        destroy_request(request);
        return LAM_OK;
    }
    if (put(extents, request))
        return LAM_OK;
    destroy_request(request);
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
        "%u requests for rows wait for the drive: ask again when some are answered",
        LAM_EXTENT_WAITING_MAX);
}

enum lam_status lam_extents_create(const struct lam_file *file, struct lam_integrity *integrity,
    const unsigned char *pool_base, struct lam_sessions *sessions, struct lam_extents **ret_extents,
    struct lam_err *err)
{
    struct lam_extents *extents = lam_calloc(1, sizeof(*extents));
    int error;

    if (extents == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to serve rows");
    extents->file = file;
    extents->integrity = integrity;
    extents->pool_base = pool_base;
    extents->sessions = sessions;
    extents->last = &extents->first;
    pthread_mutex_init(&extents->lock, NULL);
    pthread_cond_init(&extents->work, NULL);
    error = pthread_create(&extents->thread, NULL, run, extents);
    if (error != 0) {
        pthread_cond_destroy(&extents->work);
        pthread_mutex_destroy(&extents->lock);
        lam_free(extents);
        return lam_fail_errno(err, error, "cannot start a thread to serve rows");
    }
    *ret_extents = extents;
    return LAM_OK;
}

void lam_extents_destroy(struct lam_extents *extents)
{
    if (extents == NULL)
        return;
    pthread_mutex_lock(&extents->lock);
    extents->stopping = true;
    pthread_cond_signal(&extents->work);
    pthread_mutex_unlock(&extents->lock);
    pthread_join(extents->thread, NULL);
    while (extents->first != NULL) {
        struct request *request = extents->first;

        extents->first = request->next;
        destroy_request(request);
    }
    pthread_cond_destroy(&extents->work);
    pthread_mutex_destroy(&extents->lock);
    lam_free(extents);
}
