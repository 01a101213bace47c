/*
 * stream: see stream.h. Here are passes, start and end; the copies are in stream_copy.c.
 *
 * Streamed pieces are numbered through all passes, e = 0, 1, 2 .., and ring.h says where each one
 * lies, and which one before, u, has used these bytes last. For each piece
 *
 *     copy queue:     wait for U(u)   copy   mark A(e)
 *     compute queue:  wait for A(e)   kernels   mark U(e)
 *
 * so that the device orders copies and kernels by itself, and the host only queues. It queues a
 * copy as soon as the unit is in the pool and the kernels of u are queued: kernels are always
 * queued first, then the host may block. A unit goes back to the loader when the device has read
 * it, never when the copy is queued.
 *
 * At most COPIES_MAX copies are queued that the device has not finished, and before the host blocks
 * for a unit it waits for all of them, and gives back what they read: a loader with a single free
 * place can always bring the next unit.
 *
 * Copies, kernels and waits are timed by marks; a piece's are read when it is done.
 */
#include "worker/stream.h"

#include <assert.h>

#include "common/clock.h"
#include "common/mem.h"
#include "common/size.h"
#include "worker/stream_impl.h"

/* How long the host looks for the end of a pass before it sleeps for it. The head of an 8B model
 * takes a GPU 0.1 to 0.4 ms. */
#define LOOK_NS (LAM_NS_PER_MS / 2)

static struct stream *self_of(struct lam_weights *weights)
{
    return (struct stream *)weights;
}

static bool is_layer(const struct stream *self, uint32_t piece)
{
    const struct lam_manifest *manifest = &lam_units_model(self->config.units)->manifest;

    return manifest->units[self->config.plan->pieces[piece].unit].kind == LAM_UNIT_LAYER;
}

/* ---- a pass */

static void stream_begin(struct lam_weights *weights)
{
    struct stream *self = self_of(weights);

    self->profile = (struct lam_pass_profile){0};
    self->stall_ns = lam_units_stall_ns(self->config.units);
    self->queue_stall_ns = 0;
    lam_stream_mark_begin(self);
}

static const unsigned char *stream_find(struct lam_weights *weights, uint32_t piece)
{
    const struct stream *self = self_of(weights);
    const struct lam_plan_piece *what = &self->config.plan->pieces[piece];

    return what->tier == LAM_TIER_DEVICE ? self->config.arena + what->offset : NULL;
}

static enum lam_status stream_acquire(struct lam_weights *weights, uint32_t piece,
    const unsigned char **ret_base, struct lam_err *err)
{
    struct stream *self = self_of(weights);
    const struct lam_device_ops *device = self->config.device;
    struct lam_kernels *kernels = self->config.kernels;
    uint64_t e = self->n_computed;
    enum lam_status status = LAM_OK;

    if (piece == self->head)
        device->mark_compute(kernels, MARK_HEAD);
    *ret_base = stream_find(weights, piece);
    if (*ret_base)
        return LAM_OK;
    assert(self->walk.order[e % self->walk.n] == piece);
    if (e >= self->n_counted + MARKED) /* its marks are still those of an older piece */
        status = lam_stream_count(self, err);
    if (status != LAM_OK)
        return status;
    /* Before the host may block for the unit: the device is waiting from here on. */
    device->mark_compute(kernels, lam_stream_mark(e, WAIT_BEGIN));
    while (status == LAM_OK && self->n_issued <= e)
        status = lam_stream_issue(self, err);
    if (status != LAM_OK)
        return status;
    device->compute_wait(kernels, lam_stream_mark(e, COPY_END));
    device->mark_compute(kernels, lam_stream_mark(e, WAIT_END));
    *ret_base = lam_stream_address(self, e);
    return LAM_OK;
}

static void stream_release(struct lam_weights *weights, uint32_t piece)
{
    struct stream *self = self_of(weights);
    uint64_t e = self->n_computed;

    if (self->config.plan->pieces[piece].tier != LAM_TIER_DEVICE) {
        self->config.device->mark_compute(self->config.kernels, lam_stream_mark(e, USED));
        self->n_computed++;
    }
    lam_stream_issue_ahead(self, false);
}

/* To wake up takes a host 0.1 to 0.2 ms, of a token's 6: so it wakes for the beginning of the head,
 * and looks for its end. */
static enum lam_status wait_for_end(struct stream *self, struct lam_err *err)
{
    const struct lam_device_ops *device = self->config.device;
    struct lam_kernels *kernels = self->config.kernels;
    enum lam_status status = device->host_wait(kernels, MARK_HEAD, err);
    uint64_t until_ns = lam_now_ns() + LOOK_NS;

    if (status != LAM_OK)
        return status;
    while (!device->reached(kernels, MARK_PASS_END) && lam_now_ns() < until_ns)
        ;
    return device->host_wait(kernels, MARK_PASS_END, err);
}

static enum lam_status stream_finish(
    struct lam_weights *weights, struct lam_pass_profile *profile, struct lam_err *err)
{
    struct stream *self = self_of(weights);
    const struct lam_device_ops *device = self->config.device;
    uint64_t gather_ns, device_ns, waits_ns;
    enum lam_status status;

    device->mark_compute(self->config.kernels, MARK_PASS_END);
    lam_stream_issue_ahead(self, true);
    gather_ns = lam_units_stall_ns(self->config.units) - self->stall_ns - self->queue_stall_ns;
    status = wait_for_end(self, err);
    lam_stream_issue_ahead(self, false);
    while (status == LAM_OK && self->n_counted < self->n_computed)
        status = lam_stream_count(self, err);
    if (status != LAM_OK)
        return status;
    device_ns = device->elapsed_ns(self->config.kernels, MARK_PASS_BEGIN, MARK_PASS_END);
    lam_stream_trace_end(self, self->begin_ns + device_ns);
    *profile = (struct lam_pass_profile){
        .begin_ns = profile->begin_ns,
        .disk_wait_ns = self->profile.disk_wait_ns + gather_ns,
        .link_wait_ns = self->profile.link_wait_ns,
        .copy_ns = self->profile.copy_ns,
        .link_bytes = self->profile.link_bytes,
        .resident_bytes = self->resident_bytes,
    };
    waits_ns = profile->disk_wait_ns + profile->link_wait_ns;
    profile->compute_ns = device_ns > waits_ns ? device_ns - waits_ns : 0;
    return LAM_OK;
}

/* ---- start and end */

static bool is_in_walk(const struct lam_plan_piece *piece, bool resident)
{
    return (piece->tier == LAM_TIER_DEVICE) == resident;
}

static enum lam_status make_walk(struct stream *self, bool resident, struct lam_err *err)
{
    const struct lam_plan *plan = self->config.plan;
    struct walk walk = {0};

    walk.order = lam_calloc(plan->n_pieces, sizeof *walk.order);
    walk.cycle = lam_calloc(plan->n_units, sizeof *walk.cycle);
    for (uint32_t p = 0; walk.order && walk.cycle && p < plan->n_pieces; p++) {
        uint32_t unit = plan->pieces[p].unit;

        if (!is_in_walk(&plan->pieces[p], resident))
            continue;
        walk.order[walk.n++] = p;
        if (walk.n_units == 0 || walk.cycle[walk.n_units - 1] != unit)
            walk.cycle[walk.n_units++] = unit;
    }
    lam_free(self->walk.order);
    lam_free(self->walk.cycle);
    self->walk = walk;
    if (!walk.order || !walk.cycle)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the order of copies");
    return LAM_OK;
}

/* Rows of the embedding come through the host, unless their matrix is on the device. */
static bool wants_table(const struct stream *self)
{
    return self->arena->regions[LAM_REGION_EMBEDDING].bytes == 0 &&
           lam_units_table_kept(self->config.units);
}

static enum lam_status open_walk(struct stream *self, bool once, struct lam_err *err)
{
    const struct lam_units_session session = {
        .cycle = self->walk.cycle,
        .n_units = self->walk.n_units,
        .n_ahead = COPIES_MAX,
        .once = once,
        .rows = !once && wants_table(self),
    };

    return lam_units_open(self->config.units, &session, err);
}

/* What stays on the device, through a session of its own. */
static enum lam_status load_residents(struct stream *self, struct lam_err *err)
{
    enum lam_status status = make_walk(self, true, err);

    if (status != LAM_OK || self->walk.n == 0)
        return status;
    lam_stream_mark_begin(self);
    status = open_walk(self, true, err);
    while (status == LAM_OK && self->n_issued < self->walk.n) {
        self->resident_bytes += lam_stream_piece(self, self->n_issued)->bytes;
        status = lam_stream_issue(self, err);
    }
    while (status == LAM_OK && self->n_copied < self->n_issued)
        status = lam_stream_finish_copy(self, err);
    if (status != LAM_OK)
        return status;
    lam_units_close(self->config.units);
    self->n_issued = 0;
    self->n_copied = 0;
    return LAM_OK;
}

static void stream_destroy(struct lam_weights *weights)
{
    struct stream *self = self_of(weights);
    enum lam_status status = LAM_OK;

    /* The pool stays until nobody reads it. */
    for (; status == LAM_OK && self->n_copied < self->n_issued; self->n_copied++)
        status = self->config.device->host_wait(
            self->config.kernels, lam_stream_mark(self->n_copied, COPY_END), NULL);
    lam_units_close(self->config.units);
    if (self->pinning)
        lam_pin_stop(&self->pin);
    lam_free(self->walk.order);
    lam_free(self->walk.cycle);
    lam_free(self);
}

static const struct lam_weights_ops stream_ops = {
    .begin = stream_begin,
    .acquire = stream_acquire,
    .release = stream_release,
    .find = stream_find,
    .finish = stream_finish,
    .destroy = stream_destroy,
};

enum lam_status lam_stream_create(
    const struct lam_stream_config *config, struct lam_weights **ret_weights, struct lam_err *err)
{
    struct stream *self = lam_calloc(1, sizeof *self);
    enum lam_status status;

    if (!self)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the weights");
    self->weights.ops = &stream_ops;
    self->config = *config;
    self->arena = &config->plan->arenas[0];
    while (self->head < config->plan->n_pieces && is_layer(self, self->head))
        self->head++;
    lam_ring_init(&self->ring, self->arena->regions[LAM_REGION_SLOTS].bytes);
    if (self->config.pin_bytes == 0)
        self->config.pin_bytes = LAM_GIB;
    status = lam_pin_start(&self->pin, config->device, config->kernels,
        lam_units_pool(config->units), self->config.pin_bytes, err);
    self->pinning = status == LAM_OK;
    if (status == LAM_OK)
        status = load_residents(self, err);
    if (status == LAM_OK)
        status = make_walk(self, false, err);
    if (status == LAM_OK && (self->walk.n > 0 || wants_table(self)))
        status = open_walk(self, false, err);
    if (status != LAM_OK) {
        stream_destroy(&self->weights);
        return status;
    }
    *ret_weights = &self->weights;
    return LAM_OK;
}
