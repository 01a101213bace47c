/*
 * ptx: every instruction that has no name in CUDA's C++. A compiler that is not nvcc finds the
 * functions of this file in another one: that of a GPU simulated on the CPU, for tests.
 *
 * The tensor core instruction that every chip from sm_80 on has, in its 16-bit forms:
 *
 *     c[16 x 8] += a[16 x 16] * b[16 x 8], f32 sums
 *
 * Lane l, with g = l / 4 and t = l % 4, holds of a the pairs (row, column pair)
 *     a[0]: (g, 2t)   a[1]: (g + 8, 2t)   a[2]: (g, 2t + 8)   a[3]: (g + 8, 2t + 8)
 * of b the pairs (row pair, column)  b[0]: (2t, g)   b[1]: (2t + 8, g)
 * and of c  c[0], c[1]: (g, 2t), (g, 2t + 1)   c[2], c[3]: (g + 8, 2t), (g + 8, 2t + 1).
 * A column of c depends on that column of b alone, a row of c on that row of a alone.
 */
#ifndef LAMINAR_KERNELS_CUDA_PTX_CUH
#define LAMINAR_KERNELS_CUDA_PTX_CUH

#include <stdint.h>

#ifndef __CUDACC__
#include <simulated_ptx.cuh>
#else

static __device__ __forceinline__ void mma_f16(
    float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The same for BF16. */
static __device__ __forceinline__ void mma_bf16(
    float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/*
 * The same for signed bytes and exact sums: c[16 x 8] += a[16 x 32] * b[32 x 8]. Of a a lane has
 * (g, 4t..), (g + 8, 4t..), (g, 16 + 4t..), (g + 8, 16 + 4t..), of b (4t.., g), (16 + 4t.., g).
 */
static __device__ __forceinline__ void mma_s8(
    int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* The first 16 columns of it alone. */
static __device__ __forceinline__ void mma_s8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0)
{
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(b0));
}

/* Four 8 x 8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t smem_address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(smem_address)
                 : "memory");
}

/* The same, each matrix transposed. */
static __device__ __forceinline__ void load_matrices_turned(
    uint32_t (&to)[4], uint32_t smem_address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(smem_address)
                 : "memory");
}

/* 16 bytes to shared memory. LINES: the 256 around them are wanted soon, the second level cache may
 * read them together. */
template <bool LINES = false>
static __device__ __forceinline__ void copy_async_16(uint32_t smem_address, const void *from)
{
    if (LINES)
        asm volatile(
            "cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(smem_address), "l"(from)
            : "memory");
    else
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem_address), "l"(from)
                     : "memory");
}

static __device__ __forceinline__ void copy_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until all but the N youngest groups of copies are there. */
template <int N> static __device__ __forceinline__ void copy_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* 2^x; results below 2^-126 are 0. */
static __device__ __forceinline__ float power_of_two(float x)
{
    float power;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

/* 1 / x within 2^-22. */
static __device__ __forceinline__ float rough_inverse(float x)
{
    float inverse;

    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
    return inverse;
}

/* The line at an address of the device is wanted soon, in the second level cache. */
static __device__ __forceinline__ void prefetch_line(const void *at)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

/* 16 bytes that are read once and that no kernel writes which may still run: past the first level
 * cache, and the 256 around them are wanted soon. Where the load stands it stays, far ahead of its
 * use. */
static __device__ __forceinline__ uint4 stream_16(const uint8_t *at)
{
    uint4 to;

    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                 : "l"(at));
    return to;
}

/* 8 of them. */
static __device__ __forceinline__ uint2 stream_8(const uint8_t *at)
{
    uint2 to;

    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0, %1}, [%2];"
                 : "=r"(to.x), "=r"(to.y)
                 : "l"(at));
    return to;
}

/* 4 of them. */
static __device__ __forceinline__ uint32_t stream_4(const uint8_t *at)
{
    uint32_t to;

    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.u32 %0, [%1];" : "=r"(to) : "l"(at));
    return to;
}

/* See launch.cuh for both. */
static __device__ __forceinline__ void wait_for_predecessors(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void let_successors_begin(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif

#endif
