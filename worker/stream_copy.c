/*
 * stream_copy: the copies of stream.h: which may be queued, whose units go back, what they took.
 */
#include <assert.h>

#include "common/clock.h"
#include "common/trace.h"
#include "worker/stream_impl.h"

/* Of a streamed piece, up to the next one to be issued. */
static const struct lam_ring_place *place_of(struct stream *self, uint64_t e)
{
    if (e == self->ring.n)
        lam_ring_add(&self->ring, lam_stream_piece(self, e)->device_bytes,
            lam_stream_piece(self, e + 1)->device_bytes);
    return lam_ring_at(&self->ring, e);
}

static bool is_first_of_unit(const struct stream *self, uint64_t e)
{
    return e % self->walk.n == 0 ||
           lam_stream_piece(self, e)->unit != lam_stream_piece(self, e - 1)->unit;
}

static bool is_last_of_unit(const struct stream *self, uint64_t e)
{
    return (e + 1) % self->walk.n == 0 ||
           lam_stream_piece(self, e)->unit != lam_stream_piece(self, e + 1)->unit;
}

unsigned char *lam_stream_address(struct stream *self, uint64_t e)
{
    const struct lam_plan_piece *piece = lam_stream_piece(self, e);

    if (piece->tier == LAM_TIER_DEVICE)
        return self->config.arena + piece->offset;
    return self->config.arena + self->arena->regions[LAM_REGION_SLOTS].offset +
           place_of(self, e)->begin;
}

/* ---- spans */

/* Which of the streamed pieces of a pass it is; nothing for one that stays. */
static uint32_t trace_slot(const struct stream *self, uint64_t e)
{
    return lam_stream_piece(self, e)->tier == LAM_TIER_DEVICE ? LAM_TRACE_NONE
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

void lam_stream_mark_begin(struct stream *self)
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
    const struct lam_plan_piece *piece = lam_stream_piece(self, e);

    if (lam_trace_on())
        trace_span(LAM_TRACE_COPY, "copy", host_ns(self, lam_stream_mark(e, COPY_BEGIN)),
            host_ns(self, lam_stream_mark(e, COPY_END)), piece->unit, trace_slot(self, e),
            piece->bytes);
}

/* What the device did for streamed piece e: its copy, the kernels before it, their wait for it. */
static void trace_piece(struct stream *self, uint64_t e)
{
    uint64_t wait_ns, end_ns;

    if (!lam_trace_on())
        return;
    trace_copy(self, e);
    wait_ns = host_ns(self, lam_stream_mark(e, WAIT_BEGIN));
    end_ns = host_ns(self, lam_stream_mark(e, WAIT_END));
    trace_span(
        LAM_TRACE_COMPUTE, "kernels", self->kernels_ns, wait_ns, LAM_TRACE_NONE, LAM_TRACE_NONE, 0);
    trace_span(LAM_TRACE_COMPUTE, "wait for copy", wait_ns, end_ns, lam_stream_piece(self, e)->unit,
        trace_slot(self, e), 0);
    self->kernels_ns = end_ns;
}

void lam_stream_trace_end(const struct stream *self, uint64_t end_ns)
{
    trace_span(
        LAM_TRACE_COMPUTE, "kernels", self->kernels_ns, end_ns, LAM_TRACE_NONE, LAM_TRACE_NONE, 0);
}

/* ---- copies */

enum lam_status lam_stream_finish_copy(struct stream *self, struct lam_err *err)
{
    uint64_t e = self->n_copied;
    enum lam_status status;

    assert(e < self->n_issued);
    status =
        self->config.device->host_wait(self->config.kernels, lam_stream_mark(e, COPY_END), err);
    if (status != LAM_OK)
        return status;
    /* Those that are streamed are traced with their waits. */
    if (lam_stream_piece(self, e)->tier == LAM_TIER_DEVICE &&
        self->config.device->reached(self->config.kernels, MARK_PASS_BEGIN))
        trace_copy(self, e);
    if (is_last_of_unit(self, e)) {
        lam_units_release(self->config.units, lam_stream_piece(self, e)->unit);
        self->n_held--;
    }
    self->n_copied++;
    return LAM_OK;
}

/* Takes the unit of piece e, and gives back all others first if it must wait for that. */
static enum lam_status take_unit(struct stream *self, uint64_t e, struct lam_err *err)
{
    uint32_t unit = lam_stream_piece(self, e)->unit;
    uint64_t stall_ns = lam_units_stall_ns(self->config.units);
    enum lam_status status = LAM_OK;
    const void *base;

    while (status == LAM_OK && self->n_copied < self->n_issued &&
           (self->n_held == self->walk.n_units || !lam_units_ready(self->config.units, unit)))
        status = lam_stream_finish_copy(self, err);
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

enum lam_status lam_stream_count(struct stream *self, struct lam_err *err)
{
    const struct lam_device_ops *device = self->config.device;
    struct lam_kernels *kernels = self->config.kernels;
    uint64_t e = self->n_counted;
    uint64_t blocked_ns = self->blocked_ns[e % MARKED];
    uint64_t wait_ns, disk_ns;
    enum lam_status status;

    assert(e < self->n_computed);
    status = device->host_wait(kernels, lam_stream_mark(e, WAIT_END), err);
    if (status != LAM_OK)
        return status;
    wait_ns =
        device->elapsed_ns(kernels, lam_stream_mark(e, WAIT_BEGIN), lam_stream_mark(e, WAIT_END));
    disk_ns = blocked_ns < wait_ns ? blocked_ns : wait_ns;
    self->profile.disk_wait_ns += disk_ns;
    self->profile.link_wait_ns += wait_ns - disk_ns;
    self->profile.copy_ns +=
        device->elapsed_ns(kernels, lam_stream_mark(e, COPY_BEGIN), lam_stream_mark(e, COPY_END));
    self->profile.link_bytes += lam_stream_piece(self, e)->bytes;
    trace_piece(self, e);
    self->n_counted++;
    return LAM_OK;
}

enum lam_status lam_stream_issue(struct stream *self, struct lam_err *err)
{
    const struct lam_device_ops *device = self->config.device;
    struct lam_kernels *kernels = self->config.kernels;
    uint64_t e = self->n_issued;
    const struct lam_plan_piece *piece = lam_stream_piece(self, e);
    unsigned char *to = lam_stream_address(self, e);
    enum lam_status status = LAM_OK;

    while (status == LAM_OK && self->n_issued - self->n_copied >= COPIES_MAX)
        status = lam_stream_finish_copy(self, err);
    if (status == LAM_OK && piece->tier != LAM_TIER_DEVICE && e >= self->n_counted + MARKED)
        status = lam_stream_count(self, err);
    if (status != LAM_OK)
        return status;
    self->blocked_ns[e % MARKED] = 0;
    if (is_first_of_unit(self, e))
        status = take_unit(self, e, err);
    if (status != LAM_OK)
        return status;
    if (piece->tier != LAM_TIER_DEVICE && place_of(self, e)->n_before > 0)
        device->copy_wait(kernels, lam_stream_mark(place_of(self, e)->n_before - 1, USED));
    device->mark_copy(kernels, lam_stream_mark(e, COPY_BEGIN));
    for (uint32_t s = 0; s < piece->n_spans; s++)
        copy_span(self, to + piece->spans[s].piece_offset, self->unit + piece->spans[s].unit_offset,
            piece->spans[s].bytes);
    device->mark_copy(kernels, lam_stream_mark(e, COPY_END));
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

void lam_stream_issue_ahead(struct stream *self, bool patient)
{
    const struct lam_device_ops *device = self->config.device;

    while (self->walk.n > 0 && has_room(self)) {
        uint64_t e = self->n_issued;
        uint32_t unit = lam_stream_piece(self, e)->unit;

        while (self->n_copied < self->n_issued &&
               (device->reached(self->config.kernels, lam_stream_mark(self->n_copied, COPY_END)) ||
                   (patient && self->n_copied < self->n_computed &&
                       self->n_issued - self->n_copied >= COPIES_MAX)))
            if (lam_stream_finish_copy(self, NULL) != LAM_OK)
                return; /* the device keeps its error for the next wait */
        if (self->n_issued - self->n_copied >= COPIES_MAX)
            return;
        if (is_first_of_unit(self, e) &&
            (self->n_held == self->walk.n_units || !lam_units_ready(self->config.units, unit)))
            return;
        if (lam_stream_issue(self, NULL) != LAM_OK)
            return; /* a unit's fault is met again when the piece is needed */
    }
}
