/*
 * arrange: a matrix in the order of the file into that of arranged.cuh, or, of BF16, into F16; once,
 * when it has come to stay.
 *
 * Bytes: the matrix twice, and a copy before: nothing beside its way over the link, so a thread
 * simply makes one word after the other. No kernel here lets its successors begin early: they read
 * what it writes before they wait for it.
 */
#include <cuda_fp16.h>

#include "kernels/cuda/arranged.cuh"

enum : uint32_t { ROW_BLOCK = 256, WORD_BLOCK = 256 };

/* 16 rows by 256 columns of the file. */
struct file_chunk {
    const uint8_t *at; /* block of the first row */
    uint64_t row_bytes;

    /* Byte `offset` (even) of block `block` of a row, and the one behind it. */
    template <uint32_t BYTES>
    __device__ __forceinline__ uint32_t two(uint32_t row, uint32_t block, uint32_t offset) const
    {
        return *reinterpret_cast<const uint16_t *>(at + row * row_bytes + block * BYTES + offset);
    }

    template <uint32_t BYTES>
    __device__ __forceinline__ uint32_t four(uint32_t row, uint32_t block, uint32_t offset) const
    {
        return two<BYTES>(row, block, offset) | two<BYTES>(row, block, offset + 2) << 16;
    }
};

/* Where a word of a fragment comes from. */
struct fragment_word {
    uint32_t row;
    uint32_t half; /* which 16 columns, or which block */
    uint32_t byte; /* 4t */

    explicit __device__ __forceinline__ fragment_word(uint32_t word)
        : row(word / 16 % 8 + word % 2 * 8), half(word / 2 % 2), byte(word / 4 % 4 * 4)
    {
    }
};

/* Both scales of one row each: of rows g and g + 8. */
template <uint32_t BYTES>
static __device__ __forceinline__ uint32_t two_rows(
    const file_chunk &from, uint32_t g, uint32_t block, uint32_t offset)
{
    return from.two<BYTES>(g, block, offset) | from.two<BYTES>(g + 8, block, offset) << 16;
}

/* Word `word` of an arranged chunk. */
template <lam_dtype DTYPE> struct words_of_chunk {
    using lanes = lanes_block<DTYPE>;
    using to = arranged<DTYPE>;

    static __device__ __forceinline__ uint32_t make(const file_chunk &from, uint32_t word)
    {
        uint32_t block = word * 4 / to::FOUR_BYTES * 4; /* the first of the four */
        uint32_t at = word * 4 % to::FOUR_BYTES;

        if (at < to::FIFTHS_AT) {
            fragment_word own(at / 4);
            return from.four<lanes::BYTES>(own.row, block + at / FRAGMENT_BYTES * 2 + own.half,
                lanes::HEAD + (lanes::FIFTH ? 4 : 0) + own.byte);
        }
        if (lanes::FIFTH && at < to::SCALES_AT) {
            uint32_t lane = (at - to::FIFTHS_AT) / 8;
            uint32_t bits = 0;
            for (uint32_t j = 0; j < 4; j++) {
                uint32_t all =
                    from.four<lanes::BYTES>(lane / 4 + at / 4 % 2 * 8, block + j, lanes::HEAD) >>
                    lane % 4 * 4;
                bits |= ((all & 15) | (all >> 16 & 15) << 4) << 8 * j;
            }
            return bits;
        }
        at -= to::SCALES_AT;
        if (lanes::MIN)
            return from.four<lanes::BYTES>(at / 32 + at / 4 % 2 * 8, block + at / 8 % 4, 0);
        return two_rows<lanes::BYTES>(from, at / 16, block + at / 4 % 4, 0);
    }
};

template <> struct words_of_chunk<LAM_Q8_0> {
    using to = arranged<LAM_Q8_0>;

    static __device__ __forceinline__ uint32_t make(const file_chunk &from, uint32_t word)
    {
        uint32_t block = word * 4 / to::FOUR_BYTES * 4;
        uint32_t at = word * 4 % to::FOUR_BYTES;

        if (at >= to::SCALES_AT)
            return two_rows<34>(from, (at - to::SCALES_AT) / 16, block + at / 4 % 4, 0);
        fragment_word own(at / 4);
        return from.four<34>(own.row, block + at / FRAGMENT_BYTES, 2 + own.half * 16 + own.byte);
    }
};

template <lam_dtype DTYPE, uint32_t BYTES> struct words_of_k {
    using to = arranged<DTYPE>;

    static __device__ __forceinline__ uint32_t make(const file_chunk &from, uint32_t word)
    {
        const uint32_t quants_at = BYTES - 128;
        uint32_t at = word * 4;

        if (at >= to::SCALES_AT)
            return from.four<BYTES>((at - to::SCALES_AT) / 16, 0, at % 16);
        fragment_word own(word);
        uint32_t within = own.half * 16 + own.byte;
        return from.four<BYTES>(
            own.row, 0, within + (at < to::FIFTHS_AT ? quants_at + at / FRAGMENT_BYTES * 32 : 16));
    }
};

template <> struct words_of_chunk<LAM_Q4_K> : words_of_k<LAM_Q4_K, 144> {
};
template <> struct words_of_chunk<LAM_Q5_K> : words_of_k<LAM_Q5_K, 176> {
};

template <> struct words_of_chunk<LAM_Q6_K> {
    using to = arranged<LAM_Q6_K>;

    static __device__ __forceinline__ uint32_t make(const file_chunk &from, uint32_t word)
    {
        uint32_t at = word * 4;

        if (at >= to::D_AT)
            return two_rows<210>(from, (at - to::D_AT) / 4, 0, 208);
        if (at >= to::SCALES_AT) {
            uint32_t lane = (at - to::SCALES_AT) / 8;
            uint32_t row = lane / 4 + at / 4 % 2 * 8;
            return from.two<210>(row, 0, 192 + lane % 4 * 2) |
                   from.two<210>(row, 0, 200 + lane % 4 * 2) << 16;
        }
        fragment_word own(word);
        return from.four<210>(own.row, 0, at / FRAGMENT_BYTES * 32 + own.half * 16 + own.byte);
    }
};

/* Grid: (words of a chunk / WORD_BLOCK, chunks of a row, rows / TILE). */
template <lam_dtype DTYPE>
static __global__ void __launch_bounds__(WORD_BLOCK)
    arrange_chunks(const uint8_t *from, uint64_t row_bytes, uint32_t *to)
{
    const uint32_t n_words = arranged<DTYPE>::CHUNK_BYTES / 4;
    const uint32_t chunk_row_bytes = arranged<DTYPE>::CHUNK_BYTES / TILE;
    uint32_t word = blockIdx.x * WORD_BLOCK + threadIdx.x;
    file_chunk chunk = {from + static_cast<size_t>(blockIdx.z) * TILE * row_bytes +
                            static_cast<size_t>(blockIdx.y) * chunk_row_bytes,
        row_bytes};

    wait_for_predecessors();
    if (word < n_words)
        to[(static_cast<size_t>(blockIdx.z) * gridDim.y + blockIdx.y) * n_words + word] =
            words_of_chunk<DTYPE>::make(chunk, word);
}

static __device__ __forceinline__ float bf16_of(uint32_t bits)
{
    return __uint_as_float(bits << 16);
}

/* Adds up a value of each thread, in a fixed order. */
static __device__ __forceinline__ float block_sum(float value, float *scratch)
{
    __syncthreads();
    scratch[threadIdx.x] = value;
    for (uint32_t n = ROW_BLOCK / 2; n > 0; n /= 2) {
        __syncthreads();
        if (threadIdx.x < n)
            scratch[threadIdx.x] += scratch[threadIdx.x + n];
    }
    __syncthreads();
    return scratch[0];
}

/* Sets *lossy where a row in F16 would not be one in BF16 to within LAM_CUDA_HALF_LOSS of the sum
 * of its weights' sizes. Grid: rows. */
static __global__ void __launch_bounds__(ROW_BLOCK)
    check_halves(const uint16_t *weights, uint32_t n_cols, uint32_t *lossy)
{
    __shared__ float scratch[ROW_BLOCK];
    const uint16_t *row = weights + static_cast<size_t>(blockIdx.x) * n_cols;
    float lost = 0;
    float all = 0;

    wait_for_predecessors();
    for (uint32_t k = threadIdx.x; k < n_cols; k += ROW_BLOCK) {
        float w = bf16_of(row[k]);
        lost += fabsf(w - __half2float(__float2half_rn(w)));
        all += fabsf(w);
    }
    lost = block_sum(lost, scratch);
    all = block_sum(all, scratch);
    if (threadIdx.x == 0 && !(lost <= all * LAM_CUDA_HALF_LOSS)) /* also where one is not finite */
        *lossy = 1;
}

/* Two weights a thread, in place. */
static __global__ void __launch_bounds__(WORD_BLOCK) make_halves(uint32_t *pairs, uint64_t n_pairs)
{
    uint64_t at = static_cast<uint64_t>(blockIdx.x) * WORD_BLOCK + threadIdx.x;

    wait_for_predecessors();
    if (at >= n_pairs)
        return;
    uint32_t pair = pairs[at];
    __half2 halves = __floats2half2_rn(bf16_of(pair & 0xFFFFu), bf16_of(pair >> 16));
    pairs[at] = *reinterpret_cast<const uint32_t *>(&halves);
}

bool lam_cuda_arrange_takes(lam_dtype dtype, const void *weight, uint32_t n_out, uint32_t n_cols)
{
    if (reinterpret_cast<uintptr_t>(weight) % 16 != 0 || dtype == LAM_F32 || dtype == LAM_F16)
        return false;
    if (dtype == LAM_BF16)
        return n_cols % LAM_CUDA_COLS_ALIGN == 0;
    return n_out % TILE == 0 && n_cols % CHUNK_K == 0;
}

int lam_cuda_arrange(CUstream_st *stream, const lam_cuda_chip *chip, const void *from,
    lam_dtype dtype, uint32_t n_out, uint32_t n_cols, void *to)
{
    const struct lam_dtype_info *info = lam_dtype_info(dtype);
    uint64_t row_bytes = static_cast<uint64_t>(n_cols) / info->block_elems * info->block_bytes;

    return for_arranged(dtype, [&](auto tag) -> int {
        const uint32_t n_words = arranged<decltype(tag)::value>::CHUNK_BYTES / 4;
        dim3 grid(div_up(n_words, WORD_BLOCK), n_cols / CHUNK_K, n_out / TILE);
        return launch(stream, chip, arrange_chunks<decltype(tag)::value>, grid, WORD_BLOCK, 0,
            static_cast<const uint8_t *>(from), row_bytes, static_cast<uint32_t *>(to));
    });
}

int lam_cuda_check_halves(CUstream_st *stream, const lam_cuda_chip *chip, const void *weight,
    uint32_t n_out, uint32_t n_cols, uint32_t *lossy)
{
    return launch(stream, chip, check_halves, dim3(n_out), ROW_BLOCK, 0,
        static_cast<const uint16_t *>(weight), n_cols, lossy);
}

int lam_cuda_make_halves(
    CUstream_st *stream, const lam_cuda_chip *chip, void *weight, uint64_t n_weights)
{
    return launch(stream, chip, make_halves, dim3(div_up(n_weights / 2, WORD_BLOCK)), WORD_BLOCK, 0,
        static_cast<uint32_t *>(weight), n_weights / 2);
}

int lam_cuda_prepare_arrange(void)
{
    int error = load_kernel(check_halves);

    error = error != 0 ? error : load_kernel(make_halves);
    return error != 0 ? error : for_every_arranged([](auto tag) -> int {
        return load_kernel(arrange_chunks<decltype(tag)::value>);
    });
}
