/* verifier: see the header. */
#include "loader/verifier.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/mem.h"
#include "loader/verify.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "rpc/message.h"

#define MESSAGE_BYTES_MAX 8192u

/* Of rest to work while there are sessions. */
#define RESTS_PER_WORK 9u

/* Progress is left out for a client that does not read. */
#define QUEUED_MAX 16u

struct lam_verifier {
    const struct lam_file *file;
    struct lam_integrity *integrity;
    struct lam_sessions *sessions;
    pthread_t thread;
    bool has_thread; /* to be joined; begin and destroy */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t stop;
    struct lam_rpc_call *call; /* a reference, while the thread works on it; else NULL */
    bool stopping;
};

/* ---- the thread ---- */

/* False: the client is gone. */
static bool send(struct lam_rpc_call *call, const Laminar__V1__VerifyResponse *response)
{
    struct lam_buf packed = LAM_BUF(MESSAGE_BYTES_MAX);
    bool sent = lam_message_pack(&response->base, &packed) &&
                lam_rpc_call_send(call, packed.data, packed.size);

    lam_buf_done(&packed);
    return sent;
}

static void on_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    const struct lam_verifier *verifier = arg;
    Laminar__V1__VerifyResponse response = LAMINAR__V1__VERIFY_RESPONSE__INIT;
    Laminar__V1__VerifyProgress progress = LAMINAR__V1__VERIFY_PROGRESS__INIT;

    if (lam_rpc_call_queued(verifier->call) > QUEUED_MAX)
        return;
    progress.done_bytes = done_bytes;
    progress.total_bytes = total_bytes;
    response.kind_case = LAMINAR__V1__VERIFY_RESPONSE__KIND_PROGRESS;
    response.progress = &progress;
    lam_ignore(send(verifier->call, &response), "on_step hears of a client that is gone");
}

static void on_difference(void *arg, const struct lam_record_chunk *place)
{
    const struct lam_verifier *verifier = arg;
    Laminar__V1__VerifyResponse response = LAMINAR__V1__VERIFY_RESPONSE__INIT;
    Laminar__V1__VerifyFinding finding = LAMINAR__V1__VERIFY_FINDING__INIT;
    char part[LAM_VERIFY_PART_BYTES];

    lam_verify_name_part(&verifier->file->manifest, place, part);
    finding.offset = place->file_offset;
    finding.bytes = place->bytes;
    finding.part = part;
    response.kind_case = LAMINAR__V1__VERIFY_RESPONSE__KIND_FINDING;
    response.finding = &finding;
    lam_ignore(send(verifier->call, &response), "on_step hears of a client that is gone");
}

static bool on_step(void *arg, uint64_t took_ns)
{
    struct lam_verifier *verifier = arg;
    struct lam_slots_counts counts;
    uint64_t until_ns = lam_now_ns();
    struct timespec until;
    bool more;

    lam_sessions_count(verifier->sessions, &counts);
    if (counts.sessions > 0)
        until_ns += RESTS_PER_WORK * took_ns;
    until = (struct timespec){
        .tv_sec = (time_t)(until_ns / LAM_NS_PER_S), .tv_nsec = (long)(until_ns % LAM_NS_PER_S)};
    pthread_mutex_lock(&verifier->lock);
    while (!verifier->stopping && lam_now_ns() < until_ns)
        pthread_cond_timedwait(&verifier->stop, &verifier->lock, &until);
    more = !verifier->stopping;
    pthread_mutex_unlock(&verifier->lock);
    return more;
}

static void finish_well(
    struct lam_rpc_call *call, const struct lam_verify_result *result, const char *record)
{
    Laminar__V1__VerifyResponse response = LAMINAR__V1__VERIFY_RESPONSE__INIT;
    Laminar__V1__VerifySummary summary = LAMINAR__V1__VERIFY_SUMMARY__INIT;
    char path[PATH_MAX];

    summary.total_bytes = result->total_bytes;
    summary.chunks = result->n_chunks;
    summary.compared = result->n_compared;
    summary.recorded = result->n_chunks - result->n_compared;
    summary.different = result->n_different;
    /* protobuf-c has no const for texts. */
    snprintf(path, sizeof(path), "%s", record);
    summary.record = path;
    response.kind_case = LAMINAR__V1__VERIFY_RESPONSE__KIND_SUMMARY;
    response.summary = &summary;
    if (send(call, &response))
        lam_rpc_call_finish(call, LAM_OK, NULL);
    else
        lam_rpc_call_finish(
            call, LAM_RESOURCE_EXHAUSTED, "the loader has no memory for the answer");
}

static void *run(void *arg)
{
    struct lam_verifier *verifier = arg;
    struct lam_verify_config config = {.file = verifier->file,
        .integrity = verifier->integrity,
        .n_threads = 1,
        .on_progress = on_progress,
        .on_difference = on_difference,
        .on_step = on_step,
        .arg = verifier};
    struct lam_verify_result *result = lam_calloc(1, sizeof(*result));
    struct lam_rpc_call *call = verifier->call;
    struct lam_err err = {0};
    enum lam_status status;

    if (result == NULL)
        status = lam_fail(&err, LAM_RESOURCE_EXHAUSTED, "no memory to verify with");
    else
        status = lam_verify(&config, result, &err);
    /* First of all: whoever has the end of this call may begin the next. */
    pthread_mutex_lock(&verifier->lock);
    verifier->call = NULL;
    pthread_mutex_unlock(&verifier->lock);
    if (status == LAM_OK)
        finish_well(call, result, lam_integrity_path(verifier->integrity));
    else
        lam_rpc_call_finish(call, status, err.text);
    lam_rpc_call_unref(call);
    lam_free(result);
    return NULL;
}

/* ---- from outside ---- */

static enum lam_status start(
    struct lam_verifier *verifier, struct lam_rpc_call *call, struct lam_err *err)
{
    int error;

    if (verifier->has_thread) /* it has nothing left to do but end its call */
        pthread_join(verifier->thread, NULL);
    lam_rpc_call_ref(call);
    verifier->call = call;
    verifier->stopping = false;
    error = pthread_create(&verifier->thread, NULL, run, verifier);
    verifier->has_thread = error == 0;
    if (error == 0)
        return LAM_OK;
    verifier->call = NULL;
    lam_rpc_call_unref(call);
    return lam_fail_errno(err, error, "cannot start a thread to verify with");
}

enum lam_status lam_verifier_begin(
    struct lam_verifier *verifier, struct lam_rpc_call *call, struct lam_err *err)
{
    bool busy;

    if (verifier->integrity == NULL)
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "there is nothing to compare with: the loader was started with --checksum off");
    pthread_mutex_lock(&verifier->lock);
    busy = verifier->call != NULL;
    pthread_mutex_unlock(&verifier->lock);
    if (busy)
        return lam_fail(err, LAM_ALREADY_EXISTS,
            "%.300s is being verified already: wait for the end of that", verifier->file->path);
    return start(verifier, call, err);
}

void lam_verifier_drop(struct lam_verifier *verifier, const struct lam_rpc_call *call)
{
    pthread_mutex_lock(&verifier->lock);
    if (verifier->call == call) {
        verifier->stopping = true;
        pthread_cond_signal(&verifier->stop);
    }
    pthread_mutex_unlock(&verifier->lock);
}

enum lam_status lam_verifier_create(const struct lam_file *file, struct lam_integrity *integrity,
    struct lam_sessions *sessions, struct lam_verifier **ret_verifier, struct lam_err *err)
{
    struct lam_verifier *verifier = lam_calloc(1, sizeof(*verifier));
    pthread_condattr_t monotonic;

    if (verifier == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to verify with");
    verifier->file = file;
    verifier->integrity = integrity;
    verifier->sessions = sessions;
    pthread_mutex_init(&verifier->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&verifier->stop, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *ret_verifier = verifier;
    return LAM_OK;
}

void lam_verifier_destroy(struct lam_verifier *verifier)
{
    if (verifier == NULL)
        return;
    pthread_mutex_lock(&verifier->lock);
    verifier->stopping = true;
    pthread_cond_signal(&verifier->stop);
    pthread_mutex_unlock(&verifier->lock);
    if (verifier->has_thread)
        pthread_join(verifier->thread, NULL);
    pthread_cond_destroy(&verifier->stop);
    pthread_mutex_destroy(&verifier->lock);
    lam_free(verifier);
}
