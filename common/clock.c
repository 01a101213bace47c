/* clock: see clock.h. */
#include "common/clock.h"

#include <errno.h>
#include <time.h>

uint64_t lam_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * LAM_NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t lam_thread_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * LAM_NS_PER_S + (uint64_t)now.tv_nsec;
}

void lam_sleep_ns(uint64_t duration_ns)
{
    struct timespec left = {
        .tv_sec = (time_t)(duration_ns / LAM_NS_PER_S),
        .tv_nsec = (long)(duration_ns % LAM_NS_PER_S),
    };

    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
        ;
}
