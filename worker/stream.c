/*
 * stream: see stream.h.
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

#include "common/mem.h"
#include "common/size.h"
#include "common/trace.h"
#include "worker/pin.h"
#include "worker/ring.h"

#define MARKED 50u /* pieces whose marks are kept: more than can be under way */
#define COPIES_MAX 3u

enum piece_mark { COPY_BEGIN, COPY_END, WAIT_BEGIN, WAIT_END, USED, PIECE_MARKS };

#define MARK_PASS_BEGIN (MARKED * PIECE_MARKS)
#define MARK_PASS_END (MARK_PASS_BEGIN + 1)
#define MARK_HEAD (MARK_PASS_BEGIN + 2) /* the head is next, if the pass has one */

/* How long the host looks for the end of a pass before it sleeps for it. The head of an 8B model
 * takes a GPU 0.1 to 0.4 ms. */
#define LOOK_NS (LAM_NS_PER_MS / 2)

_Static_assert(MARK_HEAD < LAM_DEVICE_MARKS, "the device has a mark for everything");
_Static_assert(LAM_RING_PLACES < MARKED, "the piece that a copy waits for has its marks");

/* Pieces in the order in which they are copied: once around, or again and again. */
struct walk {
    uint32_t *order; /* [n] pieces of the plan, ascending */
    uint32_t n;
    uint32_t *cycle; /* [n_units] */
    uint32_t n_units;
};

struct stream {
    struct lam_weights weights;
    struct lam_stream_config config;
    const struct lam_plan_arena *arena;
    struct walk walk;
    uint32_t head;        /* the first piece that is not a layer's */
    struct lam_ring ring; /* of streamed pieces, to the next one to be issued at most */
    struct lam_pin pin;
    bool pinning;
    /* Running numbers; pieces from n_copied to n_issued are under way. */
    uint64_t n_issued;
    uint64_t n_copied;           /* ... on the device, and their units given back */
    uint64_t n_computed;         /* whose kernels are queued */
    uint64_t n_counted;          /* whose marks are read */
    uint32_t n_held;             /* units that the loader cannot have back yet */
    const unsigned char *unit;   /* the one acquired last */
    uint64_t blocked_ns[MARKED]; /* for a piece's unit */
    uint64_t resident_bytes;
    /* Of the pass under way. */
    struct lam_pass_profile profile;
    uint64_t stall_ns; /* of the units, at its beginning */
    uint64_t queue_stall_ns;
    uint64_t begin_ns;   /* on the host: when the device was idle and the pass began */
    uint64_t kernels_ns; /* end of the last wait that a span was made of */
};

static struct stream *self_of(struct lam_weights *weights)
{
    return (struct stream *)weights;
}

static uint32_t mark_of(uint64_t e, enum piece_mark mark)
{
    return (uint32_t)(e % MARKED) * PIECE_MARKS + mark;
}

static const struct lam_plan_piece *piece_of(const struct stream *self, uint64_t e)
{
    return &self->config.plan->pieces[self->walk.order[e % self->walk.n]];
}

/* Of a streamed piece, up to the next one to be issued. */
static const struct lam_ring_place *place_of(struct stream *self, uint64_t e)
{
    if (e == self->ring.n)
        lam_ring_add(
            &self->ring, piece_of(self, e)->device_bytes, piece_of(self, e + 1)->device_bytes);
    return lam_ring_at(&self->ring, e);
}

static bool is_layer(const struct stream *self, uint32_t piece)
{
    const struct lam_manifest *manifest = &lam_units_model(self->config.units)->manifest;

    return manifest->units[self->config.plan->pieces[piece].unit].kind == LAM_UNIT_LAYER;
}

static bool is_first_of_unit(const struct stream *self, uint64_t e)
{
    return e % self->walk.n == 0 || piece_of(self, e)->unit != piece_of(self, e - 1)->unit;
}

static bool is_last_of_unit(const struct stream *self, uint64_t e)
{
    return (e + 1) % self->walk.n == 0 || piece_of(self, e)->unit != piece_of(self, e + 1)->unit;
}

static unsigned char *address_of(struct stream *self, uint64_t e)
{
    const struct lam_plan_piece *piece = piece_of(self, e);

    if (piece->tier == LAM_TIER_DEVICE)
        return self->config.arena + piece->offset;
    return self->config.arena + self->arena->regions[LAM_REGION_SLOTS].offset +
           place_of(self, e)->begin;
}

/* ---- spans */

/* Which of the streamed pieces of a pass it is; nothing for one that stays. */
static uint32_t trace_slot(const struct stream *self, uint64_t e)
{
    return piece_of(self, e)->tier == LAM_TIER_DEVICE ? LAM_TRACE_NONE
                                                      : (uint32_t)(e % self->walk.n);
}

/* When the device reached a mark, on the host's clock, whose reading at the beginning of the pass
 * is known. Copies for this pass may have begun before. */
static uint64_t host_ns(const struct stream *self, uint32_t mark)
{
    const struct lam_device_ops *device = self->config.device;
    uint64_t after_ns = device->elapsed_ns(self->config.kernels, MARK_PASS_BEGIN, mark);

    if (after_ns > 0)
        return self->begin_ns + after_ns;
    return self->begin_ns - device->elapsed_ns(self->config.kernels, mark, MARK_PASS_BEGIN);
}

/* The one moment that is known on both clocks: the compute queue is empty and reaches the mark at
 * once. */
static void mark_begin(struct stream *self)
{
    self->config.device->mark_compute(self->config.kernels, MARK_PASS_BEGIN);
    self->begin_ns = self->kernels_ns = lam_now_ns();
}

static void trace_span(enum lam_trace_track track, const char *name, uint64_t begin_ns,
    uint64_t end_ns, uint32_t unit, uint32_t slot, uint64_t n_bytes)
{
    lam_trace_add(&(struct lam_trace_span){.track = track,
        .name = name,
        .begin_ns = begin_ns,
        .end_ns = end_ns > begin_ns ? end_ns : begin_ns,
        .unit = unit,
        .slot = slot,
        .bytes = n_bytes});
}

static void trace_copy(const struct stream *self, uint64_t e)
{
    const struct lam_plan_piece *piece = piece_of(self, e);

    if (lam_trace_on())
        trace_span(LAM_TRACE_COPY, "copy", host_ns(self, mark_of(e, COPY_BEGIN)),
            host_ns(self, mark_of(e, COPY_END)), piece->unit, trace_slot(self, e), piece->bytes);
}

/* What the device did for streamed piece e: its copy, the kernels before it, their wait for it. */
static void trace_piece(struct stream *self, uint64_t e)
{
    uint64_t wait_ns, end_ns;

    if (!lam_trace_on())
        return;
    trace_copy(self, e);
    wait_ns = host_ns(self, mark_of(e, WAIT_BEGIN));
    end_ns = host_ns(self, mark_of(e, WAIT_END));
    trace_span(
        LAM_TRACE_COMPUTE, "kernels", self->kernels_ns, wait_ns, LAM_TRACE_NONE, LAM_TRACE_NONE, 0);
    trace_span(LAM_TRACE_COMPUTE, "wait for copy", wait_ns, end_ns, piece_of(self, e)->unit,
        trace_slot(self, e), 0);
    self->kernels_ns = end_ns;
}

/* ---- copies */

/* Waits until the oldest copy is on the device; its unit goes back with its last piece. */
static enum lam_status finish_copy(struct stream *self, struct lam_err *err)
{
    uint64_t e = self->n_copied;
    enum lam_status status;

    assert(e < self->n_issued);
    status = self->config.device->host_wait(self->config.kernels, mark_of(e, COPY_END), err);
    if (status != LAM_OK)
        return status;
    /* Those that are streamed are traced with their waits. */
    if (piece_of(self, e)->tier == LAM_TIER_DEVICE &&
        self->config.device->reached(self->config.kernels, MARK_PASS_BEGIN))
        trace_copy(self, e);
    if (is_last_of_unit(self, e)) {
        lam_units_release(self->config.units, piece_of(self, e)->unit);
        self->n_held--;
    }
    self->n_copied++;
    return LAM_OK;
}

/* Takes the unit of piece e, and gives back all others first if it must wait for that. */
static enum lam_status take_unit(struct stream *self, uint64_t e, struct lam_err *err)
{
    uint32_t unit = piece_of(self, e)->unit;
    uint64_t stall_ns = lam_units_stall_ns(self->config.units);
    enum lam_status status = LAM_OK;
    const void *base;

    while (status == LAM_OK && self->n_copied < self->n_issued &&
           (self->n_held == self->walk.n_units || !lam_units_ready(self->config.units, unit)))
        status = finish_copy(self, err);
    if (status == LAM_OK)
        status = lam_units_acquire(self->config.units, unit, &base, err);
    if (status != LAM_OK)
        return status;
    self->unit = base;
    self->n_held++;
    self->blocked_ns[e % MARKED] = lam_units_stall_ns(self->config.units) - stall_ns;
    self->queue_stall_ns += self->blocked_ns[e % MARKED];
    return LAM_OK;
}

/* A copy may not cross two pinned pieces of the pool. */
static void copy_span(
    struct stream *self, unsigned char *to, const unsigned char *from, uint64_t bytes)
{
    uint64_t offset = (uint64_t)(from - lam_units_pool(self->config.units).base);

    for (uint64_t done = 0; done < bytes;) {
        uint64_t left = self->config.pin_bytes - (offset + done) % self->config.pin_bytes;
        uint64_t n = bytes - done < left ? bytes - done : left;

        self->config.device->copy_in(self->config.kernels, to + done, from + done, n);
        done += n;
    }
}

/* Adds what the marks of the oldest computed piece say; they may be used again then. */
static enum lam_status count_piece(struct stream *self, struct lam_err *err)
{
    const struct lam_device_ops *device = self->config.device;
    struct lam_kernels *kernels = self->config.kernels;
    uint64_t e = self->n_counted;
    uint64_t blocked_ns = self->blocked_ns[e % MARKED];
    uint64_t wait_ns, disk_ns;
    enum lam_status status;

    assert(e < self->n_computed);
    status = device->host_wait(kernels, mark_of(e, WAIT_END), err);
    if (status != LAM_OK)
        return status;
    wait_ns = device->elapsed_ns(kernels, mark_of(e, WAIT_BEGIN), mark_of(e, WAIT_END));
    disk_ns = blocked_ns < wait_ns ? blocked_ns : wait_ns;
    self->profile.disk_wait_ns += disk_ns;
    self->profile.link_wait_ns += wait_ns - disk_ns;
    self->profile.copy_ns +=
        device->elapsed_ns(kernels, mark_of(e, COPY_BEGIN), mark_of(e, COPY_END));
    self->profile.link_bytes += piece_of(self, e)->bytes;
    trace_piece(self, e);
    self->n_counted++;
    return LAM_OK;
}

/* Queues the copy of piece n_issued. */
static enum lam_status issue(struct stream *self, struct lam_err *err)
{
    const struct lam_device_ops *device = self->config.device;
    struct lam_kernels *kernels = self->config.kernels;
    uint64_t e = self->n_issued;
    const struct lam_plan_piece *piece = piece_of(self, e);
    unsigned char *to = address_of(self, e);
    enum lam_status status = LAM_OK;

    while (status == LAM_OK && self->n_issued - self->n_copied >= COPIES_MAX)
        status = finish_copy(self, err);
    if (status == LAM_OK && piece->tier != LAM_TIER_DEVICE && e >= self->n_counted + MARKED)
        status = count_piece(self, err);
    if (status != LAM_OK)
        return status;
    self->blocked_ns[e % MARKED] = 0;
    if (is_first_of_unit(self, e))
        status = take_unit(self, e, err);
    if (status != LAM_OK)
        return status;
    if (piece->tier != LAM_TIER_DEVICE && place_of(self, e)->n_before > 0)
        device->copy_wait(kernels, mark_of(place_of(self, e)->n_before - 1, USED));
    device->mark_copy(kernels, mark_of(e, COPY_BEGIN));
    for (uint32_t s = 0; s < piece->n_spans; s++)
        copy_span(self, to + piece->spans[s].piece_offset, self->unit + piece->spans[s].unit_offset,
            piece->spans[s].bytes);
    device->mark_copy(kernels, mark_of(e, COPY_END));
    self->n_issued++;
    return LAM_OK;
}

/* Whether the place of the next piece is queued to become free. */
static bool has_room(struct stream *self)
{
    uint64_t e = self->n_issued;

    return e < self->n_computed + LAM_RING_PLACES &&
           place_of(self, e)->n_before <= self->n_computed;
}

/* Queues what can be queued without blocking for a unit; patient: it may block for copies that the
 * kernels which are queued wait for. */
static void issue_ahead(struct stream *self, bool patient)
{
    const struct lam_device_ops *device = self->config.device;

    while (self->walk.n > 0 && has_room(self)) {
        uint64_t e = self->n_issued;
        uint32_t unit = piece_of(self, e)->unit;

        while (self->n_copied < self->n_issued &&
               (device->reached(self->config.kernels, mark_of(self->n_copied, COPY_END)) ||
                   (patient && self->n_copied < self->n_computed &&
                       self->n_issued - self->n_copied >= COPIES_MAX)))
            if (finish_copy(self, NULL) != LAM_OK)
                return; /* the device keeps its error for the next wait */
        if (self->n_issued - self->n_copied >= COPIES_MAX)
            return;
        if (is_first_of_unit(self, e) &&
            (self->n_held == self->walk.n_units || !lam_units_ready(self->config.units, unit)))
            return;
        if (issue(self, NULL) != LAM_OK)
            return; /* a unit's fault is met again when the piece is needed */
    }
}

/* ---- a pass */

static void stream_begin(struct lam_weights *weights)
{
    struct stream *self = self_of(weights);

    self->profile = (struct lam_pass_profile){0};
    self->stall_ns = lam_units_stall_ns(self->config.units);
    self->queue_stall_ns = 0;
    mark_begin(self);
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
        status = count_piece(self, err);
    if (status != LAM_OK)
        return status;
    /* Before the host may block for the unit: the device is waiting from here on. */
    device->mark_compute(kernels, mark_of(e, WAIT_BEGIN));
    while (status == LAM_OK && self->n_issued <= e)
        status = issue(self, err);
    if (status != LAM_OK)
        return status;
    device->compute_wait(kernels, mark_of(e, COPY_END));
    device->mark_compute(kernels, mark_of(e, WAIT_END));
    *ret_base = address_of(self, e);
    return LAM_OK;
}

static void stream_release(struct lam_weights *weights, uint32_t piece)
{
    struct stream *self = self_of(weights);
    uint64_t e = self->n_computed;

    if (self->config.plan->pieces[piece].tier != LAM_TIER_DEVICE) {
        self->config.device->mark_compute(self->config.kernels, mark_of(e, USED));
        self->n_computed++;
    }
    issue_ahead(self, false);
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
    issue_ahead(self, true);
    gather_ns = lam_units_stall_ns(self->config.units) - self->stall_ns - self->queue_stall_ns;
    status = wait_for_end(self, err);
    issue_ahead(self, false);
    while (status == LAM_OK && self->n_counted < self->n_computed)
        status = count_piece(self, err);
    if (status != LAM_OK)
        return status;
    device_ns = device->elapsed_ns(self->config.kernels, MARK_PASS_BEGIN, MARK_PASS_END);
    trace_span(LAM_TRACE_COMPUTE, "kernels", self->kernels_ns, self->begin_ns + device_ns,
        LAM_TRACE_NONE, LAM_TRACE_NONE, 0);
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
    mark_begin(self);
    status = open_walk(self, true, err);
    while (status == LAM_OK && self->n_issued < self->walk.n) {
        self->resident_bytes += piece_of(self, self->n_issued)->bytes;
        status = issue(self, err);
    }
    while (status == LAM_OK && self->n_copied < self->n_issued)
        status = finish_copy(self, err);
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
            self->config.kernels, mark_of(self->n_copied, COPY_END), NULL);
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
