/*
 * device: memory, transfers and marks of a CUDA device; the contract is kernels/device.h. A mark is
 * an event. An error of the runtime is noted where it appears and told by host_wait.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/size.h"
#include "kernels/cuda/context.h"

void lam_cuda_note(struct lam_kernels *kernels, cudaError_t error, const char *call)
{
    if (error == cudaSuccess || kernels->error != cudaSuccess)
        return;
    kernels->error = error;
    kernels->error_call = call;
}

/* A refusal that was told must not be found again behind the next launch. */
static void forget_error(void)
{
    lam_ignore(cudaGetLastError(), "told already");
}

static enum lam_status cuda_facts(
    struct lam_kernels *kernels, struct lam_device_facts *ret_facts, struct lam_err *err)
{
    size_t free_bytes, total_bytes;
    cudaError_t error = cudaMemGetInfo(&free_bytes, &total_bytes);

    if (error != cudaSuccess)
        return lam_fail(err, LAM_INTERNAL, "reading the memory of GPU %u failed: %s",
            kernels->config.device, cudaGetErrorString(error));
    *ret_facts = (struct lam_device_facts){
        .total_bytes = total_bytes,
        .free_bytes = free_bytes,
        .own_bytes = kernels->own_bytes,
        .own_is_exact = kernels->own_is_exact,
        .n_multiprocessors = kernels->chip.n_sms,
        .architecture = kernels->chip.architecture,
    };
    memcpy(ret_facts->name, kernels->name, sizeof(ret_facts->name));
    return LAM_OK;
}

static enum lam_status cuda_held(
    struct lam_kernels *kernels, uint64_t *ret_bytes, bool *ret_exact, struct lam_err *err)
{
    if (lam_cuda_memory_use_read(&kernels->use, ret_bytes, ret_exact))
        return LAM_OK;
    return lam_fail(err, LAM_UNAVAILABLE,
        "the driver's management library does not say what is held on GPU %u",
        kernels->config.device);
}

static enum lam_status cuda_arena(
    struct lam_kernels *kernels, uint64_t bytes, void **ret_base, struct lam_err *err)
{
    char asked[24], left[24];
    size_t free_bytes, total_bytes;

    assert(kernels->arena == NULL);
    cudaError_t error = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (error == cudaSuccess)
        error = bytes > free_bytes ? cudaErrorMemoryAllocation : cudaMalloc(&kernels->arena, bytes);
    if (error == cudaSuccess) {
        *ret_base = kernels->arena;
        return LAM_OK;
    }
    kernels->arena = NULL;
    forget_error();
    if (error != cudaErrorMemoryAllocation)
        return lam_fail(err, LAM_INTERNAL, "taking memory of GPU %u failed: %s",
            kernels->config.device, cudaGetErrorString(error));
    return lam_fail_no_fit(err, "GPU %u (%s) has %s free and %s were asked for; lower --vram",
        kernels->config.device, kernels->name, lam_size_format(free_bytes, left, sizeof(left)),
        lam_size_format(bytes, asked, sizeof(asked)));
}

static void cuda_workspace(struct lam_kernels *kernels, void *base)
{
    assert((uintptr_t)base % 256 == 0);
    lam_cuda_flush(kernels);
    kernels->rows = base;
    kernels->tile = kernels->rows + lam_device_workspace_rows_bytes(&kernels->config);
    kernels->splits = kernels->tile + lam_device_workspace_tile_bytes(&kernels->config);
    kernels->arrived =
        (uint32_t *)(void *)(kernels->splits + lam_device_workspace_split_bytes(&kernels->config));
    lam_cuda_note(kernels,
        cudaMemsetAsync(kernels->arrived, 0, lam_device_workspace_arrived_bytes(&kernels->config),
            kernels->compute),
        "the workspace");
}

static enum lam_status cuda_host_memory(
    struct lam_kernels *kernels, uint64_t bytes, void **ret_base, struct lam_err *err)
{
    void **block = &kernels->host_blocks[kernels->n_host_blocks];
    char asked[24];

    assert(kernels->n_host_blocks < LAM_CUDA_HOST_BLOCKS);
    cudaError_t error = cudaHostAlloc(block, bytes, cudaHostAllocDefault);
    if (error != cudaSuccess) {
        *block = NULL;
        forget_error();
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no %s of pinned host memory: %s",
            lam_size_format(bytes, asked, sizeof(asked)), cudaGetErrorString(error));
    }
    kernels->n_host_blocks++;
    *ret_base = *block;
    return LAM_OK;
}

static enum lam_status cuda_pin(
    struct lam_kernels *kernels, const void *base, uint64_t bytes, struct lam_err *err)
{
    void *address = (void *)(uintptr_t)base; /* the runtime's type; the flag says read-only */
    char size[24];

    assert(bytes <= LAM_GIB);
    cudaError_t error = cudaSetDevice((int)kernels->config.device); /* it is set per thread */
    if (error == cudaSuccess)
        error = cudaHostRegister(address, bytes, cudaHostRegisterReadOnly);
    if (error == cudaSuccess)
        return LAM_OK;
    forget_error();
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
        "cannot pin %s of the pool for GPU %u: %s; copies will be slow; check `ulimit -l`",
        lam_size_format(bytes, size, sizeof(size)), kernels->config.device,
        cudaGetErrorString(error));
}

static void cuda_unpin(struct lam_kernels *kernels, const void *base)
{
    if (cudaSetDevice((int)kernels->config.device) == cudaSuccess)
        lam_ignore(cudaHostUnregister((void *)(uintptr_t)base), "the mapping goes away anyway");
}

static void cuda_copy_in(struct lam_kernels *kernels, void *to, const void *from, uint64_t bytes)
{
    lam_cuda_note(kernels, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, kernels->copy),
        "a weight copy");
}

/* Makes the other half the one to fill, once the device has read it. */
static void turn_staging(struct lam_kernels *kernels)
{
    struct lam_cuda_staging *staging = &kernels->staging;

    lam_cuda_note(
        kernels, cudaEventRecord(staging->read[staging->half], kernels->compute), "an upload");
    staging->half ^= 1;
    staging->used_bytes = 0;
    lam_cuda_note(kernels, cudaEventSynchronize(staging->read[staging->half]), "an upload");
}

static void cuda_upload(struct lam_kernels *kernels, void *to, const void *from, uint64_t bytes)
{
    struct lam_cuda_staging *staging = &kernels->staging;
    const uint64_t half_bytes = LAM_CUDA_STAGING_BYTES / 2;

    lam_cuda_flush(kernels);
    for (uint64_t done = 0; done < bytes;) {
        if (staging->used_bytes == half_bytes)
            turn_staging(kernels);
        uint64_t n = half_bytes - staging->used_bytes;
        n = bytes - done < n ? bytes - done : n;
        unsigned char *at = staging->base + staging->half * half_bytes + staging->used_bytes;
        memcpy(at, (const unsigned char *)from + done, n);
        lam_cuda_note(kernels,
            cudaMemcpyAsync(
                (unsigned char *)to + done, at, n, cudaMemcpyHostToDevice, kernels->compute),
            "an upload");
        staging->used_bytes += n;
        done += n;
    }
}

static void cuda_download(struct lam_kernels *kernels, void *to, const void *from, uint64_t bytes)
{
    lam_cuda_flush(kernels);
    lam_cuda_note(kernels,
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, kernels->compute), "a download");
}

static void cuda_probe(struct lam_kernels *kernels, void *from, uint64_t bytes)
{
    assert((uintptr_t)from % 16 == 0);
    lam_cuda_flush(kernels);
    lam_cuda_note(kernels,
        (cudaError_t)lam_cuda_probe(kernels->compute, &kernels->chip, from, bytes), "a probe");
}

static void cuda_mark_copy(struct lam_kernels *kernels, uint32_t mark)
{
    assert(mark < LAM_DEVICE_MARKS);
    lam_cuda_note(kernels, cudaEventRecord(kernels->marks[mark], kernels->copy), "a mark");
}

static void cuda_mark_compute(struct lam_kernels *kernels, uint32_t mark)
{
    assert(mark < LAM_DEVICE_MARKS);
    lam_cuda_flush(kernels);
    lam_cuda_note(kernels, cudaEventRecord(kernels->marks[mark], kernels->compute), "a mark");
}

static void cuda_copy_wait(struct lam_kernels *kernels, uint32_t mark)
{
    assert(mark < LAM_DEVICE_MARKS);
    lam_cuda_note(kernels, cudaStreamWaitEvent(kernels->copy, kernels->marks[mark], 0), "a mark");
}

static void cuda_compute_wait(struct lam_kernels *kernels, uint32_t mark)
{
    assert(mark < LAM_DEVICE_MARKS);
    lam_cuda_flush(kernels);
    lam_cuda_note(
        kernels, cudaStreamWaitEvent(kernels->compute, kernels->marks[mark], 0), "a mark");
}

static bool cuda_reached(struct lam_kernels *kernels, uint32_t mark)
{
    assert(mark < LAM_DEVICE_MARKS);
    cudaError_t error = cudaEventQuery(kernels->marks[mark]);
    if (error == cudaErrorNotReady)
        return false;
    lam_cuda_note(kernels, error, "a kernel or copy");
    return true;
}

static enum lam_status cuda_host_wait(
    struct lam_kernels *kernels, uint32_t mark, struct lam_err *err)
{
    assert(mark < LAM_DEVICE_MARKS);
    lam_cuda_note(kernels, cudaEventSynchronize(kernels->marks[mark]), "a kernel or copy");
    if (kernels->error == cudaSuccess)
        return LAM_OK;
    return lam_fail(err, LAM_INTERNAL, "GPU %u (%s): %s failed: %s (%s); the process must end",
        kernels->config.device, kernels->name, kernels->error_call,
        cudaGetErrorString(kernels->error), cudaGetErrorName(kernels->error));
}

static uint64_t cuda_elapsed_ns(struct lam_kernels *kernels, uint32_t from, uint32_t to)
{
    float ms = 0;

    assert(from < LAM_DEVICE_MARKS && to < LAM_DEVICE_MARKS);
    lam_cuda_note(
        kernels, cudaEventElapsedTime(&ms, kernels->marks[from], kernels->marks[to]), "a clock");
    return ms > 0 ? (uint64_t)((double)ms * 1e6) : 0;
}

enum lam_status lam_cuda_device_init(struct lam_kernels *kernels, struct lam_err *err)
{
    /* Events that the host waits for put it to sleep: a pass may take a second. */
    const unsigned int flags = cudaEventBlockingSync;
    cudaError_t error = cudaStreamCreateWithFlags(&kernels->compute, cudaStreamNonBlocking);

    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&kernels->copy, cudaStreamNonBlocking);
    for (uint32_t i = 0; i < LAM_DEVICE_MARKS && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&kernels->marks[i], flags);
    for (uint32_t i = 0; i < 2 && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&kernels->staging.read[i], flags | cudaEventDisableTiming);
    if (error == cudaSuccess)
        error = cudaHostAlloc(
            (void **)&kernels->staging.base, LAM_CUDA_STAGING_BYTES, cudaHostAllocDefault);
    if (error == cudaSuccess)
        return LAM_OK;
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "starting the queues of GPU %u failed: %s",
        kernels->config.device, cudaGetErrorString(error));
}

void lam_cuda_device_done(struct lam_kernels *kernels)
{
    if (kernels->compute != NULL)
        lam_ignore(cudaStreamSynchronize(kernels->compute), "after a fault nothing succeeds");
    if (kernels->copy != NULL)
        lam_ignore(cudaStreamSynchronize(kernels->copy), "after a fault nothing succeeds");
    for (uint32_t i = 0; i < LAM_DEVICE_MARKS; i++) {
        if (kernels->marks[i] != NULL)
            lam_ignore(cudaEventDestroy(kernels->marks[i]), "after a fault nothing succeeds");
    }
    for (uint32_t i = 0; i < 2; i++) {
        if (kernels->staging.read[i] != NULL)
            lam_ignore(
                cudaEventDestroy(kernels->staging.read[i]), "after a fault nothing succeeds");
    }
    for (uint32_t i = 0; i < kernels->n_host_blocks; i++)
        lam_ignore(cudaFreeHost(kernels->host_blocks[i]), "after a fault nothing succeeds");
    if (kernels->staging.base != NULL)
        lam_ignore(cudaFreeHost(kernels->staging.base), "after a fault nothing succeeds");
    if (kernels->arena != NULL)
        lam_ignore(cudaFree(kernels->arena), "after a fault nothing succeeds");
    if (kernels->copy != NULL)
        lam_ignore(cudaStreamDestroy(kernels->copy), "after a fault nothing succeeds");
    if (kernels->compute != NULL)
        lam_ignore(cudaStreamDestroy(kernels->compute), "after a fault nothing succeeds");
}

const struct lam_device_ops lam_cuda_device_ops = {
    .facts = cuda_facts,
    .held = cuda_held,
    .arena = cuda_arena,
    .workspace = cuda_workspace,
    .host_memory = cuda_host_memory,
    .pin = cuda_pin,
    .unpin = cuda_unpin,
    .copy_in = cuda_copy_in,
    .upload = cuda_upload,
    .download = cuda_download,
    .probe = cuda_probe,
    .mark_copy = cuda_mark_copy,
    .mark_compute = cuda_mark_compute,
    .copy_wait = cuda_copy_wait,
    .compute_wait = cuda_compute_wait,
    .reached = cuda_reached,
    .host_wait = cuda_host_wait,
    .elapsed_ns = cuda_elapsed_ns,
};
