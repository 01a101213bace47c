/*
 * matmul: one multiplication kernel for all formats. A unit is TILE_PANELS panels of LANES output
 * columns; the unit's weights are unpacked a chunk of columns at a time (L1-sized) and multiplied
 * with every row of x before the next chunk. For each (row, output) the float sum runs over blocks
 * in order, one block at a time, starting from zero or from out: one row or 512, the bits are the
 * same.
 */
#ifndef LAMINAR_KERNELS_CPU_MATMUL_H
#define LAMINAR_KERNELS_CPU_MATMUL_H

#include <assert.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/unpack.h"
#include "kernels/cpu/unroll.h"

enum {
    TILES_PER_BLOCK_MAX = 8,
    CHUNK_TILES = 16,  /* columns / 32 that are unpacked together: 2 panels are 20 KiB of L1 */
    CHUNK_FLOATS = 128 /* the same for float weights: 2 panels are 16 KiB */
};

/* Where a unit's results go: TILE_PANELS groups of up to LANES neighbours per row. */
struct unit_out {
    float *out; /* column 0 of the unit, row 0 */
    uint64_t stride;
    uint32_t lanes[TILE_PANELS]; /* columns that exist in each panel */
};

LAM_INLINE void load_sums(const struct unit_out *unit, uint32_t row, bool from_out, vf *sums)
{
    LAM_UNROLL
    for (int p = 0; p < TILE_PANELS; p++) {
        sums[p] = v_zero();
        if (from_out && unit->lanes[p] > 0)
            sums[p] = v_load_n(unit->out + row * unit->stride + p * LANES, unit->lanes[p]);
    }
}

LAM_INLINE void store_sums(const struct unit_out *unit, uint32_t row, const vf *sums)
{
    LAM_UNROLL
    for (int p = 0; p < TILE_PANELS; p++) {
        if (unit->lanes[p] > 0)
            v_store_n(unit->out + row * unit->stride + p * LANES, sums[p], unit->lanes[p]);
    }
}

/* The same columns, one unit on: in the order of addresses, a tile's worth of lines per tile. */
LAM_INLINE void prefetch_next_unit(const struct panel *panels, size_t at, size_t bytes)
{
    uintptr_t row_bytes = (uintptr_t)(panels[0].rows[1] - panels[0].rows[0]);
    uintptr_t next = (uintptr_t)panels[0].rows[0] + TILE_PANELS * LANES * (row_bytes + at);

    LAM_UNROLL
    for (uintptr_t line = 0; line < TILE_PANELS * LANES * bytes; line += 64)
        _mm_prefetch((const char *)(next + line), _MM_HINT_T0);
}

LAM_INLINE vi broadcast4(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof(four));
    return vi_set(four);
}

/* Integer dot products of columns [j_begin, j_end) * 4 of one tile per panel with n_rows blocks of
 * x. */
LAM_INLINE void dot_columns(const struct tile *const *tiles, const struct lam_q8_block *const *x,
    int n_rows, bool wide, int j_begin, int j_end, vi (*dots)[TILE_PANELS])
{
    LAM_UNROLL
    for (int j = j_begin; j < j_end; j++) {
        LAM_UNROLL
        for (int r = 0; r < n_rows; r++) {
            vi four = broadcast4(x[r]->q + 4 * j);
            LAM_UNROLL
            for (int p = 0; p < TILE_PANELS; p++) {
                if (wide)
                    dots[r][p] = vi_dot_wide(dots[r][p], tiles[p]->q[j], four);
                else
                    dots[r][p] = vi_dot(dots[r][p], tiles[p]->q[j], four);
            }
        }
    }
}

/* sums += scale of the weights * scale of x * dots. */
LAM_INLINE void add_scaled(const struct tile *const *tiles, const struct lam_q8_block *x,
    bool second, const vi *dots, vf *sums)
{
    vf x_scale = v_set(x->scale);

    LAM_UNROLL
    for (int p = 0; p < TILE_PANELS; p++) {
        vf scale = v_mul(second ? tiles[p]->extra : tiles[p]->scale, x_scale);
        sums[p] = v_fma(v_from_int(dots[p]), scale, sums[p]);
    }
}

/* One block of 32 columns into the sums of n_rows rows. kind and n_rows are constants after
 * inlining. */
LAM_INLINE void add_tile(const struct tile *const *tiles, const struct lam_q8_block *const *x,
    int n_rows, enum tile_kind kind, vi shift, vf (*sums)[TILE_PANELS])
{
    int n_parts = kind == TILE_HALVES ? 2 : 1;

    LAM_UNROLL
    for (int part = 0; part < n_parts; part++) {
        vi dots[TILE_ROWS][TILE_PANELS];
        LAM_UNROLL
        for (int r = 0; r < n_rows; r++) {
            LAM_UNROLL
            for (int p = 0; p < TILE_PANELS; p++) {
                dots[r][p] = vi_zero();
                if (kind == TILE_HALVES)
                    dots[r][p] = vi_shl_lanes(vi_set(x[r]->neg_half_sum[part]), shift);
                else if (kind == TILE_OFFSET || (kind == TILE_WIDE && WIDE_SHIFT > 0))
                    dots[r][p] = vi_shl_lanes(vi_set(x[r]->neg_sum), shift);
            }
        }
        dot_columns(tiles, x, n_rows, kind == TILE_WIDE, 8 / n_parts * part,
            8 / n_parts * (part + 1), dots);
        LAM_UNROLL
        for (int r = 0; r < n_rows; r++)
            add_scaled(tiles, x[r], part == 1, dots[r], sums[r]);
    }
    LAM_UNROLL
    for (int r = 0; kind == TILE_MIN && r < n_rows; r++) {
        LAM_UNROLL
        for (int p = 0; p < TILE_PANELS; p++)
            sums[r][p] = v_fma(tiles[p]->extra, v_set(x[r]->scaled_sum), sums[r][p]);
    }
}

/* n_tiles blocks of n_rows rows from `row` on. q8: those rows' first block of the chunk. */
LAM_INLINE void multiply_rows(struct tile (*tiles)[CHUNK_TILES], uint32_t n_tiles,
    const struct lam_q8_block *q8, size_t q8_stride, const struct unit_out *unit, uint32_t row,
    int n_rows, bool from_out, enum tile_kind kind, vi shift)
{
    vf sums[TILE_ROWS][TILE_PANELS];

    LAM_UNROLL
    for (int r = 0; r < n_rows; r++)
        load_sums(unit, row + (uint32_t)r, from_out, sums[r]);
    for (uint32_t b = 0; b < n_tiles; b++) {
        const struct tile *block_tiles[TILE_PANELS];
        const struct lam_q8_block *x[TILE_ROWS];
        LAM_UNROLL
        for (int p = 0; p < TILE_PANELS; p++)
            block_tiles[p] = &tiles[p][b];
        LAM_UNROLL
        for (int r = 0; r < n_rows; r++)
            x[r] = q8 + (size_t)r * q8_stride + b;
        add_tile(block_tiles, x, n_rows, kind, shift, sums);
    }
    LAM_UNROLL
    for (int r = 0; r < n_rows; r++)
        store_sums(unit, row + (uint32_t)r, sums[r]);
}

/* All rows of the call against one unpacked chunk. */
LAM_INLINE void multiply_chunk(struct tile (*tiles)[CHUNK_TILES], uint32_t n_tiles,
    const struct lam_q8_block *q8, size_t q8_stride, const struct unit_out *unit, uint32_t n_rows,
    bool from_out, enum tile_kind kind, vi shift)
{
    uint32_t row = 0;

    for (; row + TILE_ROWS <= n_rows; row += TILE_ROWS)
        multiply_rows(tiles, n_tiles, q8 + row * q8_stride, q8_stride, unit, row, TILE_ROWS,
            from_out, kind, shift);
    for (; row < n_rows; row++)
        multiply_rows(
            tiles, n_tiles, q8 + row * q8_stride, q8_stride, unit, row, 1, from_out, kind, shift);
}

/*
 * One row of x: nothing to reuse a chunk for, so each block is multiplied as soon as it is
 * unpacked (formats with one tile per block never leave the registers) and the next unit is
 * fetched meanwhile. The order of additions is that of multiply_rows. All arguments from `unpack`
 * on are constants after inlining.
 */
LAM_INLINE void multiply_single(const struct lam_matmul_job *job, const struct panel *panels,
    const struct unit_out *unit, vi shift, unpack_fn unpack, size_t block_bytes, uint32_t n_tiles,
    enum tile_kind kind)
{
    uint32_t n_blocks = job->args->n_cols / LAM_Q8_ELEMS / n_tiles;
    const struct lam_q8_block *q8 = job->q8;
    size_t tile_bytes = block_bytes / n_tiles;
    vf sums[1][TILE_PANELS];

    load_sums(unit, 0, job->args->accumulate, sums[0]);
    for (uint32_t b = 0; b < n_blocks; b++) {
        size_t at = b * block_bytes;
        struct tile tiles[TILE_PANELS][TILES_PER_BLOCK_MAX];
        LAM_UNROLL
        for (int p = 0; p < TILE_PANELS; p++)
            unpack(&panels[p], at, tiles[p]);
        for (uint32_t i = 0; i < n_tiles; i++, q8++) {
            const struct tile *block_tiles[TILE_PANELS];
            LAM_UNROLL
            for (int p = 0; p < TILE_PANELS; p++)
                block_tiles[p] = &tiles[p][i];
            prefetch_next_unit(panels, at + i * tile_bytes, tile_bytes);
            add_tile(block_tiles, &q8, 1, kind, shift, sums);
        }
    }
    store_sums(unit, 0, sums[0]);
}

static void matmul_single(const struct lam_matmul_job *job, enum lam_dtype dtype,
    const struct panel *panels, const struct unit_out *unit)
{
    vi shift = vi_set(unpack_infos[dtype].shift);

    switch (dtype) {
    case LAM_Q4_0:
        multiply_single(job, panels, unit, shift, unpack_q4_0, 18, 1, TILE_OFFSET);
        break;
    case LAM_Q4_1:
        multiply_single(job, panels, unit, shift, unpack_q4_1, 20, 1, TILE_MIN);
        break;
    case LAM_Q5_0:
        multiply_single(job, panels, unit, shift, unpack_q5_0, 22, 1, TILE_OFFSET);
        break;
    case LAM_Q5_1:
        multiply_single(job, panels, unit, shift, unpack_q5_1, 24, 1, TILE_MIN);
        break;
    case LAM_Q8_0:
        multiply_single(job, panels, unit, shift, unpack_q8_0, 34, 1, TILE_WIDE);
        break;
    case LAM_Q4_K:
        multiply_single(job, panels, unit, shift, unpack_q4_k, 144, 8, TILE_MIN);
        break;
    case LAM_Q5_K:
        multiply_single(job, panels, unit, shift, unpack_q5_k, 176, 8, TILE_MIN);
        break;
    default:
        assert(dtype == LAM_Q6_K);
        multiply_single(job, panels, unit, shift, unpack_q6_k, 210, 8, TILE_HALVES);
    }
}

static void matmul_quant_unit(const struct lam_matmul_job *job, const struct lam_matmul_mat *mat,
    const struct panel *panels, const struct unit_out *unit)
{
    const struct unpack_info *info = &unpack_infos[mat->dtype];
    const struct lam_dtype_info *layout = lam_dtype_info(mat->dtype);
    uint32_t n_blocks = job->args->n_cols / LAM_Q8_ELEMS;
    uint32_t tiles_per_block = layout->block_elems / LAM_Q8_ELEMS;
    vi shift = vi_set(info->shift);
    struct tile tiles[TILE_PANELS][CHUNK_TILES];

    if (job->args->n_rows == 1) {
        matmul_single(job, mat->dtype, panels, unit);
        return;
    }
    for (uint32_t b = 0; b < n_blocks; b += CHUNK_TILES) {
        uint32_t n_tiles = n_blocks - b < CHUNK_TILES ? n_blocks - b : CHUNK_TILES;
        bool from_out = job->args->accumulate || b > 0;
        const struct lam_q8_block *q8 = job->q8 + b;
        for (uint32_t i = 0; i < n_tiles; i += tiles_per_block) {
            size_t at = (size_t)((b + i) / tiles_per_block) * layout->block_bytes;
            for (int p = 0; p < TILE_PANELS; p++)
                info->unpack(&panels[p], at, &tiles[p][i]);
        }
        if (info->kind == TILE_MIN)
            multiply_chunk(
                tiles, n_tiles, q8, n_blocks, unit, job->args->n_rows, from_out, TILE_MIN, shift);
        else if (info->kind == TILE_OFFSET)
            multiply_chunk(tiles, n_tiles, q8, n_blocks, unit, job->args->n_rows, from_out,
                TILE_OFFSET, shift);
        else if (info->kind == TILE_WIDE)
            multiply_chunk(
                tiles, n_tiles, q8, n_blocks, unit, job->args->n_rows, from_out, TILE_WIDE, shift);
        else
            multiply_chunk(tiles, n_tiles, q8, n_blocks, unit, job->args->n_rows, from_out,
                TILE_HALVES, shift);
    }
}

/* n_rows rows of x, n_cols columns of unpacked float weights [panel][col][lane]. */
LAM_INLINE void multiply_float_rows(float (*weights)[CHUNK_FLOATS * LANES], uint32_t n_cols,
    const float *x, size_t x_stride, const struct unit_out *unit, uint32_t row, int n_rows,
    bool from_out)
{
    vf sums[TILE_ROWS][TILE_PANELS];

    LAM_UNROLL
    for (int r = 0; r < n_rows; r++)
        load_sums(unit, row + (uint32_t)r, from_out, sums[r]);
    for (uint32_t k = 0; k < n_cols; k++) {
        vf w[TILE_PANELS];
        LAM_UNROLL
        for (int p = 0; p < TILE_PANELS; p++)
            w[p] = v_load(weights[p] + (size_t)k * LANES);
        LAM_UNROLL
        for (int r = 0; r < n_rows; r++) {
            vf one = v_set(x[(size_t)r * x_stride + k]);
            LAM_UNROLL
            for (int p = 0; p < TILE_PANELS; p++)
                sums[r][p] = v_fma(one, w[p], sums[r][p]);
        }
    }
    LAM_UNROLL
    for (int r = 0; r < n_rows; r++)
        store_sums(unit, row + (uint32_t)r, sums[r]);
}

static void matmul_float_unit(const struct lam_matmul_job *job, const struct lam_matmul_mat *mat,
    const struct panel *panels, const struct unit_out *unit)
{
    const struct lam_matmul_args *args = job->args;
    float weights[TILE_PANELS][CHUNK_FLOATS * LANES];

    for (uint32_t k = 0; k < args->n_cols; k += CHUNK_FLOATS) {
        uint32_t n_cols = args->n_cols - k < CHUNK_FLOATS ? args->n_cols - k : CHUNK_FLOATS;
        bool from_out = args->accumulate || k > 0;
        const float *x = args->x + k;
        uint32_t row = 0;
        size_t elem_bytes = lam_dtype_info(mat->dtype)->block_bytes;
        for (int p = 0; p < TILE_PANELS; p++) {
            const uint8_t *rows[LANES];
            for (int lane = 0; lane < LANES; lane++)
                rows[lane] = panels[p].rows[lane] + k * elem_bytes;
            unpack_floats(mat->dtype, rows, n_cols, weights[p]);
        }
        for (; row + TILE_ROWS <= args->n_rows; row += TILE_ROWS)
            multiply_float_rows(weights, n_cols, x + (size_t)row * args->n_cols, args->n_cols, unit,
                row, TILE_ROWS, from_out);
        for (; row < args->n_rows; row++)
            multiply_float_rows(weights, n_cols, x + (size_t)row * args->n_cols, args->n_cols, unit,
                row, 1, from_out);
    }
}

static void matmul(const struct lam_matmul_job *job, uint32_t unit_begin, uint32_t unit_end)
{
    uint32_t mat_index = 0;

    for (uint32_t u = unit_begin; u < unit_end; u++) {
        while (u >= job->unit_begin[mat_index + 1])
            mat_index++;
        const struct lam_matmul_mat *mat = &job->args->mats[mat_index];
        uint32_t column = (u - job->unit_begin[mat_index]) * TILE_PANELS * LANES;
        struct unit_out unit = {.out = mat->out + column, .stride = mat->out_stride};
        struct panel panels[TILE_PANELS];
        uint64_t row_bytes;
        bool whole = lam_dtype_row_bytes(mat->dtype, job->args->n_cols, &row_bytes);
        assert(whole);
        for (uint32_t p = 0; p < TILE_PANELS; p++) {
            uint32_t begin = column + p * LANES;
            uint32_t left = begin < mat->n_out ? mat->n_out - begin : 0;
            unit.lanes[p] = left < LANES ? left : LANES;
            panel_init(&panels[p], mat->weight, row_bytes, begin, mat->n_out);
        }
        if (unpack_infos[mat->dtype].unpack != NULL)
            matmul_quant_unit(job, mat, panels, &unit);
        else
            matmul_float_unit(job, mat, panels, &unit);
    }
}

#endif
