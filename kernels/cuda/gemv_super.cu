/*
 * gemv_super: gemv for the formats with blocks of 256 weights: a step is one block of each row.
 * Once per step the lanes of a row unpack its scales, as f32, into shared memory.
 */
#include "kernels/cuda/gemv_lanes.cuh"

enum : uint32_t { SCALES_PITCH = 80 }; /* bytes of a row's scales: 8 pairs, a gap for the banks */

/* Q4_K and Q5_K: d * scale * q - dmin * min, scales and mins of 6 bits. */
template <bool FIFTH, int ALIGNMENT> struct format_k {
    typedef math_int8 math;
    enum : uint32_t {
        STEP_K = 256,
        STEP_BYTES = FIFTH ? 176 : 144,
        ROW_SLOT = ALIGNMENT == 16 ? STEP_BYTES
                   : FIFTH         ? 208
                                   : 176,
        SLOT = TILE * ROW_SLOT,
        STAGES = 3,
        SCALE_BYTES = TILE * SCALES_PITCH,
    };
    enum { ALIGN = ALIGNMENT, SCALES = 1, HAS_MIN = 1 };
    group_scales<format_k> parts[2]; /* t and t + 4, in lane t */
    uint32_t words[2];               /* the four bits of two groups */
    uint32_t fifth_bits[2];          /* of all groups */

    static __device__ __forceinline__ uint32_t place(uint32_t, uint32_t piece)
    {
        return piece;
    }

    /* Lane t of a row unpacks parts t and t + 4. */
    __device__ __forceinline__ void begin(const row_bytes_at &row, uint32_t t)
    {
        uint32_t head[4];

        if (ALIGN == 16) {
            uint4 four = *reinterpret_cast<const uint4 *>(smem_at(row.at));
            head[0] = four.x;
            head[1] = four.y;
            head[2] = four.z;
            head[3] = four.w;
        } else {
#pragma unroll
            for (uint32_t i = 0; i < 4; i++)
                head[i] = smem_word<ALIGN>(row, 0, i * 4);
        }
        k_scales(head, t, parts);
    }

    __device__ __forceinline__ group_scales<format_k> lane_scales(
        const row_bytes_at &, uint32_t four, uint32_t, uint32_t) const
    {
        return parts[four / 4];
    }

    static __device__ __forceinline__ void prepare(
        const row_bytes_at (&rows)[2], uint32_t scales, uint32_t lane)
    {
        uint32_t t = lane % 4;

#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            format_k own;
            own.begin(rows[i], t);
            uint32_t to = scales + (lane / 4 + i * 8) * SCALES_PITCH + t * 8;
            *reinterpret_cast<float2 *>(smem_at(to)) =
                make_float2(own.parts[0].d[0], own.parts[0].m);
            *reinterpret_cast<float2 *>(smem_at(to + 32)) =
                make_float2(own.parts[1].d[0], own.parts[1].m);
        }
        __syncwarp();
    }

    static __device__ __forceinline__ group_scales<format_k> shared_scales(
        const row_bytes_at &, uint32_t scales, uint32_t group, uint32_t lane, uint32_t i, uint32_t)
    {
        uint32_t from = scales + (lane / 4 + i * 8) * SCALES_PITCH + group * 8;
        float2 both = *reinterpret_cast<const float2 *>(smem_at(from));

        return {{both.x}, both.y};
    }

    /* Two groups share their bytes: the even one has the low four bits. */
    __device__ __forceinline__ void fetch(
        const row_bytes_at &row, uint32_t group, uint32_t lane, uint32_t (&w)[2])
    {
        uint32_t byte = lane % 4 * 4;

#pragma unroll
        for (uint32_t p = 0; p < 2; p++) {
            if (group % 2 == 0)
                words[p] = smem_word<ALIGN>(row, byte, (FIFTH ? 48 : 16) + group / 2 * 32 + p * 16);
            if (FIFTH && group % 4 == 0)
                fifth_bits[p] = smem_word<ALIGN>(row, byte, 16 + p * 16);
            w[p] = words[p] >> group % 2 * 4 & 0x0F0F0F0Fu;
            if (FIFTH)
                w[p] |= moved(fifth_bits[p], group, 4) & 0x10101010u;
        }
    }
};

/* Q6_K: d * scale * (q - 32), a scale of 8 bits for every 16 weights. */
struct format_q6_k {
    typedef math_int8 math;
    enum : uint32_t {
        STEP_K = 256,
        STEP_BYTES = 210,
        ROW_SLOT = 240,
        SLOT = TILE * ROW_SLOT,
        STAGES = 2,
        SCALE_BYTES = TILE * SCALES_PITCH,
    };
    enum { ALIGN = 2, SCALES = 2, HAS_MIN = 0 };

    static __device__ __forceinline__ uint32_t place(uint32_t, uint32_t piece)
    {
        return piece;
    }

    /* Lane t of a row unpacks scales 4t to 4t + 3. */
    static __device__ __forceinline__ void prepare(
        const row_bytes_at (&rows)[2], uint32_t scales, uint32_t lane)
    {
        uint32_t t = lane % 4;

#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            float all = half_bits(smem_u16(rows[i].at + 208)) * Q6_K_FACTOR;
            uint32_t to = scales + (lane / 4 + i * 8) * SCALES_PITCH + t * 16;
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                group_scales<format_q6_k> two =
                    q6_k_scales<format_q6_k>(all, smem_u16(rows[i].at + 192 + t * 4 + half * 2));
                *reinterpret_cast<float2 *>(smem_at(to + half * 8)) =
                    make_float2(two.d[0], two.d[1]);
            }
        }
        __syncwarp();
    }

    __device__ __forceinline__ void begin(const row_bytes_at &, uint32_t)
    {
    }

    __device__ __forceinline__ group_scales<format_q6_k> lane_scales(
        const row_bytes_at &row, uint32_t four, uint32_t t, uint32_t) const
    {
        return q6_k_scales<format_q6_k>(half_bits(smem_u16(row.at + 208)) * Q6_K_FACTOR,
            smem_u16(row.at + 192 + (four + t) * 2));
    }

    static __device__ __forceinline__ group_scales<format_q6_k> shared_scales(
        const row_bytes_at &, uint32_t scales, uint32_t group, uint32_t lane, uint32_t i, uint32_t)
    {
        uint32_t from = scales + (lane / 4 + i * 8) * SCALES_PITCH + group * 8;
        float2 both = *reinterpret_cast<const float2 *>(smem_at(from));

        return {{both.x, both.y}, 0};
    }

    __device__ __forceinline__ void fetch(
        const row_bytes_at &row, uint32_t group, uint32_t lane, uint32_t (&w)[2])
    {
        uint32_t quarter = group % 4;
        uint32_t byte = lane % 4 * 4;

#pragma unroll
        for (uint32_t half = 0; half < 2; half++) { /* the scales want products of 16 neighbours */
            uint32_t low = group / 4 * 64 + quarter % 2 * 32 + half * 16;
            uint32_t high = 128 + group / 4 * 32 + half * 16;
            uint32_t word = smem_word<ALIGN>(row, byte, low);
            uint32_t bits = smem_word<ALIGN>(row, byte, high);
            w[half] = q6_k_word(word, bits, quarter);
        }
    }
};

int lam_cuda_gemv_super(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_cuda_gemv_args *args, void *workspace)
{
    lam_dtype dtype = args->product.mats[0].dtype;
    uint64_t row_bytes =
        static_cast<uint64_t>(args->product.n_cols) / 256 * lam_dtype_info(dtype)->block_bytes;
    gemv_args own = gemv_args_of(args, row_bytes, workspace);
    bool aligned = rows_aligned(own, 16);

    if (dtype == LAM_Q4_K)
        return aligned ? gemv_of_format<format_k<false, 16>>(stream, chip, own)
                       : gemv_of_format<format_k<false, 2>>(stream, chip, own);
    if (dtype == LAM_Q5_K)
        return aligned ? gemv_of_format<format_k<true, 16>>(stream, chip, own)
                       : gemv_of_format<format_k<true, 2>>(stream, chip, own);
    return gemv_of_format<format_q6_k>(stream, chip, own);
}

int lam_cuda_prepare_gemv_super(const lam_cuda_chip *chip)
{
    int error = prepare_gemv<format_k<false, 16>>(chip);

    error = error != 0 ? error : prepare_gemv<format_k<false, 2>>(chip);
    error = error != 0 ? error : prepare_gemv<format_k<true, 16>>(chip);
    error = error != 0 ? error : prepare_gemv<format_k<true, 2>>(chip);
    return error != 0 ? error : prepare_gemv<format_q6_k>(chip);
}
