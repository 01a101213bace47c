/* gpu_watch: see gpu_watch.h. NVML's functions are declared here from their documentation: its
 * header comes with toolkits only. */
#include "cli/gpu_watch.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"

#define LIBRARY "libnvidia-ml.so.1"
#define PERIOD_NS (20 * LAM_NS_PER_MS)
#define PROCESSES_MAX 64
#define PATH_BYTES 512
#define NVML_SUCCESS 0

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_process {
    unsigned int pid;
    unsigned long long used_bytes; /* all ones: not known */
    unsigned int gpu_instance, compute_instance;
};

struct nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    int (*device_by_index)(unsigned int index, void **ret_device);
    int (*memory)(void *device, struct nvml_memory *ret_memory);
    int (*processes)(void *device, unsigned int *count, struct nvml_process *ret_processes);
};

struct lam_gpu_watch {
    struct nvml nvml;
    void *device;
    uint64_t before_bytes;
    pthread_t thread;
    bool has_thread;
    atomic_bool stop;
    pthread_mutex_t lock; /* of what follows */
    uint64_t peak_bytes;
    bool exact;
};

/* dlsym's result is no function pointer in ISO C. */
static bool find(void *library, const char *name, void *to)
{
    void *symbol = dlsym(library, name);

    memcpy(to, &symbol, sizeof symbol);
    return symbol != NULL;
}

static bool open_library(const char *folder, struct nvml *nvml)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof path, "%s%s" LIBRARY, folder ? folder : "", folder ? "/" : "");
    nvml->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!nvml->library)
        return false;
    if (find(nvml->library, "nvmlInit_v2", &nvml->init) &&
        find(nvml->library, "nvmlShutdown", &nvml->shutdown) &&
        find(nvml->library, "nvmlDeviceGetHandleByIndex_v2", &nvml->device_by_index) &&
        find(nvml->library, "nvmlDeviceGetMemoryInfo", &nvml->memory) &&
        find(nvml->library, "nvmlDeviceGetComputeRunningProcesses_v3", &nvml->processes) &&
        nvml->init() == NVML_SUCCESS)
        return true;
    dlclose(nvml->library);
    return false;
}

static bool read_used(const struct lam_gpu_watch *watch, uint64_t *ret_bytes)
{
    struct nvml_memory memory;

    if (watch->nvml.memory(watch->device, &memory) != NVML_SUCCESS)
        return false;
    *ret_bytes = memory.used;
    return true;
}

/* The only process on the GPU, when its bytes are known. */
static bool read_alone(const struct lam_gpu_watch *watch, uint64_t *ret_bytes)
{
    struct nvml_process processes[PROCESSES_MAX];
    unsigned int n = PROCESSES_MAX;

    if (watch->nvml.processes(watch->device, &n, processes) != NVML_SUCCESS || n != 1 ||
        processes[0].used_bytes == ~0ull || processes[0].used_bytes == 0)
        return false;
    *ret_bytes = processes[0].used_bytes;
    return true;
}

static void sample(struct lam_gpu_watch *watch)
{
    uint64_t bytes = 0;
    bool exact = read_alone(watch, &bytes);
    bool known = exact;

    if (!known && read_used(watch, &bytes) && bytes > watch->before_bytes) {
        bytes -= watch->before_bytes;
        known = true;
    }
    pthread_mutex_lock(&watch->lock);
    if (known && (exact > watch->exact || (exact == watch->exact && bytes > watch->peak_bytes))) {
        watch->peak_bytes = bytes;
        watch->exact = exact;
    }
    pthread_mutex_unlock(&watch->lock);
}

static void *watch_memory(void *arg)
{
    struct lam_gpu_watch *watch = arg;

    while (!atomic_load(&watch->stop)) {
        sample(watch);
        lam_sleep_ns(PERIOD_NS);
    }
    return NULL;
}

/* With all signals blocked: they are for the threads that expect them. */
static bool start_thread(struct lam_gpu_watch *watch)
{
    sigset_t all;
    sigset_t before;
    bool started;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    started = pthread_create(&watch->thread, NULL, watch_memory, watch) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

struct lam_gpu_watch *lam_gpu_watch_start(const char *folder, uint32_t index)
{
    struct lam_gpu_watch *watch = lam_calloc(1, sizeof *watch);

    if (!watch)
        return NULL;
    if (!open_library(folder, &watch->nvml)) {
        lam_free(watch);
        return NULL;
    }
    pthread_mutex_init(&watch->lock, NULL);
    if (watch->nvml.device_by_index(index, &watch->device) == NVML_SUCCESS &&
        read_used(watch, &watch->before_bytes))
        watch->has_thread = start_thread(watch);
    if (!watch->has_thread) {
        lam_gpu_watch_stop(watch);
        return NULL;
    }
    return watch;
}

uint64_t lam_gpu_watch_peak(struct lam_gpu_watch *watch, bool *ret_exact)
{
    uint64_t bytes;

    pthread_mutex_lock(&watch->lock);
    bytes = watch->peak_bytes;
    *ret_exact = watch->exact;
    pthread_mutex_unlock(&watch->lock);
    return bytes;
}

void lam_gpu_watch_stop(struct lam_gpu_watch *watch)
{
    if (!watch)
        return;
    atomic_store(&watch->stop, true);
    if (watch->has_thread)
        pthread_join(watch->thread, NULL);
    (void)watch->nvml.shutdown();
    dlclose(watch->nvml.library);
    pthread_mutex_destroy(&watch->lock);
    lam_free(watch);
}
