/* fault: see fault.h. One site can be armed at a time, and one held: all that a test needs. */
#include "common/fault.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

static _Atomic(const char *) armed_site;
static atomic_uint_fast64_t visits_left;
static atomic_bool fired;

static _Atomic(const char *) held_site;
static pthread_mutex_t hold_lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static pthread_cond_t hold_changed = PTHREAD_COND_INITIALIZER;
static uint64_t passes_left;
static uint32_t n_waiting;

bool lam_fault_hit(const char *site)
{
    const char *armed = atomic_load_explicit(&armed_site, memory_order_relaxed);

    if (!armed || strcmp(armed, site) != 0)
        return false;
    if (atomic_fetch_sub(&visits_left, 1) != 1)
        return false;
    atomic_store(&fired, true);
    atomic_store(&armed_site, NULL);
    return true;
}

void lam_fault_arm(const char *site, uint64_t nth)
{
    atomic_store(&fired, false);
    atomic_store(&visits_left, nth);
    atomic_store(&armed_site, nth > 0 ? site : NULL);
}

bool lam_fault_fired(void)
{
    return atomic_load(&fired);
}

static bool is_held(const char *site)
{
    const char *held = atomic_load_explicit(&held_site, memory_order_relaxed);

    return held && strcmp(held, site) == 0;
}

void lam_fault_pass(const char *site)
{
    if (!is_held(site))
        return;
    pthread_mutex_lock(&hold_lock);
    n_waiting++;
    pthread_cond_broadcast(&hold_changed);
    while (is_held(site) && passes_left == 0)
        pthread_cond_wait(&hold_changed, &hold_lock);
    n_waiting--;
    if (is_held(site) && --passes_left == 0)
        pthread_cond_broadcast(&hold_changed);
    pthread_mutex_unlock(&hold_lock);
}

void lam_fault_hold(const char *site, uint64_t n_more)
{
    pthread_mutex_lock(&hold_lock);
    atomic_store(&held_site, site);
    passes_left = n_more;
    pthread_cond_broadcast(&hold_changed);
    pthread_mutex_unlock(&hold_lock);
}

void lam_fault_await(void)
{
    pthread_mutex_lock(&hold_lock);
    while (n_waiting == 0 || passes_left > 0)
        pthread_cond_wait(&hold_changed, &hold_lock);
    pthread_mutex_unlock(&hold_lock);
}
