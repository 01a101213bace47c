/*
 * dispatch: from a dtype of the arguments to a template of it, and from a kernel to "loaded". */
#ifndef LAMINAR_KERNELS_CUDA_DISPATCH_CUH
#define LAMINAR_KERNELS_CUDA_DISPATCH_CUH

#include <assert.h>
#include <cuda_runtime_api.h>

#include "common/dtype.h"

template <lam_dtype DTYPE> struct dtype_tag {
    static const lam_dtype value = DTYPE;
};

/* visit(dtype_tag<D>()) for D == dtype; its result is a runtime error number. */
template <typename VISITOR> static int for_dtype(lam_dtype dtype, const VISITOR &visit)
{
    switch (dtype) {
    case LAM_F32:
        return visit(dtype_tag<LAM_F32>());
    case LAM_F16:
        return visit(dtype_tag<LAM_F16>());
    case LAM_BF16:
        return visit(dtype_tag<LAM_BF16>());
    case LAM_Q4_0:
        return visit(dtype_tag<LAM_Q4_0>());
    case LAM_Q4_1:
        return visit(dtype_tag<LAM_Q4_1>());
    case LAM_Q5_0:
        return visit(dtype_tag<LAM_Q5_0>());
    case LAM_Q5_1:
        return visit(dtype_tag<LAM_Q5_1>());
    case LAM_Q8_0:
        return visit(dtype_tag<LAM_Q8_0>());
    case LAM_Q4_K:
        return visit(dtype_tag<LAM_Q4_K>());
    case LAM_Q5_K:
        return visit(dtype_tag<LAM_Q5_K>());
    case LAM_Q6_K:
        return visit(dtype_tag<LAM_Q6_K>());
    default:
        assert(!"a dtype that has a row in common/dtype.c");
        return cudaErrorInvalidValue;
    }
}

/* visit for every dtype; the first error, or 0. */
template <typename VISITOR> static int for_every_dtype(const VISITOR &visit)
{
    for (int id = 0; id < LAM_DTYPE_END; id++) {
        int error = lam_dtype_known(static_cast<uint32_t>(id))
                        ? for_dtype(static_cast<lam_dtype>(id), visit)
                        : 0;
        if (error != 0)
            return error;
    }
    return 0;
}

/* Makes the runtime load this kernel now. */
template <typename KERNEL> static int load_kernel(KERNEL *kernel)
{
    cudaFuncAttributes attributes;

    return cudaFuncGetAttributes(&attributes, kernel);
}

/* The same, and lets its blocks have this much shared memory. These kernels follow each other, and
 * all divide a multiprocessor's memory between first level cache and shared memory alike: one that
 * wants another division waits until the multiprocessor is empty, and so does the one behind it. */
template <typename KERNEL> static int load_kernel_with(KERNEL *kernel, uint32_t smem_bytes)
{
    int error = load_kernel(kernel);

    if (error == 0)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
            cudaSharedmemCarveoutMaxShared);
    if (error == 0)
        error = cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem_bytes));
    return error;
}

static inline uint32_t div_up(uint64_t a, uint32_t b)
{
    return static_cast<uint32_t>((a + b - 1) / b);
}

#endif
