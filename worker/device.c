/* device: see device.h. */
#include "worker/device.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/flag.h"
#include "kernels/cuda/open.h"

#define INDEX_MAX 63

static struct lam_device_choice cpu_choice(const char *kernels)
{
    return (struct lam_device_choice){.name = "cpu", .ops = lam_kernels_by_name(kernels)};
}

static enum lam_status open_cuda(
    const char *library, uint32_t index, struct lam_device_choice *choice, struct lam_err *err)
{
    const struct lam_cuda_backend *backend;
    enum lam_status status = lam_cuda_open(library, &backend, err);

    if (status != LAM_OK)
        return status;
    *choice =
        (struct lam_device_choice){.ops = backend->ops, .device = backend->device, .index = index};
    snprintf(choice->name, sizeof choice->name, "cuda:%" PRIu32, index);
    return LAM_OK;
}

/* Whether a GPU answers, with the least that there is to be made. */
static enum lam_status try_gpu(const struct lam_device_choice *choice, struct lam_err *err)
{
    const struct lam_kernel_config shapes = {.n_threads = 1,
        .max_rows = 1,
        .max_cols = 256,
        .max_seqs = 1,
        .max_ctx = 64,
        .n_heads = 1,
        .head_dim = 64,
        .device = choice->index};
    struct lam_kernels *kernels;
    enum lam_status status = choice->ops->create(&shapes, &kernels, err);

    if (status == LAM_OK)
        choice->ops->destroy(kernels);
    return status;
}

static void choose_auto(
    const char *cpu_kernels, const char *library, struct lam_device_choice *ret_choice)
{
    struct lam_device_choice choice;
    struct lam_err why = {0};

    if (open_cuda(library, 0, &choice, &why) == LAM_OK && try_gpu(&choice, &why) == LAM_OK) {
        snprintf(choice.why, sizeof choice.why, "computing on cuda:0 (auto)");
    } else {
        choice = cpu_choice(cpu_kernels);
        snprintf(choice.why, sizeof choice.why, "computing on cpu (auto): %.360s", why.text);
    }
    *ret_choice = choice;
}

enum lam_status lam_device_choose(const char *name, const char *cpu_kernels, const char *library,
    struct lam_device_choice *ret_choice, struct lam_err *err)
{
    static const char prefix[] = "cuda:";
    struct lam_err why = {0};
    enum lam_status status;
    int64_t index;

    if (strcmp(name, "auto") == 0) {
        choose_auto(cpu_kernels, library, ret_choice);
        return LAM_OK;
    }
    if (strcmp(name, "cpu") == 0) {
        *ret_choice = cpu_choice(cpu_kernels);
        return LAM_OK;
    }
    if (strncmp(name, prefix, sizeof prefix - 1) != 0 ||
        !lam_int_parse(name + sizeof prefix - 1, 0, INDEX_MAX, &index))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--device: '%.64s' is no device; write cpu, auto, or cuda:N for GPU number N", name);
    status = open_cuda(library, (uint32_t)index, ret_choice, &why);
    if (status != LAM_OK)
        return lam_fail(err, status, "--device %s: %s", name, why.text);
    return LAM_OK;
}
