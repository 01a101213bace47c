/*
 * gemv_args: what the launcher of gemv (gemv.cuh) tells its kernels, and the order in which they
 * take the matrices' tiles: the grid's blocks share units of tiles in rounds.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_ARGS_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_ARGS_CUH

#include <stdint.h>

#include "kernels/cuda/cuda.h"

enum : uint32_t {
    TILE = 16, /* results of a warp */
    MATS_MAX = 3,
    N_WARPS = 8,
    BLOCK = N_WARPS * 32,
    GROUP_K = 32,  /* columns whose activations are split together */
    PARTS_MIN = 2, /* rounds whose sums shared memory holds */
    PARTS_MAX = 8,
    STAGES_MAX = 5, /* steps of a warp's ring */
};

/* What becomes of a matrix' results. */
enum gemv_role : uint32_t {
    ROLE_PLAIN,
    ROLE_GATE, /* of swiglu: matrix 0, whose tiles take turns with those of 1, `up` */
    ROLE_QUERY,
    ROLE_KEY,
    ROLE_VALUE,
};

struct gemv_args {
    struct {
        const uint8_t *weight;
        float *out;
        uint64_t out_stride;
        uint32_t n_out;
        uint32_t tiles_end; /* tiles of this matrix and those before it */
        gemv_role role;
    } mats[MATS_MAX];
    const float *x;
    void *split;   /* [rows / 4][groups][lane] of math::operand, when n_rows > 1 */
    float2 *facts; /* [rows / 4][groups][4]: scale and sum of the activations, of int8 */
    uint64_t row_bytes;
    uint32_t n_rows;
    uint32_t n_cols;
    uint32_t n_steps;
    uint32_t n_groups; /* of all steps, also those behind n_cols */
    uint32_t n_slices; /* warps of a tile */
    uint32_t tiles_per_block;
    uint32_t n_units;      /* of tiles_per_block tiles */
    uint32_t parts_rounds; /* whose sums shared memory holds: a power of two */
    uint32_t n_stages;     /* 2 to STAGES_MAX */
    uint32_t facts_at;     /* offsets in shared memory */
    uint32_t scales_at;
    uint32_t parts_at;
    uint32_t ring_at;
    bool accumulate;
    bool x_whole; /* four columns of x at a multiple of 4 are one aligned load */
    bool in_turn; /* tiles of matrices 0 and 1 take turns */

    const float *norm_weight; /* NULL: x is used as it is */
    float *normed;            /* where x behind its norm is wanted too, or NULL */
    float eps;

    /* Of queries, keys and values: */
    const float *angles; /* [row, head_dim / 2, 2] */
    lam_kv_layer kv;
    struct {
        const uint32_t *pages;
        uint32_t position;
    } places[LAM_CUDA_GEMV_ROWS];
};

/* Where a tile comes from and goes to. */
struct tile_rows {
    const uint8_t *weight;
    float *out;
    uint64_t out_stride;
    uint32_t first; /* result of the matrix */
    uint32_t n_valid;
    gemv_role role;
};

static __device__ __forceinline__ tile_rows find_tile(const gemv_args &args, uint32_t tile)
{
    int m = tile < args.mats[0].tiles_end ? 0 : tile < args.mats[1].tiles_end ? 1 : 2;
    uint32_t begin = m == 0 ? 0 : m == 1 ? args.mats[0].tiles_end : args.mats[1].tiles_end;
    uint32_t n = (tile - begin) * TILE;
    tile_rows rows;

    if (args.in_turn) {
        m = tile % 2;
        n = tile / 2 * TILE;
    }
    rows.weight = args.mats[m].weight + n * args.row_bytes;
    rows.out = args.mats[m].out + n;
    rows.out_stride = args.mats[m].out_stride;
    rows.first = n;
    rows.n_valid = args.mats[m].n_out - n < TILE ? args.mats[m].n_out - n : TILE;
    rows.role = args.mats[m].role;
    return rows;
}

/* Row i of the tile; rows behind the end repeat the last, their results are not stored. */
static __device__ __forceinline__ const uint8_t *row_of(
    const gemv_args &args, const tile_rows &rows, uint32_t i)
{
    return rows.weight + (i < rows.n_valid ? i : rows.n_valid - 1) * args.row_bytes;
}

/* The block's unit of a round. Two tiles that take turns come to one block, one behind the other. */
static __device__ __forceinline__ uint32_t unit_of(const gemv_args &args, uint32_t round)
{
    if (args.in_turn && args.tiles_per_block == 1)
        return (round / 2 * gridDim.x + blockIdx.x) * 2 + round % 2;
    return round * gridDim.x + blockIdx.x;
}

#endif
