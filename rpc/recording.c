/* recording: see recording.h. */
#include "rpc/recording.h"

#include <assert.h>
#include <errno.h>

#include "common/clock.h"

void lam_recording_init(
    struct lam_recording *recording, void (*suspend)(void *asker), void (*resume)(void *asker))
{
    pthread_condattr_t monotonic;

    *recording = (struct lam_recording){.suspend = suspend, .resume = resume};
    pthread_mutex_init(&recording->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&recording->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static void *wait_for_end(void *arg)
{
    struct lam_recording *recording = arg;
    struct timespec end = {.tv_sec = (time_t)(recording->end_ns / LAM_NS_PER_S),
        .tv_nsec = (long)(recording->end_ns % LAM_NS_PER_S)};

    pthread_mutex_lock(&recording->lock);
    while (!recording->closed &&
           pthread_cond_timedwait(&recording->changed, &recording->lock, &end) != ETIMEDOUT)
        continue;
    lam_trace_stop();
    recording->resume(recording->asker);
    recording->suspended = false;
    pthread_cond_broadcast(&recording->changed);
    pthread_mutex_unlock(&recording->lock);
    return NULL;
}

/* Lock held: the thread cannot resume whom nobody has suspended. */
static enum lam_status begin(struct lam_recording *recording, struct lam_err *err)
{
    if (recording->closed)
        return lam_fail(err, LAM_UNAVAILABLE, "this process is stopping");
    if (pthread_create(&recording->thread, NULL, wait_for_end, recording) != 0)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no thread for a recording");
    recording->suspend(recording->asker);
    recording->suspended = true;
    return LAM_OK;
}

enum lam_status lam_recording_begin(
    struct lam_recording *recording, uint64_t duration_ns, void *asker, struct lam_err *err)
{
    enum lam_status status;

    if (recording->running)
        return lam_fail(err, LAM_ALREADY_EXISTS, "a recording is running: ask again when it ends");
    recording->asker = asker;
    recording->mark = lam_trace_start();
    recording->end_ns = recording->mark.since_ns + duration_ns;
    pthread_mutex_lock(&recording->lock);
    status = begin(recording, err);
    pthread_mutex_unlock(&recording->lock);
    recording->running = status == LAM_OK;
    if (status != LAM_OK)
        lam_trace_stop();
    return status;
}

void lam_recording_end(struct lam_recording *recording)
{
    if (recording->running)
        pthread_join(recording->thread, NULL);
    recording->running = false;
}

void lam_recording_close(struct lam_recording *recording)
{
    pthread_mutex_lock(&recording->lock);
    recording->closed = true;
    pthread_cond_broadcast(&recording->changed);
    while (recording->suspended)
        pthread_cond_wait(&recording->changed, &recording->lock);
    pthread_mutex_unlock(&recording->lock);
}

void lam_recording_done(struct lam_recording *recording)
{
    assert(!recording->running);
    pthread_cond_destroy(&recording->changed);
    pthread_mutex_destroy(&recording->lock);
}
