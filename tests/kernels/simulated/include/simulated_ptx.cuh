/* simulated_ptx: the functions of kernels/cuda/ptx.cuh on the simulated GPU. */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_INCLUDE_PTX_CUH
#define LAMINAR_TESTS_KERNELS_SIMULATED_INCLUDE_PTX_CUH

#include "tests/kernels/simulated/include/device_code.h"

static inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    const uint32_t b[2] = {b0, b1};

    sim_mma_f16(c, a, b);
}

static inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    const uint32_t b[2] = {b0, b1};

    sim_mma_bf16(c, a, b);
}

static inline void mma_s8(
    int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    const uint32_t a[4] = {a0, a1, a2, a3};
    const uint32_t b[2] = {b0, b1};

    sim_mma_s8_k32(c, a, b);
}

static inline void mma_s8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0)
{
    const uint32_t a[2] = {a0, a1};

    sim_mma_s8_k16(c, a, &b0);
}

static inline void load_matrices(uint32_t (&to)[4], uint32_t smem_address)
{
    sim_load_matrices(to, smem_address, false);
}

static inline void load_matrices_turned(uint32_t (&to)[4], uint32_t smem_address)
{
    sim_load_matrices(to, smem_address, true);
}

template <bool LINES = false>
static inline void copy_async_16(uint32_t smem_address, const void *from)
{
    sim_copy_async(smem_address, from, 16);
}

static inline void copy_async_commit(void)
{
    sim_copy_commit();
}

template <int N> static inline void copy_async_wait(void)
{
    sim_copy_wait(N);
}

static inline float sim_no_subnormal(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

static inline float power_of_two(float x)
{
    return sim_no_subnormal(exp2f(sim_no_subnormal(x)));
}

static inline float rough_inverse(float x)
{
    return sim_no_subnormal(1.0f / sim_no_subnormal(x));
}

static inline uint4 stream_16(const uint8_t *at)
{
    return *reinterpret_cast<const uint4 *>(at);
}

static inline uint2 stream_8(const uint8_t *at)
{
    return *reinterpret_cast<const uint2 *>(at);
}

static inline uint32_t stream_4(const uint8_t *at)
{
    return *reinterpret_cast<const uint32_t *>(at);
}

static inline void prefetch_line(const void *at)
{
    (void)at;
}

static inline void wait_for_predecessors(void)
{
    sim_wait_for_predecessors();
}

static inline void let_successors_begin(void)
{
    sim_let_successors_begin();
}

#endif
