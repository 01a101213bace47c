/* fault: see fault.h. One site can be armed at a time; that is all a fault loop needs. */
#include "common/fault.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

static _Atomic(const char *) armed_site;
static atomic_uint_fast64_t visits_left;
static atomic_bool fired;

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
