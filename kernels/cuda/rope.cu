/*
 * rope: the table of angles and the rotation.
 *
 * Table: T * rope_dim / 2 sines in double, once a pass (an angle of 100,000 radians has two digits
 * left in f32). Rotation: 8 bytes per value of the rotated heads, bound by memory for many rows, by
 * the launch for one.
 */
#include <math.h>

#include "kernels/cuda/rope_kv.cuh"

#include "kernels/cuda/dispatch.cuh"
#include "kernels/cuda/launch.cuh"

enum { BLOCK = 128 };

/* A thread: one pair of one row. */
static __global__ void __launch_bounds__(BLOCK) rope_angles(const lam_rope_table_args args)
{
    uint32_t n_pairs = args.rope_dim / 2;
    uint32_t index = blockIdx.x * BLOCK + threadIdx.x;
    uint32_t t = index / n_pairs;
    uint32_t i = index % n_pairs;

    let_successors_begin();
    wait_for_predecessors();
    if (t >= args.n_rows)
        return;
    double exponent = -2.0 * i / args.rope_dim;
    double frequency =
        pow(static_cast<double>(args.base), exponent) / static_cast<double>(args.scale);
    if (args.factors != NULL)
        frequency /= static_cast<double>(args.factors[i]);
    double half_turns = args.positions[t] * frequency * M_1_PI;
    double sine;
    double cosine;
    sincospi(half_turns, &sine, &cosine); /* unlike sincos it needs no stack for large angles */
    args.table[2 * static_cast<size_t>(index)] = static_cast<float>(cosine);
    args.table[2 * static_cast<size_t>(index) + 1] = static_cast<float>(sine);
}

/* A thread: one pair of one head. Grid: (pairs of all heads / BLOCK, rows). */
static __global__ void __launch_bounds__(BLOCK) rope_rotate(const lam_rope_args args)
{
    uint32_t n_pairs = args.rope_dim / 2;
    uint32_t at = blockIdx.x * BLOCK + threadIdx.x;
    uint32_t i = at % n_pairs;

    let_successors_begin();
    wait_for_predecessors();
    if (at >= args.n_heads * n_pairs)
        return;
    const float *angle = args.table + static_cast<size_t>(blockIdx.y) * args.rope_dim + 2 * i;
    float *head =
        args.x + (static_cast<size_t>(blockIdx.y) * args.n_heads + at / n_pairs) * args.head_dim;
    uint2 to = pair_places(i, args.rope_dim, args.pairing == LAM_ROPE_ADJACENT);
    float2 pair = turned(head[to.x], head[to.y], angle);
    head[to.x] = pair.x;
    head[to.y] = pair.y;
}

int lam_cuda_rope_table(
    CUstream_st *stream, const lam_cuda_chip *chip, const lam_rope_table_args *args)
{
    uint32_t n_blocks = div_up(static_cast<uint64_t>(args->n_rows) * (args->rope_dim / 2), BLOCK);

    return launch(stream, chip, rope_angles, dim3(n_blocks), BLOCK, 0, *args);
}

int lam_cuda_rope(CUstream_st *stream, const lam_cuda_chip *chip, const lam_rope_args *args)
{
    dim3 grid(div_up(args->n_heads * (args->rope_dim / 2), BLOCK), args->n_rows);

    return launch(stream, chip, rope_rotate, grid, BLOCK, 0, *args);
}

int lam_cuda_prepare_rope(void)
{
    int error = load_kernel(rope_angles);

    return error != 0 ? error : load_kernel(rope_rotate);
}
