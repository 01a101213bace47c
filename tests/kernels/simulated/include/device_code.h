/*
 * device_code: CUDA's C++ for kernels that are compiled for this CPU: the keywords, the vector
 * types and the built-in functions that kernels/cuda uses. Meanings are those of NVIDIA's
 * programming guide; collectives pass on the line that calls them.
 *
 * __shared__ is thread_local: one thread of the CPU runs one block at a time, and the storage of
 * this library's thread-local variables is the block's shared memory.
 */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_INCLUDE_DEVICE_CODE_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_INCLUDE_DEVICE_CODE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <tuple>

#include "tests/kernels/simulated/machine.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __shared__ thread_local

#define threadIdx (sim_here->thread)
static const sim_index &blockIdx = sim_block;
static const sim_index &blockDim = sim_block_sides;
static const sim_index &gridDim = sim_grid_sides;

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
        : x(x_), y(y_), z(z_)
    {
    }
};

#define SIM_VECTOR(name, type, align)                                                              \
    struct alignas(align * sizeof(type)) name##2                                                   \
    {                                                                                              \
        type x, y;                                                                                 \
    };                                                                                             \
    struct name##3                                                                                 \
    {                                                                                              \
        type x, y, z;                                                                              \
    };                                                                                             \
    struct alignas(align * 2 * sizeof(type) > 16 ? 16 : align * 2 * sizeof(type)) name##4          \
    {                                                                                              \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name##2 make_##name##2(type x, type y)                                           \
    {                                                                                              \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline name##4 make_##name##4(type x, type y, type z, type w)                           \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
SIM_VECTOR(char, signed char, 2)
SIM_VECTOR(uchar, unsigned char, 2)
SIM_VECTOR(short, short, 2)
SIM_VECTOR(ushort, unsigned short, 2)
SIM_VECTOR(int, int, 2)
SIM_VECTOR(uint, unsigned int, 2)
SIM_VECTOR(float, float, 2)
#undef SIM_VECTOR

template <typename... PARAMS> struct sim_call {
    void (*kernel)(PARAMS...);
    std::tuple<PARAMS...> params;

    static void run(const void *own)
    {
        const sim_call *call = static_cast<const sim_call *>(own);

        std::apply(call->kernel, call->params); /* each thread has its own copy */
    }
};

/* min and max of the types that CUDA has them for, mixed ones unsigned. */
static inline int min(int a, int b)
{
    return a < b ? a : b;
}
static inline unsigned int min(unsigned int a, unsigned int b)
{
    return a < b ? a : b;
}
static inline unsigned int min(int a, unsigned int b)
{
    return min(static_cast<unsigned int>(a), b);
}
static inline unsigned int min(unsigned int a, int b)
{
    return min(a, static_cast<unsigned int>(b));
}
static inline unsigned long min(unsigned long a, unsigned long b)
{
    return a < b ? a : b;
}
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline int max(int a, int b)
{
    return a > b ? a : b;
}
static inline unsigned int max(unsigned int a, unsigned int b)
{
    return a > b ? a : b;
}
static inline unsigned int max(int a, unsigned int b)
{
    return max(static_cast<unsigned int>(a), b);
}
static inline unsigned int max(unsigned int a, int b)
{
    return max(a, static_cast<unsigned int>(b));
}
static inline unsigned long max(unsigned long a, unsigned long b)
{
    return a > b ? a : b;
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}

template <typename TO, typename FROM> static inline TO sim_bits(FROM from)
{
    TO to;

    static_assert(sizeof(TO) == sizeof(FROM), "the same bits");
    memcpy(&to, &from, sizeof(to));
    return to;
}

static inline float __uint_as_float(unsigned int bits)
{
    return sim_bits<float>(bits);
}
static inline unsigned int __float_as_uint(float value)
{
    return sim_bits<unsigned int>(value);
}
static inline float __int_as_float(int bits)
{
    return sim_bits<float>(bits);
}
static inline int __float_as_int(float value)
{
    return sim_bits<int>(value);
}

/* To nearest even; beyond the range the nearest integer, NaN 0. */
static inline int __float2int_rn(float value)
{
    if (value != value)
        return 0;
    return value >= 2147483648.0f   ? INT32_MAX
           : value < -2147483648.0f ? INT32_MIN
                                    : (int)lrintf(value);
}

static inline float rsqrtf(float value)
{
    return 1.0f / sqrtf(value);
}

/* sin and cos of pi * x. */
static inline void sincospi(double x, double *sine, double *cosine)
{
    long double turns = remainder(x, 2.0); /* exact */

    *sine = (double)sinl(3.14159265358979323846264338327950288L * turns);
    *cosine = (double)cosl(3.14159265358979323846264338327950288L * turns);
}

/* Byte i of the result is byte (selector >> 4 * i & 7) of y:x. */
static inline unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int selector)
{
    uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
    unsigned int result = 0;

    for (unsigned int i = 0; i < 4; i++)
        result |= static_cast<unsigned int>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return result;
}

static inline unsigned int __funnelshift_r(unsigned int low, unsigned int high, unsigned int shift)
{
    return static_cast<unsigned int>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
static inline unsigned int __funnelshift_l(unsigned int low, unsigned int high, unsigned int shift)
{
    return static_cast<unsigned int>(
        (static_cast<uint64_t>(high) << 32 | low) << (shift & 31) >> 32);
}
static inline int __popc(unsigned int bits)
{
    return __builtin_popcount(bits);
}
static inline int __clz(int bits)
{
    return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned int>(bits));
}
static inline int __ffs(int bits)
{
    return __builtin_ffs(bits);
}

/* c plus the products of the four signed bytes of a and b. */
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 32; i += 8)
        c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
    return c;
}

template <typename T> static inline T __ldg(const T *at)
{
    return *at;
}
template <typename T> static inline T __ldcs(const T *at)
{
    return *at;
}
template <typename T> static inline T __ldcg(const T *at)
{
    return *at;
}
template <typename T> static inline void __stcs(T *at, T value)
{
    *at = value;
}

static inline size_t __cvta_generic_to_shared(const void *at)
{
    return sim_shared_address(at);
}

#define SIM_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(SIM_SITE)
{
    const sim_site site = {file, line};

    sim_sync_threads(&site);
}

static inline void __syncwarp(unsigned int mask = 0xFFFFFFFFu, SIM_SITE)
{
    const sim_site site = {file, line};

    sim_sync_warp(mask, &site);
}

static inline void __threadfence(void)
{
}
static inline void __threadfence_block(void)
{
}

template <typename T>
static inline T sim_shuffled(unsigned int mask, T value, uint32_t from, const char *file, int line)
{
    const sim_site site = {file, line};
    struct sim_shuffle own = {};
    T result;

    static_assert(sizeof(T) <= sizeof(own.value), "one register or two");
    memcpy(&own.value, &value, sizeof(T));
    own.from = from;
    sim_shuffle(mask, &own, &site);
    memcpy(&result, &own.value, sizeof(T));
    return result;
}

static inline uint32_t sim_lane(void)
{
    return sim_here->number % SIM_WARP;
}

/* Lanes beyond the part of `width` lanes are the lane itself, as of shfl.sync. */
template <typename T>
static inline T __shfl_sync(unsigned int mask, T value, int from, int width = SIM_WARP, SIM_SITE)
{
    uint32_t part = static_cast<uint32_t>(width);
    uint32_t lane = sim_lane() / part * part + static_cast<uint32_t>(from) % part;

    return sim_shuffled(mask, value, lane, file, line);
}
template <typename T>
static inline T __shfl_xor_sync(
    unsigned int mask, T value, int bits, int width = SIM_WARP, SIM_SITE)
{
    uint32_t part = static_cast<uint32_t>(width);
    uint32_t lane = sim_lane() ^ static_cast<uint32_t>(bits);

    return sim_shuffled(mask, value, lane / part > sim_lane() / part ? SIM_WARP : lane, file, line);
}
template <typename T>
static inline T __shfl_down_sync(
    unsigned int mask, T value, unsigned int by, int width = SIM_WARP, SIM_SITE)
{
    uint32_t part = static_cast<uint32_t>(width);
    uint32_t lane = sim_lane() + by;

    return sim_shuffled(
        mask, value, lane / part != sim_lane() / part ? SIM_WARP : lane, file, line);
}
template <typename T>
static inline T __shfl_up_sync(
    unsigned int mask, T value, unsigned int by, int width = SIM_WARP, SIM_SITE)
{
    uint32_t part = static_cast<uint32_t>(width);

    return sim_shuffled(
        mask, value, sim_lane() % part < by ? SIM_WARP : sim_lane() - by, file, line);
}

static inline unsigned int __ballot_sync(unsigned int mask, int predicate, SIM_SITE)
{
    const sim_site site = {file, line};

    return sim_ballot(mask, predicate != 0, &site);
}
static inline int __all_sync(unsigned int mask, int predicate, SIM_SITE)
{
    const sim_site site = {file, line};

    return sim_ballot(mask, predicate != 0, &site) == mask;
}
static inline int __any_sync(unsigned int mask, int predicate, SIM_SITE)
{
    const sim_site site = {file, line};

    return sim_ballot(mask, predicate != 0, &site) != 0;
}
#undef SIM_SITE

/* Threads take turns, so what follows is atomic; it is not to be taken for a race. */
#define SIM_ATOMIC __attribute__((noinline, no_sanitize("thread")))

template <typename T> SIM_ATOMIC static T atomicAdd(T *at, T value)
{
    sim_atomic(at, sizeof(T));
    T old = *at;
    *at = old + value;
    return old;
}
static inline unsigned int atomicAdd(unsigned int *at, int value)
{
    return atomicAdd(at, static_cast<unsigned int>(value));
}
template <typename T> SIM_ATOMIC static T atomicMax(T *at, T value)
{
    sim_atomic(at, sizeof(T));
    T old = *at;
    *at = old > value ? old : value;
    return old;
}
template <typename T> SIM_ATOMIC static T atomicExch(T *at, T value)
{
    sim_atomic(at, sizeof(T));
    T old = *at;
    *at = value;
    return old;
}
template <typename T> SIM_ATOMIC static T atomicCAS(T *at, T compare, T value)
{
    sim_atomic(at, sizeof(T));
    T old = *at;
    *at = old == compare ? value : old;
    return old;
}
#undef SIM_ATOMIC

#endif
