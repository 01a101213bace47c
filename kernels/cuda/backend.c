/*
 * backend: the table of operations on a CUDA device: checks the shapes, chooses the kernel, queues
 * it. Products of few rows are gemv*.cu, those of more rows matmul_many.c.
 *
 * Some calls are kept back for the ones behind them (kept.c); all others queue those first.
 *
 * create leaves nothing to be loaded later: the memory that the process holds after it stays.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/cuda/arrange_matrix.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/kept.h"
#include "kernels/cuda/matmul_many.h"
#include "kernels/cuda/open.h"

/* What a launcher returned; call: what it was, for people. */
static void queued(struct lam_kernels *kernels, int error, const char *call)
{
    lam_cuda_note(kernels, (cudaError_t)error, call);
}

static void cuda_dequant(struct lam_kernels *kernels, const struct lam_dequant_args *args)
{
    assert(args->n_cols <= kernels->config.max_cols);
    lam_cuda_flush(kernels);
    if (args->n_rows > 0)
        queued(kernels, lam_cuda_dequant(kernels->compute, &kernels->chip, args), "dequant");
}

static void cuda_rms_norm(struct lam_kernels *kernels, const struct lam_rms_norm_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows);
    void *rounded =
        lam_cuda_round_into(kernels, args->out, args->n_rows, args->n_cols, args->product_only);
    if (rounded != NULL) {
        lam_cuda_flush(kernels);
        queued(kernels, lam_cuda_rms_norm_rounded(kernels->compute, &kernels->chip, args, rounded),
            "rms_norm");
    } else if (args->n_rows > 0) {
        lam_cuda_keep_norm(kernels, args);
    }
}

/* Depends on the number of rows and on the matrices alone: a row's bits do so too. */
static bool is_of_few_rows(const struct lam_matmul_args *args)
{
    bool many = args->n_rows > LAM_CUDA_GEMV_ROWS_ONCE;

    for (uint32_t i = 0; i < args->n_mats; i++)
        many = many && lam_cuda_gemm64_takes(args->mats[i].dtype, args->n_cols);
    return args->n_rows <= LAM_CUDA_GEMV_ROWS && !many;
}

static void cuda_matmul(struct lam_kernels *kernels, const struct lam_matmul_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows && args->n_cols <= kernels->config.max_cols);
    assert(args->n_mats >= 1 && args->n_mats <= 3);
    if (args->n_rows == 0)
        return;
    assert(kernels->rows != NULL);
    if (is_of_few_rows(args)) {
        lam_cuda_keep_product(kernels, args);
        return;
    }
    lam_cuda_flush(kernels);
    lam_cuda_matmul_many(kernels, args);
}

static void cuda_rope_table(struct lam_kernels *kernels, const struct lam_rope_table_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows && args->rope_dim % 2 == 0);
    lam_cuda_flush(kernels);
    if (args->n_rows > 0 && args->rope_dim > 0)
        queued(kernels, lam_cuda_rope_table(kernels->compute, &kernels->chip, args), "rope_table");
}

static void cuda_rope(struct lam_kernels *kernels, const struct lam_rope_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows && args->rope_dim <= args->head_dim);
    if (args->n_rows == 0 || args->rope_dim == 0)
        return;
    lam_cuda_keep_rope(kernels, args);
}

static void check_cache(const struct lam_kv_layer *kv)
{
    assert(kv->dtype == LAM_F16 || kv->dtype == LAM_F32 ||
           (kv->dtype == LAM_Q8_0 && kv->head_dim % 32 == 0));
}

static void cuda_kv_write(struct lam_kernels *kernels, const struct lam_kv_write_args *args)
{
    assert(args->n_seqs <= kernels->config.max_seqs);
    check_cache(&args->kv);
    lam_cuda_take_kv_write(kernels, args);
}

static void cuda_attention(struct lam_kernels *kernels, const struct lam_attention_args *args)
{
    uint64_t n_rows = 0;

    assert(args->n_seqs <= kernels->config.max_seqs);
    assert(args->n_heads <= kernels->config.n_heads && args->n_heads % args->kv.n_kv_heads == 0);
    assert(args->kv.head_dim <= kernels->config.head_dim);
    check_cache(&args->kv);
    for (uint32_t s = 0; s < args->n_seqs; s++) {
        assert(args->seqs[s].pos_begin + args->seqs[s].n_rows <= kernels->config.max_ctx);
        n_rows += args->seqs[s].n_rows;
    }
    bool fits = lam_cuda_attention_fits(&args->kv);
    void *rounded = lam_cuda_round_into(
        kernels, args->out, n_rows, args->n_heads * args->kv.head_dim, args->product_only && fits);
    lam_cuda_flush(kernels);
    if (fits) {
        assert(kernels->splits != NULL);
        queued(kernels,
            lam_cuda_attention(kernels->compute, &kernels->chip, args, kernels->split_tokens,
                (float *)(void *)kernels->splits, kernels->arrived, rounded),
            "attention");
    } else {
        queued(
            kernels, lam_cuda_attention_any(kernels->compute, &kernels->chip, args), "attention");
    }
}

static void cuda_swiglu(struct lam_kernels *kernels, const struct lam_swiglu_args *args)
{
    uint64_t n_rows = args->product_cols > 0 ? args->n / args->product_cols : 0;
    void *rounded =
        lam_cuda_round_into(kernels, args->out, n_rows, args->product_cols, args->product_cols > 0);

    if (rounded != NULL) {
        lam_cuda_flush(kernels);
        queued(kernels, lam_cuda_swiglu_rounded(kernels->compute, &kernels->chip, args, rounded),
            "swiglu");
    } else if (args->n > 0) {
        lam_cuda_take_swiglu(kernels, args);
    }
}

static void cuda_argmax(struct lam_kernels *kernels, const struct lam_argmax_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows);
    assert(args->n_cols >= 1 && args->n_cols <= INT32_MAX);
    lam_cuda_flush(kernels);
    if (args->n_rows > 0)
        queued(kernels, lam_cuda_argmax(kernels->compute, &kernels->chip, args), "argmax");
}

static const char *cuda_describe(const struct lam_kernels *kernels)
{
    return kernels->description;
}

static void cuda_destroy(struct lam_kernels *kernels)
{
    if (kernels == NULL)
        return;
    lam_cuda_device_done(kernels);
    lam_cuda_blas_destroy(kernels->blas);
    lam_cuda_memory_use_end(&kernels->use);
    lam_free(kernels);
}

/* The device exists and runs code that this library was built for. */
static enum lam_status choose_device(
    struct lam_kernels *kernels, char *ret_bus_id, int bus_id_bytes, struct lam_err *err)
{
    int n_devices = 0;
    int device = (int)kernels->config.device;
    cudaError_t error = cudaGetDeviceCount(&n_devices);

    if (error != cudaSuccess)
        return lam_fail(err, LAM_UNAVAILABLE,
            "no NVIDIA GPU can be used: %s; install a driver for CUDA 13 or newer, or use "
            "--device cpu",
            cudaGetErrorString(error));
    if (device >= n_devices)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "there is no GPU %d: this process sees %d; use --device cuda:0%s or --device cpu",
            device, n_devices, n_devices > 1 ? ".." : "");
    error = cudaDeviceGetPCIBusId(ret_bus_id, bus_id_bytes, device);
    if (error != cudaSuccess)
        return lam_fail(err, LAM_UNAVAILABLE, "GPU %d does not answer: %s; use --device cpu",
            device, cudaGetErrorString(error));
    return LAM_OK;
}

/* Makes the context and reads what launchers must know. */
static enum lam_status open_device(struct lam_kernels *kernels, struct lam_err *err)
{
    int device = (int)kernels->config.device;
    int major = 0, minor = 0, n_sms = 0, block_smem = 0, sm_smem = 0;
    struct cudaDeviceProp properties;
    cudaError_t error = cudaSetDevice(device);

    if (error == cudaSuccess)
        error = cudaFree(NULL); /* the context is there from here on */
    if (error == cudaSuccess)
        error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess)
        return lam_fail(err, LAM_UNAVAILABLE, "GPU %d cannot be opened: %s; use --device cpu",
            device, cudaGetErrorString(error));
    major = properties.major;
    minor = properties.minor;
    n_sms = properties.multiProcessorCount;
    block_smem = (int)properties.sharedMemPerBlockOptin;
    sm_smem = (int)properties.sharedMemPerMultiprocessor;
    memcpy(kernels->name, properties.name, sizeof(kernels->name) - 1);
    if (major < 8)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "GPU %d (%s) has compute capability %d.%d and 8.0 is needed; use --device cpu", device,
            kernels->name, major, minor);
    kernels->chip = (struct lam_cuda_chip){
        .architecture = (uint32_t)(major * 10 + minor),
        .n_sms = (uint32_t)n_sms,
        .block_smem_bytes = (uint32_t)block_smem,
        .sm_smem_bytes = (uint32_t)sm_smem,
    };
    kernels->split_tokens =
        lam_cuda_attention_split(&kernels->chip, kernels->config.head_dim, kernels->config.max_ctx);
    return LAM_OK;
}

/* Loads every kernel. */
static enum lam_status prepare(const struct lam_kernels *kernels, struct lam_err *err)
{
    const struct lam_cuda_chip *chip = &kernels->chip;
    int error = lam_cuda_prepare_dequant();

    error = error != 0 ? error : lam_cuda_prepare_rms_norm();
    error = error != 0 ? error : lam_cuda_prepare_rope();
    error = error != 0 ? error : lam_cuda_prepare_kv_write();
    error = error != 0 ? error : lam_cuda_prepare_rope_kv();
    error = error != 0 ? error : lam_cuda_prepare_swiglu();
    error = error != 0 ? error : lam_cuda_prepare_argmax();
    error = error != 0 ? error : lam_cuda_prepare_gemv_float(chip);
    error = error != 0 ? error : lam_cuda_prepare_gemv_block(chip);
    error = error != 0 ? error : lam_cuda_prepare_gemv_super(chip);
    error = error != 0 ? error : lam_cuda_prepare_gemv_arranged(chip);
    error = error != 0 ? error : lam_cuda_prepare_gemm64();
    error = error != 0 ? error : lam_cuda_prepare_pack();
    error = error != 0 ? error : lam_cuda_prepare_pack_arranged();
    error = error != 0 ? error : lam_cuda_prepare_arrange();
    error = error != 0 ? error : lam_cuda_prepare_gemm(chip);
    error = error != 0 ? error : lam_cuda_prepare_attention(chip);
    error = error != 0 ? error : lam_cuda_prepare_attention_any();
    error = error != 0 ? error : lam_cuda_prepare_probe();
    if (error == 0)
        return LAM_OK;
    return lam_fail(err, LAM_UNAVAILABLE,
        "the kernels cannot be loaded on GPU %u (%s, architecture %u): %s; use --device cpu",
        kernels->config.device, kernels->name, chip->architecture,
        cudaGetErrorString((cudaError_t)error));
}

static void measure_own(struct lam_kernels *kernels)
{
    size_t free_bytes = 0, total_bytes = 0;

    if (lam_cuda_memory_use_read(&kernels->use, &kernels->own_bytes, &kernels->own_is_exact))
        return;
    if (cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess)
        kernels->own_bytes = total_bytes - free_bytes;
}

static void describe(struct lam_kernels *kernels)
{
    int length = snprintf(kernels->description, sizeof(kernels->description),
        "cuda:%u %s, %u multiprocessors, compute capability %u.%u", kernels->config.device,
        kernels->name, kernels->chip.n_sms, kernels->chip.architecture / 10,
        kernels->chip.architecture % 10);
    size_t used = length > 0 ? (size_t)length : 0;

    if (used >= sizeof(kernels->description))
        return;
    if (kernels->blas == NULL) {
        (void)snprintf(kernels->description + used, sizeof(kernels->description) - used,
            ", no cuBLAS: prompts take longer");
        return;
    }
    uint64_t version = lam_cuda_blas_version(kernels->blas);
    (void)snprintf(kernels->description + used, sizeof(kernels->description) - used,
        ", cuBLAS %u.%u", (unsigned int)(version / 10000), (unsigned int)(version / 100 % 100));
}

static enum lam_status cuda_create(
    const struct lam_kernel_config *config, struct lam_kernels **ret_kernels, struct lam_err *err)
{
    struct lam_kernels *kernels = lam_calloc(1, sizeof(*kernels));
    enum lam_status status;
    char bus_id[32];

    if (kernels == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the GPU's context");
    kernels->config = *config;
    status = choose_device(kernels, bus_id, sizeof(bus_id), err);
    if (status != LAM_OK)
        goto fail;
    lam_cuda_memory_use_begin(&kernels->use, bus_id);
    status = open_device(kernels, err);
    if (status == LAM_OK)
        status = prepare(kernels, err);
    if (status == LAM_OK)
        status = lam_cuda_device_init(kernels, err);
    if (status == LAM_OK)
        status = lam_cuda_blas_create(kernels->compute, &kernels->blas, err);
    if (status == LAM_OK)
        measure_own(kernels);
    if (status != LAM_OK)
        goto fail;
    describe(kernels);
    *ret_kernels = kernels;
    return LAM_OK;

fail:
    cuda_destroy(kernels);
    return status;
}

__attribute__((visibility("default"))) const struct lam_cuda_backend *lam_kernels_cuda(uint32_t abi)
{
    static const struct lam_kernel_ops ops = {
        .name = "cuda",
        .create = cuda_create,
        .destroy = cuda_destroy,
        .describe = cuda_describe,
        .dequant = cuda_dequant,
        .rms_norm = cuda_rms_norm,
        .matmul = cuda_matmul,
        .rope_table = cuda_rope_table,
        .rope = cuda_rope,
        .kv_write = cuda_kv_write,
        .attention = cuda_attention,
        .swiglu = cuda_swiglu,
        .argmax = cuda_argmax,
        .arrange = lam_cuda_arrange_matrix,
    };
    static const struct lam_cuda_backend backend = {&ops, &lam_cuda_device_ops};

    return abi == LAM_CUDA_ABI ? &backend : NULL;
}
