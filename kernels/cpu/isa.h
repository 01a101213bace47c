/*
 * isa: what one instruction set offers to cpu.c: each operation over a range of independent units
 * (rows, or blocks of output columns), so that cpu.c alone knows about threads. The order of float
 * operations inside a unit is fixed by its inputs, never by the range it came in: that gives ops.h
 * its bitwise promise.
 */
#ifndef LAMINAR_KERNELS_CPU_ISA_H
#define LAMINAR_KERNELS_CPU_ISA_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

enum {
    LAM_Q8_ELEMS = 32,       /* activations that share a scale */
    LAM_KV_BLOCK = 64,       /* positions whose softmax is computed together */
    LAM_ATTENTION_ROWS = 32, /* query rows that share one unpacked KV block */
    LAM_HEAD_DIM_MAX = 256,
};

/* 32 activations as 8-bit integers: x[i] is about scale * q[i]. */
struct lam_q8_block {
    int8_t q[LAM_Q8_ELEMS];
    float scale;
    float scaled_sum;        /* scale * sum(q) */
    int32_t neg_sum;         /* -sum(q) */
    int32_t neg_half_sum[2]; /* of q[0..15] and q[16..31] */
};

struct lam_matmul_job {
    const struct lam_matmul_args *args;
    const struct lam_q8_block *q8; /* [n_rows][n_cols / 32]; unused by float weights */
    uint32_t unit_begin[4];        /* first unit of each matrix, then the end */
};

/* Softmax state of one (row, head): of the block sums so far, the largest score and sum of exp. */
struct lam_softmax {
    float max;
    float sum;
};

/* A share of an attention call: some rows of one sequence, one KV head, some KV blocks. */
struct lam_attention_part {
    const struct lam_attention_args *args;
    const struct lam_seq_rows *seq;
    uint32_t kv_head;
    uint32_t row_begin; /* within the sequence's rows; at most LAM_ATTENTION_ROWS of them */
    uint32_t row_end;
};

struct lam_cpu_isa {
    const char *name;
    uint32_t matmul_unit; /* output columns of a unit */
    void (*quantise)(const float *x, size_t n_blocks, struct lam_q8_block *out);
    void (*matmul)(const struct lam_matmul_job *job, uint32_t unit_begin, uint32_t unit_end);
    void (*rms_norm)(const struct lam_rms_norm_args *args, uint32_t row_begin, uint32_t row_end);
    void (*rope)(const struct lam_rope_args *args, uint32_t row_begin, uint32_t row_end);
    void (*kv_write)(const struct lam_kv_write_args *args, const struct lam_seq_rows *seq,
        uint32_t row_begin, uint32_t row_end);
    void (*swiglu)(const struct lam_swiglu_args *args, uint64_t begin, uint64_t end);
    /*
     * Attention of a part over KV block `block` only. values: [rows * group][head_dim] sums of this
     * block, states: [rows * group], item = (row - row_begin) * group + head within the group.
     */
    void (*attend_block)(const struct lam_attention_part *part, uint32_t block, float *values,
        struct lam_softmax *states);
    /* Adds a block's sums into the running sums. A running state starts as {-infinity, 0}. */
    void (*attend_merge)(float *total, struct lam_softmax *total_state, const float *values,
        const struct lam_softmax *state, uint32_t head_dim);
    /* Divides by the sum of exp. */
    void (*attend_finish)(float *total, const struct lam_softmax *state, uint32_t head_dim);
};

/* The tables. Calling one on a CPU without the instructions is a programmer's error. */
const struct lam_cpu_isa *lam_cpu_isa_avx2(void);
const struct lam_cpu_isa *lam_cpu_isa_avx512(void);

#endif
