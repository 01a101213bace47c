/* processors: see processors.h. */
#include "common/processors.h"

#include <sched.h>
#include <unistd.h>

uint32_t lam_processors(void)
{
    cpu_set_t set;
    long n;

    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return (uint32_t)CPU_COUNT(&set);
    n = sysconf(_SC_NPROCESSORS_ONLN); /* there are more than the set holds */
    return n < 1 ? 1 : (uint32_t)n;
}
