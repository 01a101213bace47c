/*
 * blas: the functions of include/cublasLt.h: one algorithm, d = alpha * a^T * b + beta * c with a
 * and b in 16 bits, each sum in the order of its columns and rounded as the tensor cores of warp.c
 * do: the bits of gemm.cu. (So are those of cuBLAS on an H100: test_matmul_three relies on it.) It
 * takes what cuBLAS takes on the hardware: sides and rows that are 16-byte aligned.
 */
#include <cublasLt.h>
#include <math.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/half.h"
#include "tests/kernels/simulated/fault.h"
#include "tests/kernels/simulated/memory.h"
#include "tests/kernels/simulated/queue.h"

enum { TILE = 8, STEP = 16, VERSION = 130000, ALIGN_BYTES = 16 };

struct cublasLtContext {
    char unused;
};
struct sim_blas_desc {
    cublasOperation_t of_a;
};
struct sim_blas_wish {
    uint32_t reductions;
};
struct sim_blas_layout {
    cudaDataType_t type;
    uint64_t rows;
    uint64_t columns;
    int64_t ld;
    int32_t n;    /* matrices, */
    int64_t next; /* so many values apart */
};

static cublasStatus_t make(void *ret_object, size_t bytes)
{
    void *object = lam_calloc(1, bytes);

    memcpy(ret_object, &object, sizeof(object));
    return object != NULL ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

static cublasStatus_t drop(void *object)
{
    lam_free(object);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *field, size_t field_bytes, const void *value, size_t bytes)
{
    if (field == NULL || field_bytes != bytes)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    return make(handle, sizeof(**handle));
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return drop(handle);
}

size_t cublasLtGetVersion(void)
{
    return VERSION;
}

cublasStatus_t cublasLtMatmulDescCreate(
    cublasLtMatmulDesc_t *desc, cublasComputeType_t compute, cudaDataType_t scale)
{
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return make(desc, sizeof(**desc));
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return drop(desc);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
    cublasLtMatmulDescAttributes_t attribute, const void *value, size_t bytes)
{
    return set(attribute == CUBLASLT_MATMUL_DESC_TRANSA ? &desc->of_a : NULL, sizeof(desc->of_a),
        value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type,
    uint64_t rows, uint64_t columns, int64_t ld)
{
    cublasStatus_t status = make(layout, sizeof(**layout));

    if (status == CUBLAS_STATUS_SUCCESS)
        **layout = (struct sim_blas_layout){type, rows, columns, ld, 1, 0};
    return status;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return drop(layout);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
    cublasLtMatrixLayoutAttribute_t attribute, const void *value, size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return set(&layout->rows, sizeof(layout->rows), value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return set(&layout->columns, sizeof(layout->columns), value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return set(&layout->n, sizeof(layout->n), value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return set(&layout->next, sizeof(layout->next), value, bytes);
    default:
        return set(&layout->ld, sizeof(layout->ld), value, bytes);
    }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *wish)
{
    return make(wish, sizeof(**wish));
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t wish)
{
    return drop(wish);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wish,
    cublasLtMatmulPreferenceAttributes_t attribute, const void *value, size_t bytes)
{
    if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        return set(&wish->reductions, sizeof(wish->reductions), value, bytes);
    return CUBLAS_STATUS_SUCCESS; /* needs no room, takes every alignment that is asked for */
}

static bool takes(const struct sim_blas_layout *a, const struct sim_blas_layout *b,
    const struct sim_blas_layout *d)
{
    return a->type == CUDA_R_16F && b->type == CUDA_R_16F && d->type == CUDA_R_32F &&
           a->rows == b->rows && d->rows == a->columns && d->columns == b->columns &&
           a->ld * 2 % ALIGN_BYTES == 0 && b->ld * 2 % ALIGN_BYTES == 0 && a->n == b->n &&
           b->n == d->n && a->n > 0 && a->next * 2 % ALIGN_BYTES == 0 &&
           b->next * 2 % ALIGN_BYTES == 0 && d->next * 4 % ALIGN_BYTES == 0 &&
           d->ld * 4 % ALIGN_BYTES == 0 && a->ld >= (int64_t)a->rows && b->ld >= (int64_t)b->rows &&
           d->ld >= (int64_t)d->rows;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
    cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
    cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t wish, int n_wanted,
    cublasLtMatmulHeuristicResult_t *results, int *ret_n_results)
{
    (void)handle;
    (void)c;
    *ret_n_results = 0;
    if (n_wanted < 1 || desc->of_a != CUBLAS_OP_T || wish->reductions != 0 || !takes(a, b, d))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    results[0] = (cublasLtMatmulHeuristicResult_t){.state = CUBLAS_STATUS_SUCCESS};
    *ret_n_results = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
    cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
    cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algo,
    cublasLtMatmulHeuristicResult_t *result)
{
    (void)handle;
    (void)desc;
    (void)c;
    (void)algo;
    *result = (cublasLtMatmulHeuristicResult_t){.state = CUBLAS_STATUS_SUCCESS};
    return takes(a, b, d) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

struct product {
    const uint16_t *a;
    const uint16_t *b;
    float *d;
    struct sim_blas_layout of_a, of_b, of_d;
    float alpha;
    float beta;
};

/* Columns of a that are worked on together: [k][TILE]. */
static void widen_tile(const struct product *own, uint64_t first, double *to)
{
    for (uint64_t i = 0; i < TILE; i++) {
        uint64_t column = first + i < own->of_a.columns ? first + i : own->of_a.columns - 1;
        const uint16_t *from = own->a + column * (uint64_t)own->of_a.ld;
        for (uint64_t k = 0; k < own->of_a.rows; k++)
            to[k * TILE + i] = (double)lam_f32_from_f16(from[k]);
    }
}

/* Sums of products of TILE columns of a by one of b, rounded after each STEP. */
static void multiply_tile(const double *a, const double *b, uint64_t n, float *ret_sums)
{
    double sums[TILE] = {0};

    for (uint64_t k = 0; k < n; k++) {
        for (uint64_t i = 0; i < TILE; i++)
            sums[i] += a[k * TILE + i] * b[k];
        for (uint64_t i = 0; i < TILE && (k % STEP == STEP - 1 || k + 1 == n); i++)
            sums[i] = (double)(float)sums[i];
    }
    for (uint64_t i = 0; i < TILE; i++)
        ret_sums[i] = (float)sums[i];
}

static void store_tile(const struct product *own, uint64_t first, uint64_t j, const float *sums)
{
    float *d = own->d + j * (uint64_t)own->of_d.ld + first;

    for (uint64_t i = 0; i < TILE && first + i < own->of_d.rows; i++) {
        float value = own->alpha * sums[i];
        d[i] = own->beta != 0 ? value + own->beta * d[i] : value;
    }
}

/* b as doubles; whole[j]: no NaN is in column j. What has one makes only NaN: memory that nobody
 * wrote, with which cublas.c warms up, takes no time. */
static void widen_b(const struct product *own, double *to, bool *whole)
{
    uint64_t n = own->of_b.rows;

    for (uint64_t j = 0; j < own->of_b.columns; j++) {
        whole[j] = true;
        for (uint64_t k = 0; k < n; k++) {
            float value = lam_f32_from_f16(own->b[j * (uint64_t)own->of_b.ld + k]);
            to[j * n + k] = (double)value;
            whole[j] &= !isnan(value);
        }
    }
}

static void multiply_one(const struct product *own)
{
    uint64_t n = own->of_a.rows;
    double *a = lam_calloc(n * TILE, sizeof(*a));
    double *b = lam_calloc(n * own->of_b.columns, sizeof(*b));
    bool *whole = lam_calloc(own->of_b.columns, sizeof(*whole));
    bool ready = a != NULL && b != NULL && whole != NULL;

    if (ready)
        widen_b(own, b, whole);
    else
        sim_fault("no memory for a product of cuBLAS");
    for (uint64_t first = 0; first < own->of_a.columns && ready; first += TILE) {
        widen_tile(own, first, a);
        for (uint64_t j = 0; j < own->of_b.columns; j++) {
            float sums[TILE] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
            if (whole[j])
                multiply_tile(a, b + j * n, n, sums);
            store_tile(own, first, j, sums);
        }
    }
    lam_free(a);
    lam_free(b);
    lam_free(whole);
}

static void multiply(const void *params)
{
    struct product own = *(const struct product *)params;

    for (int32_t i = 0; i < own.of_a.n; i++) {
        multiply_one(&own);
        own.a += own.of_a.next;
        own.b += own.of_b.next;
        own.d += own.of_d.next;
    }
}

static bool lies(const void *values, const struct sim_blas_layout *layout, uint64_t value_bytes)
{
    uint64_t n = (uint64_t)(layout->n - 1) * (uint64_t)layout->next +
                 (layout->columns - 1) * (uint64_t)layout->ld + layout->rows;

    return (uintptr_t)values % ALIGN_BYTES == 0 && sim_memory_has(values, n * value_bytes);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
    const void *a_values, cublasLtMatrixLayout_t a, const void *b_values, cublasLtMatrixLayout_t b,
    const void *beta, const void *c_values, cublasLtMatrixLayout_t c, void *d_values,
    cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algo, void *workspace,
    size_t workspace_bytes, cudaStream_t stream)
{
    struct product own = {a_values, b_values, d_values, *a, *b, *d, 0, 0};

    (void)handle;
    (void)desc;
    (void)algo;
    if (!takes(a, b, d) || c != d || c_values != d_values || !lies(a_values, a, 2) ||
        !lies(b_values, b, 2) || !lies(d_values, d, 4) ||
        !sim_memory_has(workspace, workspace_bytes))
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&own.alpha, alpha, sizeof(own.alpha));
    memcpy(&own.beta, beta, sizeof(own.beta));
    struct sim_op *op = sim_op_new(SIM_CALL, sizeof(own));
    if (op == NULL)
        return CUBLAS_STATUS_ALLOC_FAILED;
    op->call = multiply;
    memcpy(op->params, &own, sizeof(own));
    sim_queue(stream, op);
    return CUBLAS_STATUS_SUCCESS;
}
