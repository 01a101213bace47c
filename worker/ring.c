/*
 * ring: see ring.h.
 *
 * Three ranges are tried: behind the piece before, the beginning of the region, and its end. One is
 * taken only if it leaves room for the next piece below or above; that holds for the beginning and
 * the end always, since no piece is larger than half of the region. So there is always a range that
 * the piece before does not have: below or above that piece, by what was asked of its own range.
 */
#include "worker/ring.h"

#include <assert.h>

void lam_ring_init(struct lam_ring *ring, uint64_t bytes)
{
    *ring = (struct lam_ring){.bytes = bytes};
}

const struct lam_ring_place *lam_ring_at(const struct lam_ring *ring, uint64_t number)
{
    assert(number < ring->n && ring->n - number <= LAM_RING_PLACES);
    return &ring->places[number % LAM_RING_PLACES];
}

/* Up to the last piece that has some of these bytes; those that are forgotten may have them. */
static uint64_t n_before(const struct lam_ring *ring, uint64_t begin, uint64_t end)
{
    uint64_t n = ring->n;

    for (; n > 0 && ring->n - n < LAM_RING_PLACES; n--) {
        const struct lam_ring_place *place = lam_ring_at(ring, n - 1);
        if (place->begin < end && begin < place->end)
            break;
    }
    return n;
}

void lam_ring_add(struct lam_ring *ring, uint64_t bytes, uint64_t bytes_next)
{
    uint64_t behind = ring->n > 0 ? lam_ring_at(ring, ring->n - 1)->end : 0;
    uint64_t begins[] = {behind, 0, ring->bytes - bytes};
    struct lam_ring_place best = {.n_before = UINT64_MAX};

    assert(bytes <= ring->bytes / 2 && bytes_next <= ring->bytes / 2);
    for (uint32_t i = 0; i < sizeof begins / sizeof *begins; i++) {
        struct lam_ring_place place = {.begin = begins[i], .end = begins[i] + bytes};
        if (place.end > ring->bytes)
            continue;
        if (place.begin < bytes_next && ring->bytes - place.end < bytes_next)
            continue;
        place.n_before = n_before(ring, place.begin, place.end);
        if (place.n_before < best.n_before)
            best = place;
    }
    assert(best.n_before == 0 || best.n_before < ring->n);
    ring->places[ring->n++ % LAM_RING_PLACES] = best;
}
