/* arrange: see arrange.h. */
#include "worker/arrange.h"

#include <assert.h>

#include "common/mem.h"

_Static_assert(LAM_T_ROLES <= 32, "a bit for each role");

/* Whether products read this tensor, and nothing else does. */
static bool is_operand(const struct lam_engine *engine, const struct lam_unit_tensor *tensor)
{
    switch (tensor->role) {
    case LAM_T_ATTN_Q:
    case LAM_T_ATTN_K:
    case LAM_T_ATTN_V:
    case LAM_T_ATTN_OUT:
    case LAM_T_FFN_GATE:
    case LAM_T_FFN_UP:
    case LAM_T_FFN_DOWN:
        return true;
    case LAM_T_OUTPUT:
        return !engine->model->spec.tied_head;
    default:
        return false;
    }
}

/* Bits of the roles that were arranged. */
static uint32_t arrange_piece(struct lam_engine *engine, uint32_t p, unsigned char *base)
{
    const struct lam_plan_piece *piece = &engine->plan.pieces[p];
    const struct lam_unit *unit = &engine->model->manifest.units[piece->unit];
    uint32_t roles = 0;

    for (uint32_t t = 0; t < unit->n_tensors; t++) {
        const struct lam_unit_tensor *tensor = &unit->tensors[t];
        struct lam_arrange_args args = {.dtype = tensor->dtype};
        uint64_t offset;

        if (!is_operand(engine, tensor) || !lam_plan_tensor_offset(piece, tensor, &offset))
            continue;
        args.weight = base + offset;
        args.n_out = (uint32_t)(piece->kind == LAM_PIECE_HEAD ? piece->n_rows : tensor->n_rows);
        args.n_cols = (uint32_t)tensor->n_cols;
        if (engine->config.ops->arrange(engine->kernels, &args))
            roles |= UINT32_C(1) << tensor->role;
    }
    return roles;
}

enum lam_status lam_arrange_residents(struct lam_engine *engine, struct lam_err *err)
{
    const struct lam_plan *plan = &engine->plan;

    if (!engine->config.ops->arrange)
        return LAM_OK;
    assert(engine->config.device); /* elsewhere weights are the loader's */
    engine->arranged = lam_calloc(plan->n_pieces, sizeof *engine->arranged);
    if (!engine->arranged)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the order of weights");
    for (uint32_t p = 0; p < plan->n_pieces; p++) {
        if (plan->pieces[p].tier == LAM_TIER_DEVICE)
            engine->arranged[p] = arrange_piece(engine, p, engine->arena + plan->pieces[p].offset);
    }
    return LAM_OK;
}
