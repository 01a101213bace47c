/*
 * weights_pool: see weights.h. The pieces of a plan for a CPU are whole units, used where the
 * loader put them.
 */
#include <assert.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/trace.h"
#include "worker/weights.h"

struct pool_weights {
    struct lam_weights weights;
    const struct lam_plan *plan;
    struct lam_units *units;
    uint64_t begin_ns;
    uint64_t piece_ns; /* when the piece was acquired, while spans are recorded */
    uint64_t stall_ns; /* of the units, at the beginning of the pass */
};

static struct pool_weights *self_of(struct lam_weights *weights)
{
    return (struct pool_weights *)weights;
}

static void pool_begin(struct lam_weights *weights)
{
    struct pool_weights *self = self_of(weights);

    self->begin_ns = lam_now_ns();
    self->stall_ns = lam_units_stall_ns(self->units);
}

static enum lam_status pool_acquire(struct lam_weights *weights, uint32_t piece,
    const unsigned char **ret_base, struct lam_err *err)
{
    struct pool_weights *self = self_of(weights);
    const void *base;
    enum lam_status status =
        lam_units_acquire(self->units, self->plan->pieces[piece].unit, &base, err);

    if (status == LAM_OK)
        *ret_base = base;
    self->piece_ns = lam_trace_begin();
    return status;
}

static void pool_release(struct lam_weights *weights, uint32_t piece)
{
    struct pool_weights *self = self_of(weights);

    lam_trace_end(LAM_TRACE_COMPUTE, "unit", self->piece_ns, self->plan->pieces[piece].unit,
        LAM_TRACE_NONE, self->plan->pieces[piece].bytes);
    lam_units_release(self->units, self->plan->pieces[piece].unit);
}

static const unsigned char *pool_find(struct lam_weights *weights, uint32_t piece)
{
    struct pool_weights *self = self_of(weights);

    return lam_units_find_kept(self->units, self->plan->pieces[piece].unit);
}

static enum lam_status pool_finish(
    struct lam_weights *weights, struct lam_pass_profile *profile, struct lam_err *err)
{
    struct pool_weights *self = self_of(weights);
    uint64_t ns = lam_now_ns() - self->begin_ns;

    (void)err;
    profile->disk_wait_ns = lam_units_stall_ns(self->units) - self->stall_ns;
    profile->compute_ns = ns - profile->disk_wait_ns;
    for (uint32_t p = 0; p < self->plan->n_pieces; p++)
        profile->resident_bytes += self->plan->pieces[p].bytes;
    return LAM_OK;
}

static void pool_destroy(struct lam_weights *weights)
{
    lam_units_close(self_of(weights)->units);
    lam_free(weights);
}

static const struct lam_weights_ops pool_ops = {
    .begin = pool_begin,
    .acquire = pool_acquire,
    .release = pool_release,
    .find = pool_find,
    .finish = pool_finish,
    .destroy = pool_destroy,
};

enum lam_status lam_weights_pool_create(const struct lam_plan *plan, struct lam_units *units,
    struct lam_weights **ret_weights, struct lam_err *err)
{
    struct pool_weights *self = lam_calloc(1, sizeof *self);
    enum lam_status status;

    if (!self)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the weights");
    for (uint32_t p = 0; p < plan->n_pieces; p++)
        assert(plan->pieces[p].kind == LAM_PIECE_UNIT);
    *self = (struct pool_weights){.weights = {&pool_ops}, .plan = plan, .units = units};
    status = lam_units_open(units, &(struct lam_units_session){.rows = true}, err);
    if (status != LAM_OK) {
        lam_free(self);
        return status;
    }
    *ret_weights = &self->weights;
    return LAM_OK;
}
