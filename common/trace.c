/*
 * trace: see trace.h. A ring of slots of one cache line. A writer takes the next number and stamps
 * its slot odd, fills it, and stamps it even; a reader believes a slot that bears the even stamp of
 * the number before and after. Fields are stored with release and loaded with acquire: whoever sees
 * a field of a newer span also sees that span's odd stamp.
 */
#include "common/trace.h"

#include <assert.h>

struct slot {
    _Alignas(64) _Atomic uint64_t stamp; /* 2 n + 1 while span n is written, 2 n + 2 from then on */
    _Atomic uint64_t begin_ns;
    _Atomic uint64_t end_ns;
    _Atomic uint64_t bytes;
    _Atomic uint64_t where; /* slot << 32 | unit */
    const char *_Atomic name;
    _Atomic uint32_t track;
};

static_assert((LAM_TRACE_SPANS & (LAM_TRACE_SPANS - 1)) == 0, "numbers wrap with the ring");
static_assert(sizeof(struct slot) == 64, "one cache line");

atomic_uint lam_trace_recordings;

static struct slot ring[LAM_TRACE_SPANS]; /* takes no memory before the first recording */
static _Atomic uint64_t n_taken;          /* numbers given to writers */

/* False: another writer, a whole lap behind or ahead, has the slot, and this span is lost. */
static bool claim(struct slot *slot, uint64_t number)
{
    uint64_t stamp = atomic_load_explicit(&slot->stamp, memory_order_relaxed);

    return stamp % 2 == 0 && stamp < 2 * number + 1 &&
           atomic_compare_exchange_strong_explicit(
               &slot->stamp, &stamp, 2 * number + 1, memory_order_acquire, memory_order_relaxed);
}

void lam_trace_add(const struct lam_trace_span *span)
{
    uint64_t number;
    struct slot *slot;

    if (!lam_trace_on())
        return;
    assert(span->end_ns >= span->begin_ns);
    number = atomic_fetch_add_explicit(&n_taken, 1, memory_order_relaxed);
    slot = &ring[number % LAM_TRACE_SPANS];
    if (!claim(slot, number))
        return;
    atomic_store_explicit(&slot->begin_ns, span->begin_ns, memory_order_release);
    atomic_store_explicit(&slot->end_ns, span->end_ns, memory_order_release);
    atomic_store_explicit(&slot->bytes, span->bytes, memory_order_release);
    atomic_store_explicit(
        &slot->where, (uint64_t)span->slot << 32 | span->unit, memory_order_release);
    atomic_store_explicit(&slot->name, span->name, memory_order_release);
    atomic_store_explicit(&slot->track, (uint32_t)span->track, memory_order_release);
    atomic_store_explicit(&slot->stamp, 2 * number + 2, memory_order_release);
}

void lam_trace_end(enum lam_trace_track track, const char *name, uint64_t begin_ns, uint32_t unit,
    uint32_t slot, uint64_t n_bytes)
{
    if (begin_ns == 0 || !lam_trace_on())
        return;
    lam_trace_add(&(struct lam_trace_span){.track = track,
        .name = name,
        .begin_ns = begin_ns,
        .end_ns = lam_now_ns(),
        .unit = unit,
        .slot = slot,
        .bytes = n_bytes});
}

struct lam_trace_mark lam_trace_start(void)
{
    struct lam_trace_mark mark = {
        .since_ns = lam_now_ns(), .number = atomic_load_explicit(&n_taken, memory_order_relaxed)};

    atomic_fetch_add_explicit(&lam_trace_recordings, 1, memory_order_relaxed);
    return mark;
}

void lam_trace_stop(void)
{
    unsigned before = atomic_fetch_sub_explicit(&lam_trace_recordings, 1, memory_order_relaxed);

    assert(before > 0);
    (void)before;
}

/* False: it is being written, or a newer one has its slot. */
static bool read_one(uint64_t number, struct lam_trace_span *ret_span)
{
    struct slot *slot = &ring[number % LAM_TRACE_SPANS];
    struct lam_trace_span span;
    uint64_t where;

    if (atomic_load_explicit(&slot->stamp, memory_order_acquire) != 2 * number + 2)
        return false;
    span.begin_ns = atomic_load_explicit(&slot->begin_ns, memory_order_acquire);
    span.end_ns = atomic_load_explicit(&slot->end_ns, memory_order_acquire);
    span.bytes = atomic_load_explicit(&slot->bytes, memory_order_acquire);
    where = atomic_load_explicit(&slot->where, memory_order_acquire);
    span.name = atomic_load_explicit(&slot->name, memory_order_acquire);
    span.track = (enum lam_trace_track)atomic_load_explicit(&slot->track, memory_order_acquire);
    span.unit = (uint32_t)where;
    span.slot = (uint32_t)(where >> 32);
    *ret_span = span;
    return atomic_load_explicit(&slot->stamp, memory_order_relaxed) == 2 * number + 2;
}

size_t lam_trace_read(const struct lam_trace_mark *mark, struct lam_trace_span *spans, size_t n_max,
    uint64_t *ret_lost)
{
    uint64_t end = atomic_load_explicit(&n_taken, memory_order_acquire);
    uint64_t begin = mark->number;
    uint64_t lost = 0;
    size_t n = 0;

    if (end - begin > LAM_TRACE_SPANS) {
        lost = end - begin - LAM_TRACE_SPANS;
        begin += lost;
    }
    if (end - begin > n_max) {
        lost += end - begin - n_max;
        begin = end - n_max;
    }
    for (uint64_t number = begin; number < end; number++) {
        if (!read_one(number, &spans[n]))
            lost++;
        else if (spans[n].begin_ns >= mark->since_ns)
            n++;
    }
    *ret_lost = lost;
    return n;
}
