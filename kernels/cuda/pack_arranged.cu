/*
 * pack_arranged: pack.cu's weights for matrices in the order of arranged.cuh: the same bits. A warp
 * has a chunk in registers; of 16 columns of a row four lanes store 32 bytes side by side.
 */
#include "kernels/cuda/arranged.cuh"

/* Four weights: integers in the bytes of a word, their scale, their minimum. */
template <bool HAS_MIN>
static __device__ __forceinline__ uint2 halves_of(uint32_t word, float d, float m)
{
    float w[4];

#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        w[i] = d * static_cast<float>(static_cast<int8_t>(word >> 8 * i & 255));
        if (HAS_MIN)
            w[i] += m;
    }
    __half2 first = __floats2half2_rn(w[0], w[1]);
    __half2 second = __floats2half2_rn(w[2], w[3]);
    return make_uint2(
        *reinterpret_cast<const uint32_t *>(&first), *reinterpret_cast<const uint32_t *>(&second));
}

/* Grid: (chunks of a row / N_WARPS, rows / TILE). */
template <lam_dtype DTYPE>
static __global__ void __launch_bounds__(BLOCK)
    pack_chunks(const uint8_t *weight, uint32_t n_chunks, __half *out)
{
    using source = arranged<DTYPE>;
    uint32_t lane = threadIdx.x % 32;
    uint32_t chunk = blockIdx.x * N_WARPS + threadIdx.x / 32;
    size_t ld = static_cast<size_t>(n_chunks) * CHUNK_K;
    source own;

    let_successors_begin();
    if (chunk < n_chunks)
        own.load(
            weight + (static_cast<size_t>(blockIdx.y) * n_chunks + chunk) * source::CHUNK_BYTES,
            lane);
    wait_for_predecessors();
    if (chunk >= n_chunks)
        return;
    out += (static_cast<size_t>(blockIdx.y) * TILE + lane / 4) * ld +
           static_cast<size_t>(chunk) * CHUNK_K + lane % 4 * 4;
#pragma unroll
    for (uint32_t group = 0; group < CHUNK_K / GROUP_K; group++) {
        uint32_t w[2][2];
        if (group % 4 == 0)
            own.begin_four(group, lane);
        own.fetch(group, lane, w);
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            auto scales = own.shared_scales(i, group, lane);
#pragma unroll
            for (uint32_t half = 0; half < 2; half++)
                *reinterpret_cast<uint2 *>(out + i * 8 * ld + group * GROUP_K + half * 16) =
                    halves_of<source::HAS_MIN>(
                        w[i][half], scales.d[source::SCALES == 2 ? half : 0], scales.m);
        }
    }
}

int lam_cuda_pack_arranged(CUstream_st *stream, const lam_cuda_chip *chip, const void *weight,
    lam_dtype dtype, uint32_t n_rows, uint32_t n_cols, void *out)
{
    uint32_t n_chunks = n_cols / CHUNK_K;
    dim3 grid(div_up(n_chunks, N_WARPS), n_rows / TILE);

    return for_arranged(dtype, [&](auto tag) -> int {
        return launch(stream, chip, pack_chunks<decltype(tag)::value>, grid, BLOCK, 0,
            static_cast<const uint8_t *>(weight), n_chunks, static_cast<__half *>(out));
    });
}

int lam_cuda_prepare_pack_arranged(void)
{
    return for_every_arranged(
        [](auto tag) -> int { return load_kernel(pack_chunks<decltype(tag)::value>); });
}
