/*
 * trace_bench: what a trace point costs, off and on, in one thread. The least of many repetitions:
 * others on the machine only add to it.
 */
#include <inttypes.h>
#include <stdio.h>

#include "common/clock.h"
#include "common/trace.h"

#define POINTS 100000u
#define REPEATS 50

static uint64_t time_points(void)
{
    uint64_t begin_ns = lam_now_ns();

    for (uint32_t i = 0; i < POINTS; i++) {
        uint64_t point_ns = lam_trace_begin();

        lam_trace_end(LAM_TRACE_CHECK, "check", point_ns, i, LAM_TRACE_NONE, 1);
    }
    return lam_now_ns() - begin_ns;
}

static double least_ns(void)
{
    uint64_t least = UINT64_MAX;

    for (int i = 0; i < REPEATS; i++) {
        uint64_t ns = time_points();

        least = ns < least ? ns : least;
    }
    return (double)least / POINTS;
}

int main(void)
{
    double off_ns = least_ns();
    double on_ns;

    lam_trace_start();
    on_ns = least_ns();
    lam_trace_stop();
    printf("a trace point: %.2f ns off, %.1f ns on, of which two clocks\n", off_ns, on_ns);
    return 0;
}
