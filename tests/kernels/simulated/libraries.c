/* libraries: see libraries.h. NVML's functions are declared as in kernels/cuda/memory_use.c. */
#include "tests/kernels/simulated/libraries.h"

#include <cublasLt.h>
#include <string.h>
#include <unistd.h>

#include "tests/kernels/simulated/memory.h"

struct nvml_memory {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
};

struct nvml_process {
    unsigned int pid;
    unsigned long long used_bytes;
    unsigned int gpu_instance;
    unsigned int compute_instance;
};

enum { NVML_SUCCESS = 0, NVML_INSUFFICIENT_SIZE = 7 };

static int nvml_nothing(void)
{
    return NVML_SUCCESS;
}

static int nvml_device(const char *pci_bus_id, void **ret_device)
{
    static char device;

    (void)pci_bus_id;
    *ret_device = &device;
    return NVML_SUCCESS;
}

static int nvml_memory_info(void *device, struct nvml_memory *ret_memory)
{
    (void)device;
    ret_memory->total = SIM_TOTAL_BYTES;
    ret_memory->used = sim_memory_held();
    ret_memory->free = SIM_TOTAL_BYTES - ret_memory->used;
    return NVML_SUCCESS;
}

static int nvml_processes(void *device, unsigned int *count, struct nvml_process *ret_processes)
{
    (void)device;
    if (*count < 1)
        return NVML_INSUFFICIENT_SIZE;
    *count = 1;
    ret_processes[0] = (struct nvml_process){(unsigned int)getpid(), sim_memory_held(), 0, 0};
    return NVML_SUCCESS;
}

typedef void (*any_fn)(void);

static const struct {
    const char *name;
    any_fn function;
} symbols[] = {
    {"cublasLtCreate", (any_fn)cublasLtCreate},
    {"cublasLtDestroy", (any_fn)cublasLtDestroy},
    {"cublasLtGetVersion", (any_fn)cublasLtGetVersion},
    {"cublasLtMatmulDescCreate", (any_fn)cublasLtMatmulDescCreate},
    {"cublasLtMatmulDescDestroy", (any_fn)cublasLtMatmulDescDestroy},
    {"cublasLtMatmulDescSetAttribute", (any_fn)cublasLtMatmulDescSetAttribute},
    {"cublasLtMatrixLayoutCreate", (any_fn)cublasLtMatrixLayoutCreate},
    {"cublasLtMatrixLayoutDestroy", (any_fn)cublasLtMatrixLayoutDestroy},
    {"cublasLtMatrixLayoutSetAttribute", (any_fn)cublasLtMatrixLayoutSetAttribute},
    {"cublasLtMatmulPreferenceCreate", (any_fn)cublasLtMatmulPreferenceCreate},
    {"cublasLtMatmulPreferenceDestroy", (any_fn)cublasLtMatmulPreferenceDestroy},
    {"cublasLtMatmulPreferenceSetAttribute", (any_fn)cublasLtMatmulPreferenceSetAttribute},
    {"cublasLtMatmulAlgoGetHeuristic", (any_fn)cublasLtMatmulAlgoGetHeuristic},
    {"cublasLtMatmulAlgoCheck", (any_fn)cublasLtMatmulAlgoCheck},
    {"cublasLtMatmul", (any_fn)cublasLtMatmul},
    {"nvmlInit_v2", (any_fn)nvml_nothing},
    {"nvmlShutdown", (any_fn)nvml_nothing},
    {"nvmlDeviceGetHandleByPciBusId_v2", (any_fn)nvml_device},
    {"nvmlDeviceGetMemoryInfo", (any_fn)nvml_memory_info},
    {"nvmlDeviceGetComputeRunningProcesses_v3", (any_fn)nvml_processes},
};

void *sim_dlopen(const char *name, int flags)
{
    static char library;

    (void)flags;
    return strncmp(name, "libcublasLt.so.", 15) == 0 || strncmp(name, "libnvidia-ml.so.", 16) == 0
               ? &library
               : NULL;
}

void *sim_dlsym(void *library, const char *name)
{
    void *symbol = NULL;

    (void)library;
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        if (strcmp(name, symbols[i].name) == 0)
            memcpy(&symbol, &symbols[i].function, sizeof(symbol));
    }
    return symbol;
}

int sim_dlclose(void *library)
{
    (void)library;
    return 0;
}
