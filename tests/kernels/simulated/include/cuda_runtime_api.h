/*
 * cuda_runtime_api: the part of the CUDA runtime that kernels/cuda uses, with the names and the
 * meaning of NVIDIA's documentation, for the simulated GPU. Numbers of errors are the runtime's.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_INCLUDE_CUDA_RUNTIME_API_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_INCLUDE_CUDA_RUNTIME_API_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#include "tests/kernels/simulated/include/device_code.h"
extern "C" {
#endif

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorHostMemoryAlreadyRegistered = 712,
    cudaErrorHostMemoryNotRegistered = 713,
    cudaErrorLaunchFailure = 719,
    cudaErrorUnknown = 999,
} cudaError_t;

enum { cudaStreamNonBlocking = 1 };
enum { cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0 };
enum { cudaHostRegisterReadOnly = 8 };
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice
};
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum { cudaSharedmemCarveoutMaxShared = 100 };
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;

struct cudaDeviceProp {
    char name[256];
    int major;
    int minor;
    int multiProcessorCount;
    size_t sharedMemPerBlockOptin;
    size_t sharedMemPerMultiprocessor;
};

struct cudaFuncAttributes {
    int maxDynamicSharedSizeBytes;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetPCIBusId(char *bus_id, int bytes, int device);
cudaError_t cudaDeviceReset(void);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);

cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned int flags);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned int flags);
cudaError_t cudaHostUnregister(void *memory);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaMemcpyAsync(
    void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);

cudaError_t simFuncLoad(struct cudaFuncAttributes *attributes, const void *kernel);
cudaError_t simFuncSet(const void *kernel, enum cudaFuncAttribute attribute, int value);

#ifdef __cplusplus
} /* extern "C" */

struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    union {
        int programmaticStreamSerializationAllowed;
    } val;
};

struct cudaLaunchConfig_t {
    dim3 gridDim;
    dim3 blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned int numAttrs;
};

template <typename KERNEL>
static inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, KERNEL *kernel)
{
    return simFuncLoad(attributes, reinterpret_cast<const void *>(kernel));
}

template <typename KERNEL>
static inline cudaError_t cudaFuncSetAttribute(
    KERNEL *kernel, cudaFuncAttribute attribute, int value)
{
    return simFuncSet(reinterpret_cast<const void *>(kernel), attribute, value);
}

template <typename... PARAMS, typename... ARGS>
static inline cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t *config, void (*kernel)(PARAMS...), ARGS &&...args)
{
    using call = sim_call<PARAMS...>;
    const call own = {kernel, std::tuple<PARAMS...>(static_cast<PARAMS>(args)...)};
    sim_launch launch = {};

    launch.grid = {config->gridDim.x, config->gridDim.y, config->gridDim.z};
    launch.block = {config->blockDim.x, config->blockDim.y, config->blockDim.z};
    launch.smem_bytes = static_cast<uint32_t>(config->dynamicSmemBytes);
    launch.kernel = reinterpret_cast<const void *>(kernel);
    launch.body = call::run;
    launch.params = &own;
    launch.param_bytes = sizeof(own);
    for (unsigned int i = 0; i < config->numAttrs; i++)
        launch.overlaps = config->attrs[i].val.programmaticStreamSerializationAllowed != 0;
    return static_cast<cudaError_t>(sim_queue_launch(config->stream, &launch));
}
#endif

#endif
