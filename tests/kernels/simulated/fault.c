/* fault: see fault.h. */
#include "tests/kernels/simulated/fault.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

static char fault[500];

void sim_fault(const char *format, ...)
{
    va_list args;

    if (fault[0] != '\0')
        return;
    va_start(args, format);
    (void)vsnprintf(fault, sizeof(fault), format, args);
    va_end(args);
}

const char *sim_fault_text(void)
{
    return fault[0] != '\0' ? fault : NULL;
}

void sim_fault_clear(void)
{
    fault[0] = '\0';
}
