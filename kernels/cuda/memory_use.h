/*
 * memory_use: how much device memory a process holds, as the driver's management library (NVML)
 * sees it: the only reading that includes the CUDA context itself.
 */
#ifndef LAMINAR_KERNELS_CUDA_MEMORY_USE_H
#define LAMINAR_KERNELS_CUDA_MEMORY_USE_H

#include <stdbool.h>
#include <stdint.h>

struct lam_cuda_memory_use {
    void *library;
    void *device;
    uint64_t before_bytes; /* of the whole device, at begin */
};

/* Before the CUDA context exists. pci_bus_id: of the device. Without the library all readings
 * fail. */
void lam_cuda_memory_use_begin(struct lam_cuda_memory_use *use, const char *pci_bus_id);

/* Bytes of this process; *ret_exact when the driver names our process, else the growth of the whole
 * device since begin (containers hide process numbers). False: cannot be read. */
bool lam_cuda_memory_use_read(
    const struct lam_cuda_memory_use *use, uint64_t *ret_bytes, bool *ret_exact);

void lam_cuda_memory_use_end(struct lam_cuda_memory_use *use);

#endif
