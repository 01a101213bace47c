/*
 * memory_use: see memory_use.h. The toolkit may come without nvml.h, and NVML is part of the
 * driver: it is opened at run time, and the five functions are declared here from their
 * documentation.
 */
#include "kernels/cuda/memory_use.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

enum { NVML_SUCCESS = 0, PROCESSES_MAX = 256 };

struct nvml_memory {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
};

struct nvml_process {
    unsigned int pid;
    unsigned long long used_bytes; /* all ones: not known */
    unsigned int gpu_instance;
    unsigned int compute_instance;
};

typedef int (*init_fn)(void);
typedef int (*device_by_bus_fn)(const char *pci_bus_id, void **ret_device);
typedef int (*memory_fn)(void *device, struct nvml_memory *ret_memory);
typedef int (*processes_fn)(void *device, unsigned int *count, struct nvml_process *ret_processes);

/* The function `name`, stored through `to` (dlsym's result is no function pointer in ISO C). */
static bool find(void *library, const char *name, void *to)
{
    void *symbol = dlsym(library, name);

    memcpy(to, &symbol, sizeof(symbol));
    return symbol != NULL;
}

static bool used_bytes(const struct lam_cuda_memory_use *use, uint64_t *ret_bytes)
{
    struct nvml_memory memory;
    memory_fn read;

    if (!find(use->library, "nvmlDeviceGetMemoryInfo", &read) ||
        read(use->device, &memory) != NVML_SUCCESS)
        return false;
    *ret_bytes = memory.used;
    return true;
}

static bool process_bytes(const struct lam_cuda_memory_use *use, uint64_t *ret_bytes)
{
    struct nvml_process processes[PROCESSES_MAX];
    unsigned int count = PROCESSES_MAX;
    processes_fn read;

    if (!find(use->library, "nvmlDeviceGetComputeRunningProcesses_v3", &read) ||
        read(use->device, &count, processes) != NVML_SUCCESS)
        return false;
    for (unsigned int i = 0; i < count; i++) {
        if (processes[i].pid == (unsigned int)getpid() && processes[i].used_bytes != ~0ull) {
            *ret_bytes = processes[i].used_bytes;
            return true;
        }
    }
    return false;
}

void lam_cuda_memory_use_begin(struct lam_cuda_memory_use *use, const char *pci_bus_id)
{
    init_fn init;
    device_by_bus_fn device_by_bus;

    memset(use, 0, sizeof(*use));
    use->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (use->library == NULL)
        return;
    if (!find(use->library, "nvmlInit_v2", &init) ||
        !find(use->library, "nvmlDeviceGetHandleByPciBusId_v2", &device_by_bus) ||
        init() != NVML_SUCCESS || device_by_bus(pci_bus_id, &use->device) != NVML_SUCCESS ||
        !used_bytes(use, &use->before_bytes))
        lam_cuda_memory_use_end(use);
}

bool lam_cuda_memory_use_read(
    const struct lam_cuda_memory_use *use, uint64_t *ret_bytes, bool *ret_exact)
{
    uint64_t now_bytes;

    if (use->library == NULL)
        return false;
    *ret_exact = process_bytes(use, ret_bytes);
    if (*ret_exact)
        return true;
    if (!used_bytes(use, &now_bytes) || now_bytes < use->before_bytes)
        return false;
    *ret_bytes = now_bytes - use->before_bytes;
    return true;
}

void lam_cuda_memory_use_end(struct lam_cuda_memory_use *use)
{
    init_fn shutdown;

    if (use->library == NULL)
        return;
    if (find(use->library, "nvmlShutdown", &shutdown))
        (void)shutdown();
    (void)dlclose(use->library);
    memset(use, 0, sizeof(*use));
}
