/*
 * cuda: what the host part (backend.c, device.c, C) and the kernels (*.cu) share. No CUDA header is
 * needed to include it: a stream is an opaque pointer, an error a number of the runtime.
 *
 * Launchers check nothing that backend.c has not asserted, allocate nothing, wait for nothing and
 * ask the device nothing: what they must know of it is in struct lam_cuda_chip. Each returns the
 * runtime's number for the launch, 0 for success. Each kernel file also has a prepare function: it
 * loads every kernel of the file and sets its limits, so that nothing is loaded after create.
 */
#ifndef LAMINAR_KERNELS_CUDA_CUDA_H
#define LAMINAR_KERNELS_CUDA_CUDA_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/ops.h"

struct CUstream_st;

struct lam_cuda_chip {
    uint32_t architecture; /* 90 for compute capability 9.0 */
    uint32_t n_sms;
    uint32_t block_smem_bytes; /* largest shared memory of one block */
    uint32_t sm_smem_bytes;    /* shared memory of a multiprocessor */
};

/* Rows of a matmul call up to this many go through gemv, */
enum { LAM_CUDA_GEMV_ROWS = 16 };
/* but only up to this many if gemm64 takes all of the call's matrices: behind 8 rows its arithmetic
 * is the shorter one (docs/perf/notebook.md, "Resident order"). */
enum { LAM_CUDA_GEMV_ROWS_ONCE = 8 };
/* Up to this many go through gemm64 where it takes the matrix, and all others through gemm. */
enum { LAM_CUDA_GEMM64_ROWS = 64 };

/* Columns of the 16-bit copies, in rows of ld values: a multiple of this, zeros behind n_cols. */
enum { LAM_CUDA_COLS_ALIGN = 64 };

/* Activations in 16 bits are scaled by this power of two: values up to a million fit. */
#define LAM_CUDA_ROWS_SCALE 0.0625f

int lam_cuda_prepare_dequant(void);
int lam_cuda_dequant(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_dequant_args *args);

int lam_cuda_prepare_rms_norm(void);
int lam_cuda_rms_norm(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_rms_norm_args *args);
/* The result as lam_cuda_pack_rows makes it of args->out, which is not written; so are the other
 * ..._rounded. */
int lam_cuda_rms_norm_rounded(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_rms_norm_args *args, void *rounded);
int lam_cuda_prepare_rope(void);
int lam_cuda_rope_table(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_rope_table_args *args);
int lam_cuda_rope(
    struct CUstream_st *stream, const struct lam_cuda_chip *chip, const struct lam_rope_args *args);
int lam_cuda_prepare_kv_write(void);
int lam_cuda_kv_write(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_kv_write_args *args);

/* Both rotations of a layer and its kv_write together, where lam_cuda_rope_kv_fits says so. */
struct lam_cuda_rope_kv_args {
    struct lam_rope_args q;
    struct lam_rope_args k;
    struct lam_kv_write_args write;
};

bool lam_cuda_rope_kv_fits(const struct lam_cuda_rope_kv_args *args);
int lam_cuda_prepare_rope_kv(void);
int lam_cuda_rope_kv(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_cuda_rope_kv_args *args);

int lam_cuda_prepare_swiglu(void);
int lam_cuda_swiglu(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_swiglu_args *args);
int lam_cuda_swiglu_rounded(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_swiglu_args *args, void *rounded);

int lam_cuda_prepare_argmax(void);
int lam_cuda_argmax(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_argmax_args *args);

/*
 * A product of 1 to LAM_CUDA_GEMV_ROWS rows, all matrices of one dtype, with the operations around
 * it that it takes along, each NULL if there is none:
 *   norm     its out is the product's x, which it does not overwrite
 *   swiglu   of the product's two matrices; its out is the first's
 *   rope_kv  of the product's matrices, which are among q, k and v; pairs are adjacent
 * What they leave behind are the bits that they leave one by one.
 */
struct lam_cuda_gemv_args {
    struct lam_matmul_args product;
    const struct lam_rms_norm_args *norm;
    const struct lam_swiglu_args *swiglu;
    const struct lam_cuda_rope_kv_args *rope_kv;
};

/* One implementation per family of formats. workspace: 66 bytes for each of n_cols, rounded up to
 * 256. */
int lam_cuda_prepare_gemv_float(const struct lam_cuda_chip *chip);
int lam_cuda_gemv_float(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_cuda_gemv_args *args, void *workspace);
int lam_cuda_prepare_gemv_block(const struct lam_cuda_chip *chip);
int lam_cuda_gemv_block(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_cuda_gemv_args *args, void *workspace);
int lam_cuda_prepare_gemv_super(const struct lam_cuda_chip *chip);
int lam_cuda_gemv_super(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_cuda_gemv_args *args, void *workspace);

/*
 * Another order for matrices that stay on the device (arranged.cuh), for the products below; `from`
 * and `to` do not overlap. BF16 becomes F16 instead, in place: rows as they were, what gemm wants;
 * check_halves leaves 0 in *lossy if no row loses more than LAM_CUDA_HALF_LOSS of the sum of its
 * weights' sizes that way, none is infinite and none a NaN.
 */
#define LAM_CUDA_HALF_LOSS 0x1p-20f
bool lam_cuda_arrange_takes(
    enum lam_dtype dtype, const void *weight, uint32_t n_out, uint32_t n_cols);
int lam_cuda_prepare_arrange(void);
int lam_cuda_arrange(struct CUstream_st *stream, const struct lam_cuda_chip *chip, const void *from,
    enum lam_dtype dtype, uint32_t n_out, uint32_t n_cols, void *to);
int lam_cuda_check_halves(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const void *weight, uint32_t n_out, uint32_t n_cols, uint32_t *lossy);
int lam_cuda_make_halves(
    struct CUstream_st *stream, const struct lam_cuda_chip *chip, void *weight, uint64_t n_weights);

/* gemv for all packed formats in that order. */
int lam_cuda_prepare_gemv_arranged(const struct lam_cuda_chip *chip);
int lam_cuda_gemv_arranged(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_cuda_gemv_args *args, void *workspace);

/* Up to LAM_CUDA_GEMM64_ROWS rows, of what lam_cuda_gemm64_takes; all matrices of one dtype.
 * gemm64_rows puts x into rows (136 bytes for each of n_cols, 16-byte aligned), once for all
 * products with it. parts: workspace of LAM_DEVICE_TILE_BYTES. */
bool lam_cuda_gemm64_takes(enum lam_dtype dtype, uint32_t n_cols);
int lam_cuda_prepare_gemm64(void);
int lam_cuda_gemm64_rows(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const float *x, uint32_t n_rows, uint32_t n_cols, void *rows);
int lam_cuda_gemm64(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_matmul_args *args, const void *rows, void *parts);

/* out[r, c] = half(x[r, c] * LAM_CUDA_ROWS_SCALE), ld >= n_cols values apart, zeros between. */
int lam_cuda_prepare_pack(void);
int lam_cuda_pack_rows(struct CUstream_st *stream, const struct lam_cuda_chip *chip, const float *x,
    uint32_t n_rows, uint32_t n_cols, uint32_t ld, void *out);
/* The same, unscaled, of packed weight rows. */
int lam_cuda_pack_weights(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const void *weight, enum lam_dtype dtype, uint32_t n_rows, uint32_t n_cols, uint32_t ld,
    void *out);

/* The same, bit for bit, of rows as lam_cuda_arrange leaves them; ld is n_cols. */
int lam_cuda_prepare_pack_arranged(void);
int lam_cuda_pack_arranged(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const void *weight, enum lam_dtype dtype, uint32_t n_rows, uint32_t n_cols, void *out);

/* out[t, n] (+)= sum_k x[t, k] * w[n, k] / LAM_CUDA_ROWS_SCALE; x and w in 16 bits, 16-byte
 * aligned, ld values apart; ld a multiple of LAM_CUDA_COLS_ALIGN. gemm does one matrix. */
struct lam_cuda_gemm_args {
    const void *x;
    const void *w;
    float *out;
    uint64_t out_stride;
    uint32_t n_rows;
    uint32_t n_out;
    uint32_t ld;
    bool accumulate;
    /* 0, or the same with a second matrix of this shape: how many values its weights and its result
     * lie behind the first's. */
    uint64_t w_next;
    uint64_t out_next;
};

int lam_cuda_prepare_gemm(const struct lam_cuda_chip *chip);
int lam_cuda_gemm(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_cuda_gemm_args *args);

int lam_cuda_prepare_probe(void);
int lam_cuda_probe(
    struct CUstream_st *stream, const struct lam_cuda_chip *chip, void *from, uint64_t bytes);

/* Attention on tensor cores: F16 or Q8_0 pages of at least 16 positions, head sizes that
 * lam_cuda_attention_fits names. splits, arrived: workspace of LAM_DEVICE_SPLIT_ROWS rows; arrived
 * is 0 before and after. split_tokens: positions of one part of a context, as
 * lam_cuda_attention_split has it for contexts of up to max_ctx.
 * rounded: NULL, or, of calls of more rows than LAM_DEVICE_SPLIT_ROWS, where the result goes in 16
 * bits instead of out. */
bool lam_cuda_attention_fits(const struct lam_kv_layer *kv);
int lam_cuda_prepare_attention(const struct lam_cuda_chip *chip);
uint32_t lam_cuda_attention_split(
    const struct lam_cuda_chip *chip, uint32_t head_dim, uint32_t max_ctx);
int lam_cuda_attention(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_attention_args *args, uint32_t split_tokens, float *splits, uint32_t *arrived,
    void *rounded);

/* Attention for everything else. */
int lam_cuda_prepare_attention_any(void);
int lam_cuda_attention_any(struct CUstream_st *stream, const struct lam_cuda_chip *chip,
    const struct lam_attention_args *args);

#ifdef __cplusplus
}
#endif

#endif
