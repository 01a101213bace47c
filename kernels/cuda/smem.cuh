/*
 * smem: the block's shared memory by byte offsets, and rows of packed weights in it, which may
 * begin at any even offset.
 */
#ifndef LAMINAR_KERNELS_CUDA_SMEM_CUH
#define LAMINAR_KERNELS_CUDA_SMEM_CUH

#include <cuda_fp16.h>
#include <stdint.h>

extern __shared__ uint4 smem[];

static __device__ __forceinline__ uint8_t *smem_at(uint32_t at)
{
    return reinterpret_cast<uint8_t *>(smem) + at;
}

static __device__ __forceinline__ uint32_t smem_u16(uint32_t at)
{
    return *reinterpret_cast<const uint16_t *>(smem_at(at));
}

static __device__ __forceinline__ uint32_t smem_u32(uint32_t at)
{
    return *reinterpret_cast<const uint32_t *>(smem_at(at));
}

static __device__ __forceinline__ float half_bits(uint32_t bits)
{
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

/* The bytes of a row in a slot, which may begin at any even offset, for reading whole words. */
struct row_bytes_at {
    uint32_t at;
    uint32_t even;  /* at, rounded down to a word */
    uint32_t odd;   /* at, rounded up */
    uint32_t shift; /* bits that at lies in the word of `even` */
};

static __device__ __forceinline__ row_bytes_at view_of(uint32_t at)
{
    row_bytes_at row = {at, at & ~3u, (at + 2) & ~3u, (at & 2) * 8};

    return row;
}

/* The word at byte `offset` (even, best a constant) of a row whose alignment is ALIGN; `lane`: a
 * multiple of 4 to add. With ALIGN 2, up to 4 bytes more are read. */
template <int ALIGN>
static __device__ __forceinline__ uint32_t smem_word(
    const row_bytes_at &row, uint32_t lane, uint32_t offset)
{
    if (ALIGN >= 4)
        return smem_u32(row.at + lane + offset);
    bool whole = offset % 4 == 0;
    uint32_t at = lane + (whole ? row.even + offset : row.odd + (offset - 2));
    return __funnelshift_r(smem_u32(at), smem_u32(at + 4), whole ? row.shift : 16 - row.shift);
}

#endif
