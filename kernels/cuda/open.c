/* open: see open.h. */
#include "kernels/cuda/open.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "liblaminar-cuda.so"

/* Beside the executable, in an installed tree, in a tree that Bazel built. */
static const char *const places[] = {".", "../lib", "../kernels/cuda"};

typedef const struct lam_cuda_backend *(*entry_fn)(uint32_t abi);

static enum lam_status load(
    const char *path, const struct lam_cuda_backend **ret_backend, struct lam_err *err)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    entry_fn entry;

    if (library == NULL)
        return lam_fail(err, LAM_UNAVAILABLE,
            "the GPU backend cannot be loaded: %s; repair it or use --device cpu", dlerror());
    void *symbol = dlsym(library, "lam_kernels_cuda");
    memcpy(&entry, &symbol, sizeof(entry)); /* dlsym's result is no function pointer in ISO C */
    const struct lam_cuda_backend *backend = symbol != NULL ? entry(LAM_CUDA_ABI) : NULL;
    if (backend == NULL) {
        (void)dlclose(library);
        return lam_fail(err, LAM_FAILED_PRECONDITION,
            "%s is of another version of Laminar; install the one that came with this program, or "
            "use --device cpu",
            path);
    }
    *ret_backend = backend;
    return LAM_OK;
}

static enum lam_status program_folder(char *ret_folder, size_t folder_bytes, struct lam_err *err)
{
    ssize_t length = readlink("/proc/self/exe", ret_folder, folder_bytes - 1);

    if (length < 0)
        return lam_fail_errno(err, errno, "cannot find the folder of this program");
    ret_folder[length] = '\0';
    char *slash = strrchr(ret_folder, '/');
    if (slash != NULL)
        *slash = '\0';
    return LAM_OK;
}

enum lam_status lam_cuda_open(
    const char *folder, const struct lam_cuda_backend **ret_backend, struct lam_err *err)
{
    char own[PATH_MAX];
    char path[PATH_MAX + 64];
    size_t n_places = folder != NULL ? 1 : sizeof(places) / sizeof(places[0]);

    if (folder == NULL) {
        enum lam_status status = program_folder(own, sizeof(own), err);
        if (status != LAM_OK)
            return status;
    }
    for (size_t i = 0; i < n_places; i++) {
        int length = snprintf(path, sizeof(path), "%s/%s/" LIBRARY, folder != NULL ? folder : own,
            folder != NULL ? "." : places[i]);
        if (length > 0 && (size_t)length < sizeof(path) && access(path, F_OK) == 0)
            return load(path, ret_backend, err);
    }
    return lam_fail(err, LAM_NOT_FOUND,
        "there is no GPU backend: " LIBRARY " is not in %s%s; install it there or use --device cpu",
        folder != NULL ? folder : own, folder != NULL ? "" : " or ../lib of it");
}
