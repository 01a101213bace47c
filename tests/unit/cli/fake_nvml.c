/* fake_nvml: see fake_nvml.h. Signatures: NVML's documentation. */
#include "tests/unit/cli/fake_nvml.h"

#include <stddef.h>

#define NOT_FOUND 6

struct process {
    unsigned int pid;
    unsigned long long used_bytes;
    unsigned int gpu_instance, compute_instance;
};

extern struct fake_nvml fake_nvml;
int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **ret_device);
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *ret_total_free_used);
int nvmlDeviceGetComputeRunningProcesses_v3(
    void *device, unsigned int *count, struct process *ret_processes);

struct fake_nvml fake_nvml;

int nvmlInit_v2(void)
{
    atomic_fetch_add(&fake_nvml.n_open, 1);
    return 0;
}

int nvmlShutdown(void)
{
    atomic_fetch_sub(&fake_nvml.n_open, 1);
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **ret_device)
{
    *ret_device = &fake_nvml;
    return index == 0 ? 0 : NOT_FOUND;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *ret_total_free_used)
{
    (void)device;
    ret_total_free_used[2] = atomic_load(&fake_nvml.used_bytes);
    atomic_fetch_add(&fake_nvml.n_reads, 1);
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(
    void *device, unsigned int *count, struct process *ret_processes)
{
    unsigned int n = atomic_load(&fake_nvml.n_processes);

    (void)device;
    for (unsigned int i = 0; i < n && i < *count; i++)
        ret_processes[i] =
            (struct process){.pid = 100 + i, .used_bytes = atomic_load(&fake_nvml.process_bytes)};
    *count = n;
    atomic_fetch_add(&fake_nvml.n_reads, 1);
    return 0;
}
