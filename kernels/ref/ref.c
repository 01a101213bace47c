/*
 * ref: the naive twin of every operation in ops.h, written to be read: one thread, f32 activations,
 * sums in double in the order of the formula. It is the definition that faster backends are tested
 * against, and a working backend for any CPU.
 */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "common/mem.h"
#include "kernels/half.h"
#include "kernels/kv.h"
#include "kernels/ops.h"
#include "kernels/ref/argmax.h"
#include "kernels/ref/dequant.h"
#include "kernels/ref/rope_table.h"

struct lam_kernels {
    struct lam_kernel_config config;
    float *row;     /* [max_cols]: one unpacked weight row */
    double *scores; /* [max_ctx] */
};

static void ref_destroy(struct lam_kernels *kernels)
{
    if (kernels == NULL)
        return;
    lam_free(kernels->row);
    lam_free(kernels->scores);
    lam_free(kernels);
}

static enum lam_status ref_create(
    const struct lam_kernel_config *config, struct lam_kernels **ret_kernels, struct lam_err *err)
{
    struct lam_kernels *kernels = lam_calloc(1, sizeof(*kernels));

    if (kernels == NULL)
        goto fail;
    kernels->config = *config;
    kernels->row = lam_calloc(config->max_cols, sizeof(*kernels->row));
    kernels->scores = lam_calloc(config->max_ctx, sizeof(*kernels->scores));
    if (kernels->row == NULL || kernels->scores == NULL)
        goto fail;
    *ret_kernels = kernels;
    return LAM_OK;

fail:
    ref_destroy(kernels);
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
        "no memory for the reference kernels (%u columns, context %u); lower --ctx",
        config->max_cols, config->max_ctx);
}

static const char *ref_describe(const struct lam_kernels *kernels)
{
    (void)kernels;
    return "reference, 1 thread";
}

static void ref_dequant(struct lam_kernels *kernels, const struct lam_dequant_args *args)
{
    assert(args->n_cols <= kernels->config.max_cols);
    for (uint32_t t = 0; t < args->n_rows; t++)
        lam_dequant_row(
            args->dtype, args->rows[t], args->n_cols, args->out + (size_t)t * args->n_cols);
}

static void ref_rms_norm(struct lam_kernels *kernels, const struct lam_rms_norm_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows);
    for (uint32_t t = 0; t < args->n_rows; t++) {
        const float *x = args->x + (size_t)t * args->n_cols;
        float *out = args->out + (size_t)t * args->n_cols;
        double sum = 0;
        for (uint32_t i = 0; i < args->n_cols; i++)
            sum += (double)x[i] * (double)x[i];
        double scale = 1 / sqrt(sum / args->n_cols + (double)args->eps);
        for (uint32_t i = 0; i < args->n_cols; i++)
            out[i] = (float)((double)x[i] * scale * (double)args->weight[i]);
    }
}

static void ref_matmul(struct lam_kernels *kernels, const struct lam_matmul_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows && args->n_cols <= kernels->config.max_cols);
    assert(args->n_mats >= 1 && args->n_mats <= 3);
    if (args->n_rows == 0)
        return;
    for (uint32_t i = 0; i < args->n_mats; i++) {
        const struct lam_matmul_mat *mat = &args->mats[i];
        uint64_t row_bytes;
        bool whole = lam_dtype_row_bytes(mat->dtype, args->n_cols, &row_bytes);
        assert(whole);
        for (uint32_t n = 0; n < mat->n_out; n++) {
            lam_dequant_row(mat->dtype, (const uint8_t *)mat->weight + n * row_bytes, args->n_cols,
                kernels->row);
            for (uint32_t t = 0; t < args->n_rows; t++) {
                const float *x = args->x + (size_t)t * args->n_cols;
                float *out = mat->out + t * mat->out_stride + n;
                double sum = args->accumulate ? (double)*out : 0;
                for (uint32_t k = 0; k < args->n_cols; k++)
                    sum += (double)x[k] * (double)kernels->row[k];
                *out = (float)sum;
            }
        }
    }
}

static void ref_rope_table(struct lam_kernels *kernels, const struct lam_rope_table_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows && args->rope_dim % 2 == 0);
    lam_rope_table_rows(args, 0, args->n_rows);
}

static void rotate(float *x, float *y, const float *cos_sin)
{
    double c = (double)cos_sin[0];
    double s = (double)cos_sin[1];
    double old_x = (double)*x;
    double old_y = (double)*y;

    *x = (float)(old_x * c - old_y * s);
    *y = (float)(old_y * c + old_x * s);
}

static void ref_rope(struct lam_kernels *kernels, const struct lam_rope_args *args)
{
    uint32_t n_pairs = args->rope_dim / 2;

    assert(args->n_rows <= kernels->config.max_rows && args->rope_dim <= args->head_dim);
    for (uint32_t t = 0; t < args->n_rows; t++) {
        const float *table = args->table + (size_t)t * args->rope_dim;
        for (uint32_t h = 0; h < args->n_heads; h++) {
            float *x = args->x + ((size_t)t * args->n_heads + h) * args->head_dim;
            for (uint32_t i = 0; i < n_pairs; i++) {
                if (args->pairing == LAM_ROPE_ADJACENT)
                    rotate(&x[2 * i], &x[2 * i + 1], &table[2 * i]);
                else
                    rotate(&x[i], &x[i + n_pairs], &table[2 * i]);
            }
        }
    }
}

static void store_row(const struct lam_kv_layer *kv, void *base, size_t offset, const float *x)
{
    uint8_t *out = (uint8_t *)base + offset;

    if (kv->dtype == LAM_Q8_0) {
        lam_kv_pack_q8_0(x, kv->head_dim, out);
        return;
    }
    for (uint32_t i = 0; i < kv->head_dim; i++) {
        uint16_t half = lam_f16_from_f32(x[i]);
        if (kv->dtype == LAM_F16)
            memcpy(out + (size_t)i * 2, &half, 2);
        else
            memcpy(out + (size_t)i * 4, &x[i], 4);
    }
}

static void ref_kv_write(struct lam_kernels *kernels, const struct lam_kv_write_args *args)
{
    const struct lam_kv_layer *kv = &args->kv;

    assert(args->n_seqs <= kernels->config.max_seqs);
    for (uint32_t s = 0; s < args->n_seqs; s++) {
        const struct lam_seq_rows *seq = &args->seqs[s];
        for (uint32_t i = 0; i < seq->n_rows; i++) {
            for (uint32_t h = 0; h < kv->n_kv_heads; h++) {
                size_t row = ((size_t)(seq->row_begin + i) * kv->n_kv_heads + h) * kv->head_dim;
                size_t offset = lam_kv_offset(kv, seq, seq->pos_begin + i, h);
                store_row(kv, kv->k, offset, args->k + row);
                store_row(kv, kv->v, offset, args->v + row);
            }
        }
    }
}

static double kv_at(enum lam_dtype dtype, const void *base, size_t offset, uint32_t i)
{
    const uint8_t *row = (const uint8_t *)base + offset;

    if (dtype == LAM_F16)
        return (double)lam_f32_from_f16(lam_load_u16(row + (size_t)i * 2));
    if (dtype == LAM_Q8_0) {
        const uint8_t *block = row + (size_t)(i / LAM_KV_Q8_ELEMS) * LAM_KV_Q8_BYTES;
        int8_t q = (int8_t)block[2 + i % LAM_KV_Q8_ELEMS];
        return (double)lam_f32_from_f16(lam_load_u16(block)) * q;
    }
    return (double)lam_f32_from_bits(lam_load_u32(row + (size_t)i * 4));
}

/* softmax(q K^T * scale) V for one head of one row, which sees n_pos positions. */
static void attend(const struct lam_attention_args *args, const struct lam_seq_rows *seq,
    uint32_t n_pos, uint32_t kv_head, const float *q, double *scores, float *out)
{
    const struct lam_kv_layer *kv = &args->kv;
    double max = -INFINITY;
    double sum = 0;

    for (uint32_t p = 0; p < n_pos; p++) {
        size_t offset = lam_kv_offset(kv, seq, p, kv_head);
        double dot = 0;
        for (uint32_t i = 0; i < kv->head_dim; i++)
            dot += (double)q[i] * kv_at(kv->dtype, kv->k, offset, i);
        scores[p] = dot * (double)args->scale;
        max = fmax(max, scores[p]);
    }
    for (uint32_t p = 0; p < n_pos; p++) {
        scores[p] = exp(scores[p] - max);
        sum += scores[p];
    }
    for (uint32_t i = 0; i < kv->head_dim; i++) {
        double value = 0;
        for (uint32_t p = 0; p < n_pos; p++)
            value += scores[p] * kv_at(kv->dtype, kv->v, lam_kv_offset(kv, seq, p, kv_head), i);
        out[i] = (float)(value / sum);
    }
}

static void ref_attention(struct lam_kernels *kernels, const struct lam_attention_args *args)
{
    const struct lam_kv_layer *kv = &args->kv;
    uint32_t group = args->n_heads / kv->n_kv_heads;

    assert(args->n_seqs <= kernels->config.max_seqs && args->n_heads % kv->n_kv_heads == 0);
    for (uint32_t s = 0; s < args->n_seqs; s++) {
        const struct lam_seq_rows *seq = &args->seqs[s];
        assert(seq->pos_begin + seq->n_rows <= kernels->config.max_ctx);
        for (uint32_t i = 0; i < seq->n_rows; i++) {
            for (uint32_t h = 0; h < args->n_heads; h++) {
                size_t row = ((size_t)(seq->row_begin + i) * args->n_heads + h) * kv->head_dim;
                attend(args, seq, seq->pos_begin + i + 1, h / group, args->q + row, kernels->scores,
                    args->out + row);
            }
        }
    }
}

static void ref_swiglu(struct lam_kernels *kernels, const struct lam_swiglu_args *args)
{
    (void)kernels;
    for (uint64_t i = 0; i < args->n; i++) {
        double gate = (double)args->gate[i];
        args->out[i] = (float)(gate / (1 + exp(-gate)) * (double)args->up[i]);
    }
}

static void ref_argmax(struct lam_kernels *kernels, const struct lam_argmax_args *args)
{
    assert(args->n_rows <= kernels->config.max_rows);
    lam_argmax_rows(args, 0, args->n_rows);
}

const struct lam_kernel_ops *lam_kernels_ref(void)
{
    static const struct lam_kernel_ops ops = {
        .name = "ref",
        .create = ref_create,
        .destroy = ref_destroy,
        .describe = ref_describe,
        .dequant = ref_dequant,
        .rms_norm = ref_rms_norm,
        .matmul = ref_matmul,
        .rope_table = ref_rope_table,
        .rope = ref_rope,
        .kv_write = ref_kv_write,
        .attention = ref_attention,
        .swiglu = ref_swiglu,
        .argmax = ref_argmax,
    };

    return &ops;
}
