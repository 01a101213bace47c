/* aside: see aside.h. A list under a lock; the thread takes its head. */
#include "gateway/aside.h"

#include <assert.h>
#include <pthread.h>
#include <stdint.h>

#include "common/mem.h"

struct lam_aside {
    pthread_t thread;
    bool thread_made;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under the lock: */
    struct lam_aside_work *head; /* waiting, oldest first */
    struct lam_aside_work **tail;
    uint32_t n; /* put and not yet dropped */
    bool ending;
};

/* Lock held. */
static struct lam_aside_work *take_first(struct lam_aside *aside)
{
    struct lam_aside_work *work = aside->head;

    aside->head = work->next;
    if (!aside->head)
        aside->tail = &aside->head;
    work->state = LAM_ASIDE_RUNS;
    return work;
}

static void *run(void *arg)
{
    struct lam_aside *aside = arg;

    pthread_mutex_lock(&aside->lock);
    while (aside->head || !aside->ending) {
        struct lam_aside_work *work;
        bool dropped;

        if (!aside->head) {
            pthread_cond_wait(&aside->changed, &aside->lock);
            continue;
        }
        work = take_first(aside);
        pthread_mutex_unlock(&aside->lock);
        work->run(work);
        pthread_mutex_lock(&aside->lock);
        work->state = LAM_ASIDE_RAN;
        dropped = work->dropped;
        pthread_mutex_unlock(&aside->lock);
        if (dropped) /* else it may be gone by now: drop destroys what ran */
            work->destroy(work);
        pthread_mutex_lock(&aside->lock);
    }
    pthread_mutex_unlock(&aside->lock);
    return NULL;
}

enum lam_status lam_aside_create(struct lam_aside **ret_aside, struct lam_err *err)
{
    struct lam_aside *aside = lam_calloc(1, sizeof *aside);

    if (!aside)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a thread beside the I/O");
    aside->tail = &aside->head;
    pthread_mutex_init(&aside->lock, NULL);
    pthread_cond_init(&aside->changed, NULL);
    aside->thread_made = pthread_create(&aside->thread, NULL, run, aside) == 0;
    if (!aside->thread_made) {
        lam_aside_destroy(aside);
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "cannot start a thread for long prompts");
    }
    *ret_aside = aside;
    return LAM_OK;
}

void lam_aside_destroy(struct lam_aside *aside)
{
    if (!aside)
        return;
    pthread_mutex_lock(&aside->lock);
    assert(aside->n == 0);
    aside->ending = true;
    pthread_cond_signal(&aside->changed);
    pthread_mutex_unlock(&aside->lock);
    if (aside->thread_made)
        pthread_join(aside->thread, NULL);
    pthread_cond_destroy(&aside->changed);
    pthread_mutex_destroy(&aside->lock);
    lam_free(aside);
}

enum lam_status lam_aside_put(
    struct lam_aside *aside, struct lam_aside_work *work, struct lam_err *err)
{
    bool room;

    pthread_mutex_lock(&aside->lock);
    room = aside->n < LAM_ASIDE_MAX;
    if (room) {
        work->next = NULL;
        work->state = LAM_ASIDE_WAITS;
        work->dropped = false;
        *aside->tail = work;
        aside->tail = &work->next;
        aside->n++;
        pthread_cond_signal(&aside->changed);
    }
    pthread_mutex_unlock(&aside->lock);
    if (!room)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "%u long texts wait for their tokens: try again later", LAM_ASIDE_MAX);
    return LAM_OK;
}

/* Takes waiting work out of the list. Lock held. */
static void unlink_waiting(struct lam_aside *aside, struct lam_aside_work *work)
{
    struct lam_aside_work **at = &aside->head;

    while (*at != work)
        at = &(*at)->next;
    *at = work->next;
    if (aside->tail == &work->next)
        aside->tail = at;
}

void lam_aside_drop(struct lam_aside *aside, struct lam_aside_work *work)
{
    bool runs;

    pthread_mutex_lock(&aside->lock);
    assert(!work->dropped);
    work->dropped = true;
    aside->n--;
    runs = work->state == LAM_ASIDE_RUNS;
    if (work->state == LAM_ASIDE_WAITS)
        unlink_waiting(aside, work);
    pthread_mutex_unlock(&aside->lock);
    if (!runs)
        work->destroy(work);
}
