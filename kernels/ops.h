/*
 * ops: the table of compute operations. A worker's forward pass sees only this table, so the same
 * code runs on the naive reference, on the fast CPU kernels and on a GPU; no #ifdef chooses.
 *
 * Rules that every backend keeps and tests/kernels checks:
 *   - A row's result does not depend on the other rows of the call, on the number of threads or on
 *     how a prompt was cut into chunks: bitwise. (Else a text would change with who shares the
 *     batch.)
 *   - Activations are f32, row-major, rows contiguous unless a stride is given. Weights are used as
 *     they lie in the model file: any alignment of 2 bytes or more, packed blocks, never changed
 *     but by arrange.
 *   - Calls on one context come from one thread. A call returns when its result is complete.
 *   - After create, nothing allocates. Shapes beyond the config are asserted, not handled. A call
 *     with no rows does nothing.
 *
 * Letters: T rows (tokens) of a call, D width, H/K query and key/value heads, d head size, N output
 * rows.
 */
#ifndef LAMINAR_KERNELS_OPS_H
#define LAMINAR_KERNELS_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/status.h"

/* Largest shapes that a context will meet; scratch is sized from them. */
struct lam_kernel_config {
    uint32_t n_threads; /* 0: one per core that this process may use */
    uint32_t max_rows;  /* T */
    uint32_t max_cols;  /* longest row of a matrix operand */
    uint32_t max_seqs;  /* sequences in one attention call */
    uint32_t max_ctx;   /* positions of one sequence */
    uint32_t n_heads;   /* H */
    uint32_t head_dim;  /* d, at most 256 */
    uint32_t device;    /* index among the visible devices; of no use without one */
};

/* ret_rows[t, :] = row ids[t] of a stored matrix, as f32. rows[t] points to the packed row. */
struct lam_dequant_args {
    const void *const *rows; /* [T] */
    enum lam_dtype dtype;
    uint32_t n_rows; /* T */
    uint32_t n_cols;
    float *out; /* [T, n_cols] */
};

/* out = x / sqrt(mean(x^2) + eps) * weight, row by row. out may be x. */
struct lam_rms_norm_args {
    const float *x;      /* [T, D] */
    const float *weight; /* [D] */
    float *out;          /* [T, D] */
    uint32_t n_rows;
    uint32_t n_cols;
    float eps;
    bool product_only; /* see lam_matmul_args */
};

/* One matrix of a product: out[t, n] (+)= sum_k x[t, k] * w[n, k]. */
struct lam_matmul_mat {
    const void *weight; /* [N, n_cols] packed */
    enum lam_dtype dtype;
    uint32_t n_out; /* N */
    float *out;     /* [T, out_stride] */
    uint64_t out_stride;
    bool arranged; /* the weight lies as lam_kernel_ops.arrange has left it */
};

/*
 * Up to three matrices that share their input (q, k, v; gate, up): one pass over the threads.
 *
 * An operation whose out is this x may be told so (product_only, product_cols): the product is then
 * the next operation on the context, has all of out for its x, and nothing else reads out, which a
 * backend may leave unwritten.
 */
struct lam_matmul_args {
    const float *x; /* [T, n_cols] */
    uint32_t n_rows;
    uint32_t n_cols;
    bool accumulate; /* add to out instead of overwriting */
    uint32_t n_mats; /* 1..3 */
    struct lam_matmul_mat mats[3];
};

/* A matrix that stays where it is. */
struct lam_arrange_args {
    void *weight; /* [n_out, n_cols] packed, as in the file */
    enum lam_dtype dtype;
    uint32_t n_out;
    uint32_t n_cols;
};

/* table[t, i] = {cos, sin} of position[t] / scale * base^(-2i / rope_dim) / factors[i]. */
struct lam_rope_table_args {
    const int32_t *positions; /* [T] */
    uint32_t n_rows;
    uint32_t rope_dim;
    float base;
    float scale;
    const float *factors; /* [rope_dim / 2], or NULL: all 1 */
    float *table;         /* [T, rope_dim / 2, 2] */
};

enum lam_rope_pairing {
    LAM_ROPE_ADJACENT, /* (0, 1), (2, 3) ...: GGUF architecture llama */
    LAM_ROPE_HALVES,   /* (0, r/2), (1, r/2 + 1) ... */
};

/* Rotates the first rope_dim values of each head in place. */
struct lam_rope_args {
    float *x;           /* [T, n_heads, d] */
    const float *table; /* of lam_rope_table_args */
    uint32_t n_rows;
    uint32_t n_heads;
    uint32_t head_dim;
    uint32_t rope_dim;
    enum lam_rope_pairing pairing;
};

/*
 * KV cache of one layer: pages of page_tokens positions. Page p of K begins at k + p * page_bytes,
 * likewise V; inside a page: [K heads][page_tokens][d] of dtype: F32, F16, or Q8_0 (kv.h says how
 * values become blocks; d is then a multiple of 32).
 */
struct lam_kv_layer {
    void *k;
    void *v;
    enum lam_dtype dtype;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t page_tokens; /* a power of two */
};

/* Rows row_begin.. of the call that belong to one sequence, at positions pos_begin.. of it. What is
 * before pos_begin, and the pages' numbers, must have been there before the last copy that was
 * queued for the device: attention may read them while the operations before it still run. */
struct lam_seq_rows {
    uint32_t row_begin;
    uint32_t n_rows;
    uint32_t pos_begin;
    const uint32_t *pages; /* page numbers, in order; covers pos_begin + n_rows positions */
};

/* Stores the keys and values of all rows. */
struct lam_kv_write_args {
    const float *k; /* [T, K, d] */
    const float *v; /* [T, K, d] */
    struct lam_kv_layer kv;
    const struct lam_seq_rows *seqs;
    uint32_t n_seqs;
};

/* Causal attention: row at position p sees positions 0..p of its own sequence (already written). */
struct lam_attention_args {
    const float *q; /* [T, H, d] */
    float *out;     /* [T, H, d] */
    uint32_t n_heads;
    float scale; /* usually 1 / sqrt(d) */
    struct lam_kv_layer kv;
    const struct lam_seq_rows *seqs;
    uint32_t n_seqs;
    bool product_only; /* see lam_matmul_args */
};

/* out = silu(gate) * up, elementwise. out may be gate. */
struct lam_swiglu_args {
    const float *gate;
    const float *up;
    float *out;
    uint64_t n;
    uint32_t product_cols; /* see lam_matmul_args: n_cols of the product, 0 if there is none */
};

/*
 * out[t] = the column of the largest value of row t, the lowest one among equals. NaN counts as
 * minus infinity, infinity as the largest number; 0 where nothing is above minus infinity. It is
 * what model/sample.h calls greedy. n_cols is not bound by the config.
 */
struct lam_argmax_args {
    const float *x; /* [T, n_cols] */
    int32_t *out;   /* [T] */
    uint32_t n_rows;
    uint32_t n_cols; /* at least 1 */
};

struct lam_kernels; /* a backend's threads and scratch */

struct lam_kernel_ops {
    const char *name; /* "ref", "cpu" */
    enum lam_status (*create)(const struct lam_kernel_config *config,
        struct lam_kernels **ret_kernels, struct lam_err *err);
    void (*destroy)(struct lam_kernels *kernels); /* NULL is allowed */
    /* One line for people: instruction sets in use, threads. Lives as long as the context. */
    const char *(*describe)(const struct lam_kernels *kernels);

    void (*dequant)(struct lam_kernels *kernels, const struct lam_dequant_args *args);
    void (*rms_norm)(struct lam_kernels *kernels, const struct lam_rms_norm_args *args);
    void (*matmul)(struct lam_kernels *kernels, const struct lam_matmul_args *args);
    void (*rope_table)(struct lam_kernels *kernels, const struct lam_rope_table_args *args);
    void (*rope)(struct lam_kernels *kernels, const struct lam_rope_args *args);
    void (*kv_write)(struct lam_kernels *kernels, const struct lam_kv_write_args *args);
    void (*attention)(struct lam_kernels *kernels, const struct lam_attention_args *args);
    void (*swiglu)(struct lam_kernels *kernels, const struct lam_swiglu_args *args);
    void (*argmax)(struct lam_kernels *kernels, const struct lam_argmax_args *args);

    /*
     * Puts a matrix, in place and in as many bytes, into an order of the backend's own in which its
     * products are faster, or leaves it alone and returns false. Products that name it must say so
     * (arranged), all its rows at once, and nothing else can read it any more. What they give is
     * what they give of the file's order, bit for bit, except for BF16, which becomes F16 where
     * every row can afford that: up to 2^-20 of the sum of its weights' sizes is lost then.
     * Once per matrix; may wait for the device. NULL: this backend reads best what is in files.
     */
    bool (*arrange)(struct lam_kernels *kernels, const struct lam_arrange_args *args);
};

/* Naive, double accumulation, f32 activations, one thread: the definition of each operation. */
const struct lam_kernel_ops *lam_kernels_ref(void);

/* Fast CPU: AVX2 or AVX-512 chosen when the context is created; activations quantised to 8 bits for
 * quantised weights. On a CPU without AVX2, create fails with LAM_UNIMPLEMENTED and names --kernels
 * ref. */
const struct lam_kernel_ops *lam_kernels_cpu(void);

/* "ref" or "cpu"; NULL when unknown. */
const struct lam_kernel_ops *lam_kernels_by_name(const char *name);

#endif
