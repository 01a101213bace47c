/*
 * gemv_float: gemv for BF16 weights as they are, F16 in two BF16 terms (11 bits) and F32 in three
 * (24 bits); F16 that arrange has made of BF16 needs one. A lane holds 8 neighbouring columns of each group of 32.
 */
#include "kernels/cuda/gemv_bf16.cuh"

/* N_TERMS: of BF16, which make up a weight. */
template <lam_dtype DTYPE, int ALIGNMENT, int N_TERMS> struct format_float {
    typedef math_bf16 math;
    enum : uint32_t {
        ELEM = DTYPE == LAM_F32 ? 4 : 2,
        STEP_BYTES = 256,
        STEP_K = STEP_BYTES / ELEM,
        ROW_SLOT = STEP_BYTES + (ALIGNMENT == 16 ? 0 : 32), /* a skew, and reading ahead */
        SLOT = TILE * ROW_SLOT,
        STAGES = 3,
        SCALE_BYTES = 0,
    };
    enum { ALIGN = ALIGNMENT };
    enum { TERMS = N_TERMS };

    /* Pieces of odd rows are exchanged, so that two rows are on different banks. */
    static __device__ __forceinline__ uint32_t place(uint32_t row, uint32_t piece)
    {
        return ALIGN == 16 ? piece ^ (row % 2 * (DTYPE == LAM_F32 ? 1 : 4)) : piece;
    }

    /* Four words, `byte` behind column k of a row. */
    static __device__ __forceinline__ void load(
        const row_bytes_at &row, uint32_t lane, uint32_t k, uint32_t byte, uint32_t (&words)[4])
    {
        if (ALIGN == 16) {
            uint4 four = *reinterpret_cast<const uint4 *>(
                smem_at(row.at + place(lane / 4, (k * ELEM + byte) / 16) * 16));
            words[0] = four.x;
            words[1] = four.y;
            words[2] = four.z;
            words[3] = four.w;
        } else {
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                words[i] = smem_word<ALIGN>(row, k * ELEM, byte + 4 * i);
        }
    }

    static __device__ __forceinline__ void fetch(const row_bytes_at &row, uint32_t group,
        uint32_t lane, uint32_t left, uint32_t (&w)[TERMS][4])
    {
        uint32_t k = group * GROUP_K + lane % 4 * 8;
        uint32_t words[ELEM == 4 ? 2 : 1][4];

#pragma unroll
        for (uint32_t i = 0; i < ELEM / 2; i++)
            load(row, lane, k, i * 16, words[i]);
        if (left < STEP_K) { /* what lies behind the row's end may be a NaN */
#pragma unroll
            for (uint32_t i = 0; i < 2 * ELEM; i++) {
                uint32_t first = k + i * 4 / ELEM;
                uint32_t &word = words[i / 4][i % 4];
                word = first >= left ? 0 : ELEM == 2 && first + 1 >= left ? word & 0xFFFFu : word;
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) { /* pairs of columns */
            float x, y;
            if (DTYPE == LAM_BF16) {
                w[0][i] = words[0][i];
                continue;
            }
            if (DTYPE == LAM_F16) {
                x = half_bits(words[0][i] & 0xFFFFu);
                y = half_bits(words[0][i] >> 16);
            } else {
                x = __uint_as_float(words[i / 2 % (ELEM / 2)][i % 2 * 2]);
                y = __uint_as_float(words[i / 2 % (ELEM / 2)][i % 2 * 2 + 1]);
            }
#pragma unroll
            for (int term = 0; term < TERMS; term++) {
                __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
                w[term][i] = *reinterpret_cast<const uint32_t *>(&pair);
                x -= __low2float(pair);
                y -= __high2float(pair);
            }
        }
    }
};

int lam_cuda_gemv_float(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_cuda_gemv_args *args, void *workspace)
{
    lam_dtype dtype = args->product.mats[0].dtype;
    uint64_t row_bytes = static_cast<uint64_t>(args->product.n_cols) * (dtype == LAM_F32 ? 4 : 2);
    gemv_args own = gemv_args_of(args, row_bytes, workspace);
    bool aligned = rows_aligned(own, 16);

    if (dtype == LAM_F32)
        return aligned ? gemv_of_format<format_float<LAM_F32, 16, 3>>(stream, chip, own)
                       : gemv_of_format<format_float<LAM_F32, 2, 3>>(stream, chip, own);
    if (dtype == LAM_BF16 && args->product.mats[0].arranged) /* F16, made of BF16 */
        return gemv_of_format<format_float<LAM_F16, 16, 1>>(stream, chip, own);
    if (dtype == LAM_F16)
        return aligned ? gemv_of_format<format_float<LAM_F16, 16, 2>>(stream, chip, own)
                       : gemv_of_format<format_float<LAM_F16, 2, 2>>(stream, chip, own);
    return aligned ? gemv_of_format<format_float<LAM_BF16, 16, 1>>(stream, chip, own)
                   : gemv_of_format<format_float<LAM_BF16, 2, 1>>(stream, chip, own);
}

int lam_cuda_prepare_gemv_float(const lam_cuda_chip *chip)
{
    int error = prepare_gemv<format_float<LAM_F32, 16, 3>>(chip);

    error = error != 0 ? error : prepare_gemv<format_float<LAM_F32, 2, 3>>(chip);
    error = error != 0 ? error : prepare_gemv<format_float<LAM_F16, 16, 2>>(chip);
    error = error != 0 ? error : prepare_gemv<format_float<LAM_F16, 2, 2>>(chip);
    error = error != 0 ? error : prepare_gemv<format_float<LAM_F16, 16, 1>>(chip);
    error = error != 0 ? error : prepare_gemv<format_float<LAM_BF16, 16, 1>>(chip);
    return error != 0 ? error : prepare_gemv<format_float<LAM_BF16, 2, 1>>(chip);
}
