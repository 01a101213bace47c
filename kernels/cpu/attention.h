/*
 * attention: causal attention over KV blocks of LAM_KV_BLOCK positions at fixed places of a
 * sequence. The softmax of a row is taken within each block by itself and the blocks' results are
 * merged in order, so a row's bits depend neither on the rows beside it nor on which thread took
 * which block.
 *
 * A block's keys are turned once ([d][position]) and its values widened once ([position][d]); up to
 * LAM_ATTENTION_ROWS rows of all heads of the group then use them, TILE_ROWS (row, head) items at a
 * time.
 */
#ifndef LAMINAR_KERNELS_CPU_ATTENTION_H
#define LAMINAR_KERNELS_CPU_ATTENTION_H

#include <assert.h>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/matmul.h"

enum {
    VALUE_STEP = TILE_VECS * LANES, /* values of a head that one register tile covers */
    VALUES_MAX = (LAM_HEAD_DIM_MAX + VALUE_STEP - 1) / VALUE_STEP * VALUE_STEP,
};

/* One KV block, unpacked. */
struct kv_block {
    float keys[LAM_KV_BLOCK / LANES][LAM_HEAD_DIM_MAX][LANES];
    float values[LAM_KV_BLOCK][VALUES_MAX];
};

/* TILE_ROWS (row, head) pairs; the last repeats when there are fewer. */
struct item_tile {
    const float *q[TILE_ROWS];
    uint32_t n_visible[TILE_ROWS]; /* positions of the block that the row sees */
    uint32_t n_common;             /* the least of them */
};

static void widen_q8_0(const uint8_t *row, uint32_t n, float *out)
{
    for (uint32_t at = 0; at < n; at += LAM_KV_Q8_ELEMS, row += LAM_KV_Q8_BYTES) {
        float d = lam_f32_from_f16(lam_load_u16(row));
        for (uint32_t i = 0; i < LAM_KV_Q8_ELEMS; i++)
            out[at + i] = d * (float)(int8_t)row[2 + i];
    }
}

/* As unpack_floats. */
static void unpack_q8_0_rows(const uint8_t *const *rows, uint32_t n, float *out)
{
    float row[LAM_HEAD_DIM_MAX];

    for (uint32_t lane = 0; lane < LANES; lane++) {
        widen_q8_0(rows[lane], n, row);
        for (uint32_t i = 0; i < n; i++)
            out[(size_t)i * LANES + lane] = row[i];
    }
}

static void load_value(const struct lam_kv_layer *kv, size_t offset, float *out)
{
    const uint8_t *row = (const uint8_t *)kv->v + offset;
    uint32_t d = kv->head_dim;
    uint32_t i = 0;

    if (kv->dtype == LAM_F32) {
        memcpy(out, row, (size_t)d * sizeof(*out));
    } else if (kv->dtype == LAM_Q8_0) {
        widen_q8_0(row, d, out);
    } else {
        for (; i + LANES <= d; i += LANES)
            v_store(out + i, v_load_f16(row + (size_t)i * 2));
        for (; i < d; i++)
            out[i] = lam_f32_from_f16(lam_load_u16(row + (size_t)i * 2));
    }
    for (i = d; i % VALUE_STEP != 0; i++)
        out[i] = 0;
}

/* Unpacks the n_positions first positions of a block; keys beyond repeat the last one. */
static void load_kv_block(const struct lam_attention_part *part, uint32_t block,
    uint32_t n_positions, struct kv_block *out)
{
    const struct lam_kv_layer *kv = &part->args->kv;

    for (uint32_t group = 0; group * LANES < n_positions; group++) {
        const uint8_t *rows[LANES];
        for (uint32_t lane = 0; lane < LANES; lane++) {
            uint32_t i = group * LANES + lane;
            i = i < n_positions ? i : n_positions - 1;
            rows[lane] = (const uint8_t *)kv->k +
                         lam_kv_offset(kv, part->seq, block * LAM_KV_BLOCK + i, part->kv_head);
        }
        if (kv->dtype == LAM_Q8_0)
            unpack_q8_0_rows(rows, kv->head_dim, &out->keys[group][0][0]);
        else
            unpack_floats(kv->dtype, rows, kv->head_dim, &out->keys[group][0][0]);
    }
    for (uint32_t i = 0; i < n_positions; i++)
        load_value(kv, lam_kv_offset(kv, part->seq, block * LAM_KV_BLOCK + i, part->kv_head),
            out->values[i]);
}

/* scores[r][position] = scale * q . k for TILE_VECS vectors of positions. */
static inline void score_vectors(const struct kv_block *kv, const struct item_tile *items,
    uint32_t head_dim, uint32_t group, float scale, float (*scores)[LAM_KV_BLOCK])
{
    vf sums[TILE_ROWS][TILE_VECS];

    LAM_UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        LAM_UNROLL
        for (int g = 0; g < TILE_VECS; g++)
            sums[r][g] = v_zero();
    }
    for (uint32_t i = 0; i < head_dim; i++) {
        vf keys[TILE_VECS];
        LAM_UNROLL
        for (int g = 0; g < TILE_VECS; g++)
            keys[g] = v_load(kv->keys[group + (uint32_t)g][i]);
        LAM_UNROLL
        for (int r = 0; r < TILE_ROWS; r++) {
            vf q = v_set(items->q[r][i]);
            LAM_UNROLL
            for (int g = 0; g < TILE_VECS; g++)
                sums[r][g] = v_fma(q, keys[g], sums[r][g]);
        }
    }
    LAM_UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        LAM_UNROLL
        for (int g = 0; g < TILE_VECS; g++)
            v_store(scores[r] + (group + (uint32_t)g) * LANES, v_mul(sums[r][g], v_set(scale)));
    }
}

/* Scores to exp(score - max), 0 where the row must not see. */
static inline struct lam_softmax exponentiate(float *scores, uint32_t n_visible)
{
    vf x[LAM_KV_BLOCK / LANES];
    vf max = v_set(-INFINITY);
    vf sum = v_zero();

    LAM_UNROLL
    for (uint32_t g = 0; g < LAM_KV_BLOCK / LANES; g++) {
        uint32_t left = n_visible > g * LANES ? n_visible - g * LANES : 0;
        left = left < LANES ? left : LANES;
        x[g] = v_keep_n(v_load(scores + g * LANES), v_set(-INFINITY), left);
        max = v_max(max, x[g]);
    }
    float row_max = v_hmax(max);
    LAM_UNROLL
    for (uint32_t g = 0; g < LAM_KV_BLOCK / LANES; g++) {
        x[g] = v_exp(v_sub(x[g], v_set(row_max)));
        sum = v_add(sum, x[g]);
        v_store(scores + g * LANES, x[g]);
    }
    return (struct lam_softmax){.max = row_max, .sum = v_hsum(sum)};
}

/* out[r] = sum over positions of p * v, for VALUE_STEP values from `at` on. */
static inline void weigh_values(const struct kv_block *kv, const struct item_tile *items,
    uint32_t at, float (*scores)[LAM_KV_BLOCK], float (*out)[VALUES_MAX])
{
    vf sums[TILE_ROWS][TILE_VECS];

    LAM_UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        LAM_UNROLL
        for (int g = 0; g < TILE_VECS; g++)
            sums[r][g] = v_zero();
    }
    for (uint32_t i = 0; i < items->n_common; i++) {
        LAM_UNROLL
        for (int r = 0; r < TILE_ROWS; r++) {
            vf p = v_set(scores[r][i]);
            LAM_UNROLL
            for (int g = 0; g < TILE_VECS; g++)
                sums[r][g] = v_fma(p, v_load(kv->values[i] + at + g * LANES), sums[r][g]);
        }
    }
    LAM_UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        for (uint32_t i = items->n_common; i < items->n_visible[r]; i++) {
            LAM_UNROLL
            for (int g = 0; g < TILE_VECS; g++)
                sums[r][g] =
                    v_fma(v_set(scores[r][i]), v_load(kv->values[i] + at + g * LANES), sums[r][g]);
        }
        LAM_UNROLL
        for (int g = 0; g < TILE_VECS; g++)
            v_store(out[r] + at + g * LANES, sums[r][g]);
    }
}

static void attend_items(const struct kv_block *kv, const struct item_tile *items,
    uint32_t head_dim, float scale, uint32_t n_items, float *values, struct lam_softmax *states)
{
    float scores[TILE_ROWS][LAM_KV_BLOCK];
    float out[TILE_ROWS][VALUES_MAX];

    for (uint32_t group = 0; group < LAM_KV_BLOCK / LANES; group += TILE_VECS)
        score_vectors(kv, items, head_dim, group, scale, scores);
    for (uint32_t r = 0; r < n_items; r++)
        states[r] = exponentiate(scores[r], items->n_visible[r]);
    for (uint32_t r = n_items; r < TILE_ROWS; r++)
        memcpy(scores[r], scores[0], sizeof(scores[r]));
    for (uint32_t at = 0; at < head_dim; at += VALUE_STEP)
        weigh_values(kv, items, at, scores, out);
    for (uint32_t r = 0; r < n_items; r++)
        memcpy(values + (size_t)r * head_dim, out[r], (size_t)head_dim * sizeof(float));
}

/* Positions of a block that the row at `position` sees. */
static uint32_t visible(uint32_t position, uint32_t block)
{
    uint32_t begin = block * LAM_KV_BLOCK;

    if (position < begin)
        return 0;
    return position - begin + 1 < LAM_KV_BLOCK ? position - begin + 1 : LAM_KV_BLOCK;
}

static void attend_block(const struct lam_attention_part *part, uint32_t block, float *values,
    struct lam_softmax *states)
{
    const struct lam_attention_args *args = part->args;
    uint32_t d = args->kv.head_dim;
    uint32_t group = args->n_heads / args->kv.n_kv_heads;
    uint32_t n_items = (part->row_end - part->row_begin) * group;
    uint32_t first_position = part->seq->pos_begin + part->row_begin;
    uint32_t last_position = part->seq->pos_begin + part->row_end - 1;
    struct kv_block kv;

    load_kv_block(part, block, visible(last_position, block), &kv);
    for (uint32_t item = 0; item < n_items; item += TILE_ROWS) {
        struct item_tile items = {.n_common = LAM_KV_BLOCK};
        uint32_t n_real = n_items - item < TILE_ROWS ? n_items - item : TILE_ROWS;
        for (uint32_t r = 0; r < TILE_ROWS; r++) {
            uint32_t i = item + (r < n_real ? r : n_real - 1);
            size_t row = part->seq->row_begin + part->row_begin + i / group;
            size_t head = part->kv_head * group + i % group;
            items.q[r] = args->q + (row * args->n_heads + head) * d;
            items.n_visible[r] = visible(first_position + i / group, block);
            if (items.n_visible[r] < items.n_common)
                items.n_common = items.n_visible[r];
        }
        attend_items(&kv, &items, d, args->scale, n_real, values + (size_t)item * d, states + item);
    }
}

static void attend_merge(float *total, struct lam_softmax *total_state, const float *values,
    const struct lam_softmax *state, uint32_t head_dim)
{
    float max = state->max > total_state->max ? state->max : total_state->max;
    /* Every lane holds the same number: a scalar exp would be another function. */
    vf old_factor = v_exp(v_set(total_state->max - max));
    vf new_factor = v_exp(v_set(state->max - max));
    vf sum = v_fma(v_set(total_state->sum), old_factor, v_mul(v_set(state->sum), new_factor));

    for (uint32_t i = 0; i < head_dim; i += LANES) {
        uint32_t n = head_dim - i < LANES ? head_dim - i : LANES;
        vf scaled = v_mul(v_load_n(values + i, n), new_factor);
        v_store_n(total + i, v_fma(v_load_n(total + i, n), old_factor, scaled), n);
    }
    total_state->max = max;
    v_store_n(&total_state->sum, sum, 1);
}

static void attend_finish(float *total, const struct lam_softmax *state, uint32_t head_dim)
{
    vf inverse = v_set(1.0f / state->sum);

    for (uint32_t i = 0; i < head_dim; i += LANES) {
        uint32_t n = head_dim - i < LANES ? head_dim - i : LANES;
        v_store_n(total + i, v_mul(v_load_n(total + i, n), inverse), n);
    }
}

#endif
