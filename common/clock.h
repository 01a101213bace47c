/* clock: monotonic time. Wall-clock time is for log lines only; no decision depends on it. */
#ifndef LAMINAR_COMMON_CLOCK_H
#define LAMINAR_COMMON_CLOCK_H

#include <stdint.h>

#define LAM_NS_PER_S 1000000000ull
#define LAM_NS_PER_MS 1000000ull

/* Nanoseconds since an arbitrary start. Never goes back. Safe from any thread. */
uint64_t lam_now_ns(void);

/* Processor time of the calling thread: what it cost, whoever else had the processor meanwhile. */
uint64_t lam_thread_ns(void);

/* Sleeps at least `duration_ns`, also when a signal arrives. */
void lam_sleep_ns(uint64_t duration_ns);

#endif
