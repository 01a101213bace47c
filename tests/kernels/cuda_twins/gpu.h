/*
 * gpu: what the tests of the GPU backend share. One context and one arena serve all tests; a test
 * puts its operands into the arena, runs a call there and gets the results back. Around every
 * buffer lie guard bytes, which gpu_reset checks; results are poisoned with NaN before a call.
 */
#ifndef LAMINAR_TESTS_KERNELS_CUDA_TWINS_GPU_H
#define LAMINAR_TESTS_KERNELS_CUDA_TWINS_GPU_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "tests/kernels/twin.h"

enum { GPU_BUFFERS_MAX = 64 };

struct gpu {
    const struct lam_kernel_ops *ops;
    const struct lam_device_ops *device;
    struct lam_kernels *kernels;
    const struct lam_kernel_ops *ref;
    struct lam_kernels *ref_kernels;
    uint8_t *arena;
    uint64_t cap_bytes; /* of the part for buffers */
    uint64_t used_bytes;
    uint64_t free_bytes; /* of the device, once the arena was taken */
    uint8_t *buffers[GPU_BUFFERS_MAX];
    uint64_t buffer_bytes[GPU_BUFFERS_MAX];
    uint32_t n_buffers;
};

struct lam_kernel_config gpu_config(void);

/* For cmocka_run_group_tests: opens the backend named by the folder in gpu_folder (NULL: the places
 * that lam_cuda_open knows), fails without a GPU. */
extern const char *gpu_folder;
/* Whether cases of more multiplications than gpu_takes says are left out. */
extern bool gpu_is_slow;
bool gpu_takes(uint64_t multiplications);
int gpu_setup(void **state);
/* Also fails when the device's free memory is not what it was when the arena was taken. */
int gpu_teardown(void **state);

/* A buffer of the device, `skew` bytes past an aligned address, as the host's bytes are. */
void *gpu_put(struct gpu *gpu, const void *host, uint64_t bytes, uint32_t skew);
/* A buffer of n floats, all NaN. */
float *gpu_floats(struct gpu *gpu, size_t n);
void gpu_get(struct gpu *gpu, void *host, const void *device, uint64_t bytes);
/* Checks all guards and forgets all buffers. */
void gpu_reset(struct gpu *gpu);

/* The tests, by file. Each takes and leaves the group's struct gpu in *state. */
void test_matmul_twins(void **state);
void test_matmul_float_tails(void **state);
void test_matmul_tiles(void **state);
void test_matmul_bound_has_teeth(void **state);
void test_matmul_alignment(void **state);
void test_matmul_rows(void **state);
void test_matmul_three(void **state);
void test_matmul_nan(void **state);
void test_product_only(void **state);
void test_no_rows(void **state);

void test_arrange_twins(void **state);
void test_arrange_three(void **state);
void test_arrange_tiles(void **state);
void test_arrange_refuses(void **state);
void test_arrange_bf16(void **state);

void test_attention_twins(void **state);
void test_attention_bound_has_teeth(void **state);
void test_attention_chunks(void **state);
void test_attention_company(void **state);
void test_attention_behind_a_write(void **state);
void test_kv_write(void **state);
void test_rope_kv(void **state);

void test_dequant(void **state);
void test_rms_norm(void **state);
void test_rope(void **state);
void test_swiglu(void **state);
void test_elementwise_rows(void **state);

void test_kept(void **state);

void test_argmax_twins(void **state);
void test_argmax_waits(void **state);

void test_wrong_device(void **state);
void test_transfers(void **state);
void test_pinned_copies(void **state);
void test_marks(void **state);

#endif
