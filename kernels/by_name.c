/* by_name: the backends of this build, by the name that the command line uses. */
#include "kernels/ops.h"

#include <stddef.h>
#include <string.h>

const struct lam_kernel_ops *lam_kernels_by_name(const char *name)
{
    if (strcmp(name, "ref") == 0)
        return lam_kernels_ref();
    if (strcmp(name, "cpu") == 0)
        return lam_kernels_cpu();
    return NULL;
}
