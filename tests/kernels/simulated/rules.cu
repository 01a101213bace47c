/*
 * rules: small kernels for rules_test.c, most of which break one rule of the machine each. The
 * library exports one function: what the device says after the kernel of that name.
 */
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"

extern "C" __attribute__((visibility("default"))) const char *rules_run(const char *name);

enum : uint32_t { BLOCK = 64, ALL = 0xFFFFFFFFu };

extern __shared__ uint4 smem[];

static const void *host_memory;

static __device__ __forceinline__ uint32_t *words(void)
{
    return reinterpret_cast<uint32_t *>(smem);
}

/* Nothing is wrong with it: every thread gets what its neighbour in the next warp wrote. */
static __global__ void in_order(uint32_t *out)
{
    __shared__ uint32_t other[BLOCK];
    uint32_t i = threadIdx.x;

    let_successors_begin();
    wait_for_predecessors();
    copy_async_16(static_cast<uint32_t>(__cvta_generic_to_shared(smem)) + i * 16, out + i * 4);
    copy_async_commit();
    words()[BLOCK * 4 + i] = i;
    copy_async_wait<0>();
    __syncthreads();
    other[i] = words()[BLOCK * 4 + (i + 32) % BLOCK] + __shfl_xor_sync(ALL, i, 1) * 0 +
               words()[(i + 1) % BLOCK * 4] * 0;
    __syncwarp();
    out[i * 4] = other[i ^ 1] ^ 1;
}

static __global__ void no_barrier(uint32_t *out)
{
    wait_for_predecessors();
    words()[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = words()[(threadIdx.x + 32) % BLOCK];
}

static __global__ void no_barrier_before_write(uint32_t *out)
{
    wait_for_predecessors();
    words()[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = words()[(threadIdx.x + 32) % BLOCK];
    words()[threadIdx.x] = 0;
}

static __global__ void no_syncwarp(uint32_t *out)
{
    wait_for_predecessors();
    words()[threadIdx.x] = threadIdx.x;
    uint32_t half = __shfl_xor_sync(ALL, threadIdx.x, 1) * 0; /* orders no memory */
    out[threadIdx.x] = words()[threadIdx.x ^ 1] + half;
}

/* wait: how many groups may be left. */
template <int LEFT, bool BARRIER> static __global__ void copied(uint32_t *out)
{
    uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(smem)) + threadIdx.x * 16;

    wait_for_predecessors();
    copy_async_16(to, out + threadIdx.x * 4);
    copy_async_commit();
    copy_async_wait<LEFT>();
    if (BARRIER)
        __syncthreads();
    out[threadIdx.x * 4] = words()[(threadIdx.x * 4 + (LEFT == 0 ? 4 : 0)) % (BLOCK * 4)];
}

static __global__ void copy_aside(uint32_t *out)
{
    wait_for_predecessors();
    copy_async_16(static_cast<uint32_t>(__cvta_generic_to_shared(smem)) + 8, out);
}

static __global__ void copy_outside(uint32_t *out)
{
    wait_for_predecessors();
    copy_async_16(static_cast<uint32_t>(__cvta_generic_to_shared(smem)) + BLOCK * 32, out);
}

static __global__ void other_shuffle(uint32_t *out)
{
    wait_for_predecessors();
    uint32_t value = threadIdx.x;
    if (threadIdx.x % 32 < 7)
        value = __shfl_sync(ALL, value, 0);
    else
        value = __shfl_sync(ALL, value, 1);
    out[threadIdx.x] = value;
}

static __global__ void ended_lane(uint32_t *out)
{
    wait_for_predecessors();
    if (threadIdx.x % 32 == 5)
        return;
    out[threadIdx.x] = __shfl_xor_sync(ALL, threadIdx.x, 1);
}

static __global__ void ended_thread(uint32_t *out)
{
    wait_for_predecessors();
    if (threadIdx.x >= 32)
        return;
    __syncthreads();
    out[threadIdx.x] = 0;
}

static __global__ void barrier_or_shuffle(uint32_t *out)
{
    wait_for_predecessors();
    if (threadIdx.x % 2 == 0)
        __syncthreads();
    else
        out[threadIdx.x] = __shfl_xor_sync(ALL, threadIdx.x, 1);
}

static __global__ void wrong_mask(uint32_t *out)
{
    wait_for_predecessors();
    out[threadIdx.x] = __shfl_sync(0xFFFFu, threadIdx.x, 0);
}

static __global__ void half_mask(uint32_t *out)
{
    wait_for_predecessors();
    if (threadIdx.x % 32 < 16)
        out[threadIdx.x] = __shfl_sync(0xFFFFu, threadIdx.x, 20);
}

static __global__ void no_wait(uint32_t *out)
{
    if (threadIdx.x % 2 == 0)
        wait_for_predecessors();
    if (threadIdx.x % 2 == 0)
        out[threadIdx.x] = 0;
}

static __global__ void early_write(uint32_t *out)
{
    out[threadIdx.x] = 0;
    wait_for_predecessors();
}

static __global__ void early_read(uint32_t *out)
{
    uint32_t value = out[threadIdx.x * 4];

    wait_for_predecessors();
    out[threadIdx.x] = value;
}

static __global__ void beyond(uint32_t *out)
{
    wait_for_predecessors();
    out[BLOCK * 4 + threadIdx.x] = 0;
}

/* The memory of the stream's own object. */
static __global__ void of_the_host(uint32_t *out)
{
    wait_for_predecessors();
    out[threadIdx.x] = *static_cast<const uint32_t *>(host_memory);
}

static __global__ void aside(uint32_t *out)
{
    wait_for_predecessors();
    float4 *four = reinterpret_cast<float4 *>(out + 1);
    four->x = 0;
    four->w = __uint_as_float(reinterpret_cast<uint64_t *>(out + 1)[threadIdx.x] & 1);
}

static __global__ void never_loaded(uint32_t *out)
{
    wait_for_predecessors();
    out[threadIdx.x] = 0;
}

static __global__ void never_divided(uint32_t *out)
{
    wait_for_predecessors();
    out[threadIdx.x] = 1;
}

struct rule {
    const char *name;
    void (*kernel)(uint32_t *);
};

static const rule rules[] = {
    {"in_order", in_order},
    {"no_barrier", no_barrier},
    {"no_barrier_before_write", no_barrier_before_write},
    {"no_syncwarp", no_syncwarp},
    {"no_copy_wait", copied<1, true>},
    {"no_copy_barrier", copied<0, false>},
    {"copied", copied<0, true>},
    {"copy_aside", copy_aside},
    {"copy_outside", copy_outside},
    {"other_shuffle", other_shuffle},
    {"ended_lane", ended_lane},
    {"ended_thread", ended_thread},
    {"barrier_or_shuffle", barrier_or_shuffle},
    {"wrong_mask", wrong_mask},
    {"half_mask", half_mask},
    {"no_wait", no_wait},
    {"early_write", early_write},
    {"early_read", early_read},
    {"beyond", beyond},
    {"of_the_host", of_the_host},
    {"aside", aside},
};

static int launch_one(const char *name, cudaStream_t stream, uint32_t *out)
{
    lam_cuda_chip chip = {};

    chip.architecture = 90;
    for (const rule &one : rules) {
        if (strcmp(one.name, name) != 0)
            continue;
        int error = load_kernel_with(one.kernel, BLOCK * 32);
        return error != 0 ? error
                          : launch(stream, &chip, one.kernel, dim3(2), BLOCK, BLOCK * 32, out);
    }
    cudaFuncAttributes attributes;
    int error = cudaFuncGetAttributes(&attributes, never_divided);
    if (error != 0 || strcmp(name, "never_divided") == 0)
        return error != 0 ? error : launch(stream, &chip, never_divided, dim3(1), 32, 32, out);
    return launch(stream, &chip, never_loaded, dim3(1), 32, 0, out);
}

/* What the device says after one launch of the kernel, behind one of in_order; "" where it has none.
 * The sentence lives until the next call. */
const char *rules_run(const char *name)
{
    static char text[600];
    static cudaStream_t stream;
    uint32_t *out = NULL;
    void *memory = NULL;

    text[0] = '\0';
    if (stream == NULL && cudaStreamCreateWithFlags(&stream, 0) != cudaSuccess)
        return "no stream";
    host_memory = stream;
    if (cudaMalloc(&memory, BLOCK * 16) != cudaSuccess)
        return "no memory";
    out = static_cast<uint32_t *>(memory);
    int error = launch_one("in_order", stream, out);
    error = error != 0 ? error : launch_one(name, stream, out);
    if (error == 0)
        error = cudaStreamSynchronize(stream);
    if (error != 0)
        strncpy(text, cudaGetErrorString(static_cast<cudaError_t>(error)), sizeof(text) - 1);
    (void)cudaDeviceReset();
    (void)cudaFree(memory);
    return text;
}
