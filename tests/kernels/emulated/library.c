/*
 * library: the emulated device as liblaminar-cuda.so, so that the real worker runs on it:
 * `laminar-worker --device cuda:0 --cuda-library FOLDER`. It computes with the fast CPU kernels.
 * In the folders below this one its process comes to hold more than is planned, or it breaks.
 */
#include <stddef.h>

#include "tests/kernels/emulated/emulated.h"

const struct lam_cuda_backend *lam_kernels_cuda(uint32_t abi)
{
    static const struct emulated_options options = {.seed = 1,
        .cpu_kernels = true,
        .fault = EMULATED_BROKEN_OP > 0 ? EMULATED_BROKEN : EMULATED_SOUND,
        .nth = EMULATED_BROKEN_OP,
        .grow_bytes = EMULATED_GROW_BYTES,
        .grow_op = EMULATED_GROW_OP};

    if (abi != LAM_CUDA_ABI)
        return NULL;
    emulated_set(&options);
    return emulated_backend();
}
