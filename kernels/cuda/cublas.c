/*
 * cublas: see cublas.h. The library is half a gigabyte, comes with every CUDA and PyTorch, and is
 * only wanted where a prompt is to be fast: it is opened at run time and never shipped.
 *
 * cuBLAS thinks in columns: our out[T, N] is its N x T matrix, made of w transposed and x.
 */
#include "kernels/cuda/cublas.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

#include "common/mem.h"

/* The soname of the version that the header is of, where the linker looks and where the toolkit
 * puts it. */
#define NUMBER_TEXT(number) #number
#define SONAME(major) "libcublasLt.so." NUMBER_TEXT(major)
static const char *const places[] = {
    SONAME(CUBLAS_VER_MAJOR), "/usr/local/cuda/lib64/" SONAME(CUBLAS_VER_MAJOR)};

enum {
    /* The shape that the algorithm is chosen for, and run with: large enough for its scratch. */
    MODEL_OUT = 6144,
    MODEL_ROWS = 2048,
    MODEL_COLS = 4096,
    WARM_COLS = 64,
    ALIGN_BYTES = 16,
};

/* The functions in use, by their names. */
struct functions {
    __typeof__(&cublasLtCreate) create;
    __typeof__(&cublasLtDestroy) destroy;
    __typeof__(&cublasLtGetVersion) version;
    __typeof__(&cublasLtMatmulDescCreate) desc_create;
    __typeof__(&cublasLtMatmulDescDestroy) desc_destroy;
    __typeof__(&cublasLtMatmulDescSetAttribute) desc_set;
    __typeof__(&cublasLtMatrixLayoutCreate) layout_create;
    __typeof__(&cublasLtMatrixLayoutDestroy) layout_destroy;
    __typeof__(&cublasLtMatrixLayoutSetAttribute) layout_set;
    __typeof__(&cublasLtMatmulPreferenceCreate) preference_create;
    __typeof__(&cublasLtMatmulPreferenceDestroy) preference_destroy;
    __typeof__(&cublasLtMatmulPreferenceSetAttribute) preference_set;
    __typeof__(&cublasLtMatmulAlgoGetHeuristic) heuristic;
    __typeof__(&cublasLtMatmulAlgoCheck) check;
    __typeof__(&cublasLtMatmul) matmul;
};

struct lam_cuda_blas {
    void *library;
    struct functions call;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, out; /* their sizes are set for each product */
    cublasLtMatmulAlgo_t algorithm;
    bool takes_two;
};

static bool find_all(struct lam_cuda_blas *blas)
{
    struct functions *call = &blas->call;
    const struct {
        const char *name;
        void *to;
    } wanted[] = {
        {"cublasLtCreate", &call->create},
        {"cublasLtDestroy", &call->destroy},
        {"cublasLtGetVersion", &call->version},
        {"cublasLtMatmulDescCreate", &call->desc_create},
        {"cublasLtMatmulDescDestroy", &call->desc_destroy},
        {"cublasLtMatmulDescSetAttribute", &call->desc_set},
        {"cublasLtMatrixLayoutCreate", &call->layout_create},
        {"cublasLtMatrixLayoutDestroy", &call->layout_destroy},
        {"cublasLtMatrixLayoutSetAttribute", &call->layout_set},
        {"cublasLtMatmulPreferenceCreate", &call->preference_create},
        {"cublasLtMatmulPreferenceDestroy", &call->preference_destroy},
        {"cublasLtMatmulPreferenceSetAttribute", &call->preference_set},
        {"cublasLtMatmulAlgoGetHeuristic", &call->heuristic},
        {"cublasLtMatmulAlgoCheck", &call->check},
        {"cublasLtMatmul", &call->matmul},
    };

    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        void *symbol = dlsym(blas->library, wanted[i].name);
        if (symbol == NULL)
            return false;
        memcpy(wanted[i].to, &symbol, sizeof(symbol)); /* no function pointer in ISO C */
    }
    return true;
}

static bool open_library(struct lam_cuda_blas *blas)
{
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]) && blas->library == NULL; i++)
        blas->library = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
    return blas->library != NULL && find_all(blas);
}

/* n of them, `next` values apart. */
static bool set_number(
    const struct lam_cuda_blas *blas, cublasLtMatrixLayout_t layout, int32_t n, uint64_t next)
{
    int64_t apart = (int64_t)next;

    return blas->call.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof(n)) ==
               CUBLAS_STATUS_SUCCESS &&
           blas->call.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &apart,
               sizeof(apart)) == CUBLAS_STATUS_SUCCESS;
}

static bool set_sides(const struct lam_cuda_blas *blas, cublasLtMatrixLayout_t layout,
    uint64_t rows, uint64_t columns, int64_t ld)
{
    return blas->call.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_ROWS, &rows, sizeof(rows)) ==
               CUBLAS_STATUS_SUCCESS &&
           blas->call.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof(columns)) ==
               CUBLAS_STATUS_SUCCESS &&
           blas->call.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof(ld)) ==
               CUBLAS_STATUS_SUCCESS;
}

static bool set_shape(
    const struct lam_cuda_blas *blas, const struct lam_cuda_gemm_args *args, uint32_t n_rows)
{
    int32_t n = args->out_next > 0 ? 2 : 1;

    return set_sides(blas, blas->w, args->ld, args->n_out, args->ld) &&
           set_sides(blas, blas->x, args->ld, n_rows, args->ld) &&
           set_sides(blas, blas->out, args->n_out, n_rows, (int64_t)args->out_stride) &&
           set_number(blas, blas->w, n, args->w_next) && set_number(blas, blas->x, n, 0) &&
           set_number(blas, blas->out, n, args->out_next);
}

static bool make_objects(struct lam_cuda_blas *blas)
{
    const struct functions *call = &blas->call;
    const cublasOperation_t transposed = CUBLAS_OP_T;

    return call->create(&blas->handle) == CUBLAS_STATUS_SUCCESS &&
           call->desc_create(&blas->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
               CUBLAS_STATUS_SUCCESS &&
           call->desc_set(blas->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
               sizeof(transposed)) == CUBLAS_STATUS_SUCCESS &&
           call->layout_create(&blas->w, CUDA_R_16F, 1, 1, 1) == CUBLAS_STATUS_SUCCESS &&
           call->layout_create(&blas->x, CUDA_R_16F, 1, 1, 1) == CUBLAS_STATUS_SUCCESS &&
           call->layout_create(&blas->out, CUDA_R_32F, 1, 1, 1) == CUBLAS_STATUS_SUCCESS;
}

/* The library's first choice for a prompt, of those that never split a sum. */
static bool choose(struct lam_cuda_blas *blas)
{
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const struct functions *call = &blas->call;
    const struct lam_cuda_gemm_args model = {
        .n_out = MODEL_OUT, .ld = MODEL_COLS, .out_stride = MODEL_OUT};
    const size_t scratch = LAM_CUDA_BLAS_BYTES;
    const uint32_t no_splits = CUBLASLT_REDUCTION_SCHEME_NONE;
    const uint32_t align = ALIGN_BYTES;
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t best;
    int n_found = 0;

    if (!set_shape(blas, &model, MODEL_ROWS) ||
        call->preference_create(&wish) != CUBLAS_STATUS_SUCCESS)
        return false;
    bool set = call->preference_set(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &scratch,
                   sizeof(scratch)) == CUBLAS_STATUS_SUCCESS &&
               call->preference_set(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_splits,
                   sizeof(no_splits)) == CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < sizeof(alignments) / sizeof(alignments[0]) && set; i++)
        set = call->preference_set(wish, alignments[i], &align, sizeof(align)) ==
              CUBLAS_STATUS_SUCCESS;
    bool found = set &&
                 call->heuristic(blas->handle, blas->desc, blas->w, blas->x, blas->out, blas->out,
                     wish, 1, &best, &n_found) == CUBLAS_STATUS_SUCCESS &&
                 n_found == 1 && best.state == CUBLAS_STATUS_SUCCESS;
    if (found)
        blas->algorithm = best.algo;
    (void)call->preference_destroy(wish);
    return found;
}

/* Runs the algorithm once, on memory that is given back: its code is then loaded. Again for two
 * matrices, which it may refuse. */
static bool warm_up(struct lam_cuda_blas *blas, struct CUstream_st *stream)
{
    const size_t w_bytes = (size_t)MODEL_OUT * WARM_COLS * 2;
    const size_t x_bytes = (size_t)MODEL_ROWS * WARM_COLS * 2;
    const size_t out_bytes = (size_t)MODEL_ROWS * MODEL_OUT * 4;
    unsigned char *memory = NULL;
    bool done = false;

    if (cudaMalloc((void **)&memory, LAM_CUDA_BLAS_BYTES + w_bytes + x_bytes + out_bytes) ==
        cudaSuccess) {
        struct lam_cuda_gemm_args args = {
            .w = memory + LAM_CUDA_BLAS_BYTES,
            .x = memory + LAM_CUDA_BLAS_BYTES + w_bytes,
            .out = (float *)(void *)(memory + LAM_CUDA_BLAS_BYTES + w_bytes + x_bytes),
            .out_stride = MODEL_OUT,
            .n_rows = MODEL_ROWS,
            .n_out = MODEL_OUT,
            .ld = WARM_COLS,
        };
        done = lam_cuda_blas_gemm(blas, stream, &args, memory) == 0 &&
               cudaStreamSynchronize(stream) == cudaSuccess;
        args.n_out = MODEL_OUT / 2;
        args.w_next = (uint64_t)args.n_out * WARM_COLS;
        args.out_next = args.n_out;
        blas->takes_two = done && lam_cuda_blas_gemm(blas, stream, &args, memory) == 0 &&
                          cudaStreamSynchronize(stream) == cudaSuccess;
        if (cudaFree(memory) != cudaSuccess)
            done = false;
    }
    (void)cudaGetLastError(); /* a refusal must not be found again behind the next launch */
    return done;
}

enum lam_status lam_cuda_blas_create(
    struct CUstream_st *stream, struct lam_cuda_blas **ret_blas, struct lam_err *err)
{
    struct lam_cuda_blas *blas = lam_calloc(1, sizeof(*blas));

    if (blas == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the context of cuBLAS");
    if (!open_library(blas) || !make_objects(blas) || !choose(blas) || !warm_up(blas, stream)) {
        lam_cuda_blas_destroy(blas);
        blas = NULL;
    }
    *ret_blas = blas;
    return LAM_OK;
}

void lam_cuda_blas_destroy(struct lam_cuda_blas *blas)
{
    if (blas == NULL)
        return;
    if (blas->out != NULL)
        (void)blas->call.layout_destroy(blas->out);
    if (blas->x != NULL)
        (void)blas->call.layout_destroy(blas->x);
    if (blas->w != NULL)
        (void)blas->call.layout_destroy(blas->w);
    if (blas->desc != NULL)
        (void)blas->call.desc_destroy(blas->desc);
    if (blas->handle != NULL)
        (void)blas->call.destroy(blas->handle);
    if (blas->library != NULL)
        (void)dlclose(blas->library);
    lam_free(blas);
}

uint64_t lam_cuda_blas_version(const struct lam_cuda_blas *blas)
{
    return blas->call.version();
}

bool lam_cuda_blas_takes(
    const struct lam_cuda_blas *blas, const struct lam_cuda_gemm_args *args, uint32_t n_rows_max)
{
    cublasLtMatmulHeuristicResult_t result;

    return (uintptr_t)args->out % ALIGN_BYTES == 0 &&
           args->out_stride * sizeof(float) % ALIGN_BYTES == 0 &&
           (args->out_next == 0 ||
               (blas->takes_two && args->out_next * sizeof(float) % ALIGN_BYTES == 0)) &&
           set_shape(blas, args, n_rows_max) &&
           blas->call.check(blas->handle, blas->desc, blas->w, blas->x, blas->out, blas->out,
               &blas->algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= LAM_CUDA_BLAS_BYTES;
}

int lam_cuda_blas_gemm(struct lam_cuda_blas *blas, struct CUstream_st *stream,
    const struct lam_cuda_gemm_args *args, void *scratch)
{
    const float scale = 1.0f / LAM_CUDA_ROWS_SCALE;
    const float old = args->accumulate ? 1.0f : 0.0f;

    if (!set_shape(blas, args, args->n_rows))
        return cudaErrorInvalidValue;
    cublasStatus_t status = blas->call.matmul(blas->handle, blas->desc, &scale, args->w, blas->w,
        args->x, blas->x, &old, args->out, blas->out, args->out, blas->out, &blas->algorithm,
        scratch, LAM_CUDA_BLAS_BYTES, stream);
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    return status == CUBLAS_STATUS_EXECUTION_FAILED ? cudaErrorLaunchFailure : cudaErrorUnknown;
}
