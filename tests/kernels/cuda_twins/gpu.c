/* gpu: see gpu.h. */
#include "tests/kernels/cuda_twins/gpu.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/size.h"
#include "kernels/cuda/open.h"

enum { GUARD_BYTES = 256, GUARD = 0xA5, SLOW_MAX = 22000000 };

const char *gpu_folder;
bool gpu_is_slow;

bool gpu_takes(uint64_t multiplications)
{
    return !gpu_is_slow || multiplications <= SLOW_MAX;
}

struct lam_kernel_config gpu_config(void)
{
    return (struct lam_kernel_config){
        .max_rows = 300,
        .max_cols = 14336,
        .max_seqs = 80,
        .max_ctx = 1024,
        .n_heads = 32,
        .head_dim = 256,
    };
}

int gpu_setup(void **state)
{
    static struct gpu gpu;
    const struct lam_cuda_backend *backend;
    struct lam_kernel_config config = gpu_config();
    struct lam_device_facts facts;
    struct lam_err err = {0};
    void *arena;
    uint64_t workspace_bytes = lam_device_workspace_bytes(&config);

    gpu.cap_bytes = 512 * LAM_MIB;
    if (lam_cuda_open(gpu_folder, &backend, &err) != LAM_OK ||
        backend->ops->create(&config, &gpu.kernels, &err) != LAM_OK)
        goto fail;
    gpu.ops = backend->ops;
    gpu.device = backend->device;
    print_message("%s\n", gpu.ops->describe(gpu.kernels));
    if (gpu.device->facts(gpu.kernels, &facts, &err) != LAM_OK)
        goto fail;
    print_message("own memory %.1f MiB (%s)\n", (double)facts.own_bytes / (double)LAM_MIB,
        facts.own_is_exact ? "of this process" : "of the device");
    if (gpu.device->arena(gpu.kernels, UINT64_C(1) << 50, &arena, &err) != LAM_RESOURCE_EXHAUSTED)
        goto fail;
    if (gpu.device->arena(gpu.kernels, gpu.cap_bytes + workspace_bytes, &arena, &err) != LAM_OK)
        goto fail;
    gpu.arena = arena;
    gpu.device->workspace(gpu.kernels, gpu.arena + gpu.cap_bytes);
    if (gpu.device->facts(gpu.kernels, &facts, &err) != LAM_OK)
        goto fail;
    gpu.free_bytes = facts.free_bytes;
    gpu.ref = lam_kernels_ref();
    if (gpu.ref->create(&config, &gpu.ref_kernels, &err) != LAM_OK)
        goto fail;
    *state = &gpu;
    return 0;

fail:
    print_error("%s\n", err.text);
    return 1;
}

int gpu_teardown(void **state)
{
    struct gpu *gpu = *state;
    struct lam_device_facts facts;
    struct lam_err err = {0};

    if (gpu == NULL) /* setup failed */
        return 1;
    if (gpu->device->facts(gpu->kernels, &facts, &err) != LAM_OK)
        return 1;
    if (facts.free_bytes != gpu->free_bytes)
        print_error("free memory was %.1f MiB and is %.1f MiB: something was allocated late\n",
            (double)gpu->free_bytes / (double)LAM_MIB, (double)facts.free_bytes / (double)LAM_MIB);
    gpu->ops->destroy(gpu->kernels);
    gpu->ref->destroy(gpu->ref_kernels);
    return facts.free_bytes != gpu->free_bytes;
}

static void *take(struct gpu *gpu, uint64_t bytes, uint32_t skew)
{
    uint8_t guard[GUARD_BYTES];
    uint8_t *at = gpu->arena + gpu->used_bytes + GUARD_BYTES + skew;

    assert_true(gpu->n_buffers < GPU_BUFFERS_MAX);
    gpu->used_bytes += lam_align_up(bytes + skew + 2 * (uint64_t)GUARD_BYTES, 256);
    assert_true(gpu->used_bytes <= gpu->cap_bytes);
    memset(guard, GUARD, sizeof(guard));
    gpu->device->upload(gpu->kernels, at - GUARD_BYTES, guard, sizeof(guard));
    gpu->device->upload(gpu->kernels, at + bytes, guard, sizeof(guard));
    gpu->buffers[gpu->n_buffers] = at;
    gpu->buffer_bytes[gpu->n_buffers++] = bytes;
    return at;
}

void *gpu_put(struct gpu *gpu, const void *host, uint64_t bytes, uint32_t skew)
{
    void *at = take(gpu, bytes, skew);

    gpu->device->upload(gpu->kernels, at, host, bytes);
    return at;
}

float *gpu_floats(struct gpu *gpu, size_t n)
{
    float *host = twin_floats(n);
    float *at = gpu_put(gpu, host, n * sizeof(*host), 0);

    twin_free(host);
    return at;
}

void gpu_get(struct gpu *gpu, void *host, const void *device, uint64_t bytes)
{
    struct lam_err err = {0};

    gpu->device->download(gpu->kernels, host, device, bytes);
    gpu->device->mark_compute(gpu->kernels, 0);
    if (gpu->device->host_wait(gpu->kernels, 0, &err) != LAM_OK)
        fail_msg("%s", err.text);
}

void gpu_reset(struct gpu *gpu)
{
    uint8_t guard[GUARD_BYTES];

    for (uint32_t i = 0; i < gpu->n_buffers; i++) {
        for (uint32_t side = 0; side < 2; side++) {
            const uint8_t *at =
                side == 0 ? gpu->buffers[i] - GUARD_BYTES : gpu->buffers[i] + gpu->buffer_bytes[i];
            gpu_get(gpu, guard, at, sizeof(guard));
            for (size_t b = 0; b < sizeof(guard); b++) {
                if (guard[b] != GUARD)
                    fail_msg("buffer %u: byte %zu %s it was written", i, b,
                        side == 0 ? "of the guard before" : "behind");
            }
        }
    }
    gpu->n_buffers = 0;
    gpu->used_bytes = 0;
}
