/* device: what a worker relies on beside the operations: refusals, transfers, pinned pools, marks.
 * */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/mem.h"
#include "common/size.h"
#include "tests/kernels/cuda_twins/gpu.h"

void test_wrong_device(void **state)
{
    struct gpu *gpu = *state;
    struct lam_kernel_config config = gpu_config();
    struct lam_kernels *kernels = NULL;
    struct lam_err err = {0};

    config.device = 99;
    assert_int_equal(gpu->ops->create(&config, &kernels, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "GPU 99"));
    assert_non_null(strstr(err.text, "--device cpu"));
    assert_null(kernels);
}

/* Uploads larger and smaller than the staging buffer, the source overwritten at once. */
void test_transfers(void **state)
{
    static const uint64_t sizes[] = {1, 255, 4096, 3000001, 2 * LAM_MIB, 9 * LAM_MIB + 13};
    struct gpu *gpu = *state;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint8_t *host = lam_calloc(sizes[i], 1);
        assert_non_null(host);
        for (uint64_t b = 0; b < sizes[i]; b++)
            host[b] = (uint8_t)(b * 131 >> 3);
        uint8_t *at = gpu_put(gpu, host, sizes[i], i % 2 == 0 ? 0 : 1);
        memset(host, 0, sizes[i]);
        gpu_get(gpu, host, at, sizes[i]);
        for (uint64_t b = 0; b < sizes[i]; b++)
            assert_int_equal(host[b], (uint8_t)(b * 131 >> 3));
        lam_free(host);
        gpu_reset(gpu);
    }
}

/* A pool as the loader hands it over: a memfd that only its owner may write, mapped read-only. */
void test_pinned_copies(void **state)
{
    enum { MARK = 7 };
    const uint64_t bytes = 64 * LAM_MIB;
    struct gpu *gpu = *state;
    struct lam_err err = {0};
    int fd = memfd_create("pool", MFD_CLOEXEC);
    uint8_t *check = lam_calloc(bytes, 1);

    assert_true(fd >= 0 && check != NULL && ftruncate(fd, (off_t)bytes) == 0);
    uint8_t *writer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const uint8_t *pool = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(writer != MAP_FAILED && pool != MAP_FAILED);
    for (uint64_t i = 0; i < bytes; i += 4)
        memcpy(writer + i, &(uint32_t){(uint32_t)i * 2654435761u}, 4);
    if (gpu->device->pin(gpu->kernels, pool, bytes, &err) != LAM_OK)
        fail_msg("%s", err.text);
    uint8_t *slot = gpu_put(gpu, check, bytes, 0);
    gpu->device->mark_compute(gpu->kernels, MARK);
    gpu->device->copy_wait(gpu->kernels, MARK);
    gpu->device->copy_in(gpu->kernels, slot, pool, bytes);
    gpu->device->mark_copy(gpu->kernels, MARK);
    gpu->device->compute_wait(gpu->kernels, MARK);
    gpu_get(gpu, check, slot, bytes);
    assert_true(gpu->device->reached(gpu->kernels, MARK));
    assert_memory_equal(check, pool, bytes);
    gpu->device->unpin(gpu->kernels, pool);
    gpu_reset(gpu);
    assert_int_equal(munmap(writer, bytes), 0);
    assert_int_equal(munmap((void *)(uintptr_t)pool, bytes), 0);
    assert_int_equal(close(fd), 0);
    lam_free(check);
}

/* Marks bound the work between them, also when it has not run yet; one never set is reached. */
void test_marks(void **state)
{
    enum { BEGIN = 10, END = 11, NEVER = LAM_DEVICE_MARKS - 1 };
    struct gpu *gpu = *state;
    struct lam_err err = {0};
    void *pinned;

    assert_true(gpu->device->reached(gpu->kernels, NEVER));
    assert_int_equal(gpu->device->host_wait(gpu->kernels, NEVER, &err), LAM_OK);
    assert_int_equal(gpu->device->host_memory(gpu->kernels, 64 * LAM_MIB, &pinned, &err), LAM_OK);
    uint8_t *at = gpu_put(gpu, pinned, 64 * LAM_MIB, 0);
    gpu->device->mark_compute(gpu->kernels, BEGIN);
    gpu->device->download(gpu->kernels, pinned, at, 64 * LAM_MIB);
    gpu->device->mark_compute(gpu->kernels, END);
    assert_false(gpu->device->reached(gpu->kernels, END)); /* 64 MiB take a millisecond */
    assert_int_equal(gpu->device->host_wait(gpu->kernels, END, &err), LAM_OK);
    assert_true(gpu->device->reached(gpu->kernels, END));
    uint64_t ns = gpu->device->elapsed_ns(gpu->kernels, BEGIN, END);
    assert_true(ns > 100000 && ns < 10000000000u);
    gpu_reset(gpu);
}
