/*
 * runtime: the functions of include/cuda_runtime_api.h on one simulated GPU. Calls of all threads
 * take turns. A broken rule, and what breaks the runtime's own, is a sentence that
 * cudaGetErrorString tells, and the answer to every later call.
 */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "tests/kernels/simulated/fault.h"
#include "tests/kernels/simulated/memory.h"
#include "tests/kernels/simulated/queue.h"

/* SIM_ARCHITECTURE: 90 for a chip of compute capability 9.0. Few multiprocessors: small matrices
 * already need several rounds, large tiles and no parts. */
enum { KERNELS_MAX = 512, SMS = 4, SMEM_DEFAULT = 48 << 10, SM_SMEM_BYTES = 228 << 10 };

/* Kernels that were loaded. */
struct loaded {
    const void *kernel;
    uint32_t smem_bytes; /* that its blocks may have */
    bool most_is_shared; /* it wants as much of a multiprocessor as there is */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct loaded kernels[KERNELS_MAX];
static cudaError_t last_error;

static void begin(void)
{
    (void)pthread_mutex_lock(&lock);
}

/* What a call answers: its own error, but the device's fault before all. */
static cudaError_t end(cudaError_t error)
{
    if (sim_fault_text() != NULL)
        error = cudaErrorLaunchFailure;
    if (error != cudaSuccess && error != cudaErrorNotReady)
        last_error = error;
    (void)pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    if (device != 0)
        return cudaErrorInvalidDevice;
    *properties = (struct cudaDeviceProp){
        .name = "simulated GPU",
        .major = SIM_ARCHITECTURE / 10,
        .minor = SIM_ARCHITECTURE % 10,
        .multiProcessorCount = SMS,
        .sharedMemPerBlockOptin = SIM_SMEM_BYTES,
        .sharedMemPerMultiprocessor = SM_SMEM_BYTES,
    };
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *bus_id, int bytes, int device)
{
    if (device != 0 || snprintf(bus_id, (size_t)bytes, "0000:00:00.0") >= bytes)
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

cudaError_t cudaDeviceReset(void)
{
    begin();
    sim_fault_clear();
    last_error = cudaSuccess;
    return end(cudaSuccess);
}

cudaError_t cudaGetLastError(void)
{
    begin();
    cudaError_t error = end(last_error);
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorNotReady:
        return "device not ready";
    case cudaErrorLaunchFailure:
        return sim_fault_text() != NULL ? sim_fault_text() : "unspecified launch failure";
    default:
        return "invalid argument";
    }
}

const char *cudaGetErrorName(cudaError_t error)
{
    return error == cudaErrorLaunchFailure ? "cudaErrorLaunchFailure" : "another error";
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    begin();
    *memory = sim_memory_take(bytes);
    return end(*memory != NULL ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void *memory)
{
    begin();
    return end(memory == NULL || sim_memory_give(memory) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    begin();
    *total_bytes = SIM_TOTAL_BYTES;
    *free_bytes = SIM_TOTAL_BYTES - sim_memory_held();
    return end(cudaSuccess);
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned int flags)
{
    begin();
    (void)flags;
    *memory = lam_calloc(bytes, 1);
    if (*memory != NULL && !sim_pin_add(*memory, bytes)) {
        lam_free(*memory);
        *memory = NULL;
    }
    return end(*memory != NULL ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *memory)
{
    begin();
    bool there = sim_pin_remove(memory);
    if (there)
        lam_free(memory);
    return end(there ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned int flags)
{
    begin();
    (void)flags;
    return end(sim_pin_add(memory, bytes) ? cudaSuccess : cudaErrorHostMemoryAlreadyRegistered);
}

cudaError_t cudaHostUnregister(void *memory)
{
    begin();
    return end(sim_pin_remove(memory) ? cudaSuccess : cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    begin();
    (void)flags;
    *stream = sim_stream_create();
    return end(*stream != NULL ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    begin();
    sim_stream_destroy(stream);
    return end(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    begin();
    sim_drain(stream);
    return end(cudaSuccess);
}

/* Queues an operation on an event. */
static cudaError_t queue_event(cudaStream_t stream, cudaEvent_t event, enum sim_op_kind kind)
{
    struct sim_op *op = sim_op_new(kind, 0);

    if (op == NULL)
        return cudaErrorMemoryAllocation;
    event->recorded += kind == SIM_RECORD;
    op->event = event;
    op->times = event->recorded;
    sim_queue(stream, op);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    begin();
    (void)flags;
    return end(queue_event(stream, event, SIM_WAIT));
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    begin();
    return end(queue_event(stream, event, SIM_RECORD));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    begin();
    (void)flags;
    *event = lam_calloc(1, sizeof(**event));
    return end(*event != NULL ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    begin();
    sim_reach(event, event->recorded);
    lam_free(event);
    return end(cudaSuccess);
}

/* Whoever asks moves the device on, a step at a time. */
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    begin();
    bool reached = event->reached == event->recorded;
    if (!reached)
        (void)sim_step();
    return end(reached ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    begin();
    sim_reach(event, event->recorded);
    return end(cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    begin();
    if (from->recorded == 0 || to->recorded == 0)
        return end(cudaErrorInvalidResourceHandle);
    if (from->reached != from->recorded || to->reached != to->recorded)
        return end(cudaErrorNotReady);
    *ms = (float)((double)to->reached_ns - (double)from->reached_ns) * 1e-6f;
    return end(cudaSuccess);
}

/* Copies of memory that is not pinned are complete, or read, when the call returns. */
cudaError_t cudaMemcpyAsync(
    void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    const void *on_device = kind == cudaMemcpyHostToDevice ? to : from;
    const void *on_host = kind == cudaMemcpyHostToDevice ? from : to;

    begin();
    enum sim_pin pin = sim_pin_of(on_host, bytes);
    struct sim_op *op = sim_op_new(SIM_COPY, 0);
    if (bytes == 0 || !sim_memory_has(on_device, bytes) || pin == SIM_PIN_CROSSED || op == NULL) {
        lam_free(op);
        return end(bytes == 0 ? cudaSuccess : cudaErrorInvalidValue);
    }
    op->to = to;
    op->from = from;
    op->bytes = bytes;
    sim_queue(stream, op);
    if (pin == SIM_NOT_PINNED)
        sim_drain(stream);
    return end(cudaSuccess);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    begin();
    struct sim_op *op = sim_op_new(SIM_FILL, 0);
    if (!sim_memory_has(to, bytes) || op == NULL) {
        lam_free(op);
        return end(cudaErrorInvalidValue);
    }
    op->to = to;
    op->value = value;
    op->bytes = bytes;
    sim_queue(stream, op);
    return end(cudaSuccess);
}

/* The kernel's entry; room: where it goes when it is not there. */
static struct loaded *find(const void *kernel, struct loaded **room)
{
    for (uint32_t i = 0; i < KERNELS_MAX; i++) {
        if (kernels[i].kernel == kernel)
            return &kernels[i];
        if (kernels[i].kernel == NULL) {
            *room = &kernels[i];
            return NULL;
        }
    }
    *room = NULL;
    return NULL;
}

cudaError_t simFuncLoad(struct cudaFuncAttributes *attributes, const void *kernel)
{
    struct loaded *room;

    begin();
    struct loaded *own = find(kernel, &room);
    if (own == NULL && room == NULL)
        return end(cudaErrorMemoryAllocation);
    if (own == NULL) {
        *room = (struct loaded){kernel, SMEM_DEFAULT, false};
        own = room;
    }
    attributes->maxDynamicSharedSizeBytes = (int)own->smem_bytes;
    return end(cudaSuccess);
}

cudaError_t simFuncSet(const void *kernel, enum cudaFuncAttribute attribute, int value)
{
    bool is_size = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize;
    struct loaded *room;

    begin();
    struct loaded *own = find(kernel, &room);
    if (own == NULL || value < 0 || value > (is_size ? SIM_SMEM_BYTES : 100))
        return end(cudaErrorInvalidValue);
    if (is_size)
        own->smem_bytes = (uint32_t)value;
    else
        own->most_is_shared = value == cudaSharedmemCarveoutMaxShared;
    return end(cudaSuccess);
}

/* What would be refused, or would load the kernel only now. */
static bool may_launch(const struct sim_launch *launch)
{
    const struct sim_index *grid = &launch->grid, *block = &launch->block;
    struct loaded *room;
    const struct loaded *own = find(launch->kernel, &room);
    uint64_t n_threads = (uint64_t)block->x * block->y * block->z;

    if (own == NULL)
        sim_fault("a kernel is launched that no prepare function has loaded");
    else if (launch->smem_bytes > 0 && !own->most_is_shared)
        sim_fault("a kernel is launched that divides a multiprocessor's memory as others do not");
    return own != NULL && launch->smem_bytes <= own->smem_bytes && n_threads > 0 &&
           n_threads <= SIM_THREADS_MAX && block->z <= 64 && grid->x > 0 && grid->x <= 0x7FFFFFFF &&
           grid->y > 0 && grid->y <= 0xFFFF && grid->z > 0 && grid->z <= 0xFFFF;
}

int sim_queue_launch(struct CUstream_st *stream, const struct sim_launch *launch)
{
    begin();
    if (!may_launch(launch))
        return (int)end(cudaErrorInvalidValue);
    struct sim_op *op = sim_op_new(SIM_LAUNCH, launch->param_bytes);
    if (op == NULL)
        return (int)end(cudaErrorMemoryAllocation);
    op->launch = *launch;
    memcpy(op->params, launch->params, launch->param_bytes);
    op->launch.params = op->params;
    sim_queue(stream, op);
    return (int)end(cudaSuccess);
}
