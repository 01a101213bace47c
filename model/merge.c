/*
 * merge: see merge.h. The heap never overflows: a row of n symbols starts with n - 1 candidates at
 * most, and each of its at most n - 1 merges takes one out and puts two in.
 */
#include "model/merge.h"

#include <assert.h>

#include "common/mem.h"

struct lam_candidate {
    uint32_t rank;
    uint32_t left; /* symbols */
    uint32_t right;
    uint32_t size; /* of both: differs from what is there now when one of them has merged since */
    int32_t id;
};

static bool goes_first(const struct lam_candidate *a, const struct lam_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void heap_push(struct lam_merger *merger, struct lam_candidate candidate)
{
    struct lam_candidate *heap = merger->heap;
    uint32_t at = merger->n_heap++;

    assert(at < 2 * merger->cap);
    while (at > 0 && goes_first(&candidate, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = candidate;
}

static struct lam_candidate heap_pop(struct lam_merger *merger)
{
    struct lam_candidate *heap = merger->heap;
    struct lam_candidate top = heap[0];
    struct lam_candidate last = heap[--merger->n_heap];
    uint32_t at = 0;

    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= merger->n_heap)
            break;
        if (child + 1 < merger->n_heap && goes_first(&heap[child + 1], &heap[child]))
            child++;
        if (!goes_first(&heap[child], &last))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

static void offer(struct lam_merger *merger, lam_merge_fn merge, const void *context, uint32_t left,
    uint32_t right)
{
    struct lam_candidate candidate = {.left = left, .right = right};
    const struct lam_symbol *a, *b;

    if (left == LAM_SYMBOL_NONE || right == LAM_SYMBOL_NONE)
        return;
    a = &merger->symbols[left];
    b = &merger->symbols[right];
    candidate.size = a->size + b->size;
    if (merge(context, a, b, &candidate.rank, &candidate.id))
        heap_push(merger, candidate);
}

/* A merged symbol has size 0; a grown one has another size than the candidate remembers. */
static bool is_current(const struct lam_merger *merger, const struct lam_candidate *candidate)
{
    const struct lam_symbol *left = &merger->symbols[candidate->left];
    const struct lam_symbol *right = &merger->symbols[candidate->right];

    return left->size && right->size && left->next == candidate->right &&
           left->size + right->size == candidate->size;
}

bool lam_merger_begin(struct lam_merger *merger, uint32_t n_max)
{
    merger->n = 0;
    merger->n_heap = 0;
    if (n_max <= merger->cap)
        return true;
    lam_merger_done(merger);
    if (n_max < 64)
        n_max = 64;
    merger->symbols = lam_calloc(n_max, sizeof *merger->symbols);
    merger->heap = lam_calloc(2 * (size_t)n_max, sizeof *merger->heap);
    if (!merger->symbols || !merger->heap) {
        lam_merger_done(merger);
        return false;
    }
    merger->cap = n_max;
    return true;
}

void lam_merger_add(struct lam_merger *merger, uint32_t start, uint32_t size, int32_t id)
{
    uint32_t at = merger->n++;

    assert(at < merger->cap);
    merger->symbols[at] = (struct lam_symbol){.start = start,
        .size = size,
        .id = id,
        .prev = at ? at - 1 : LAM_SYMBOL_NONE,
        .next = LAM_SYMBOL_NONE};
    if (at)
        merger->symbols[at - 1].next = at;
}

void lam_merger_run(struct lam_merger *merger, lam_merge_fn merge, const void *context)
{
    for (uint32_t i = 1; i < merger->n; i++)
        offer(merger, merge, context, i - 1, i);
    while (merger->n_heap) {
        struct lam_candidate pair = heap_pop(merger);
        struct lam_symbol *left = &merger->symbols[pair.left];
        struct lam_symbol *right = &merger->symbols[pair.right];
        if (!is_current(merger, &pair))
            continue;
        left->size = pair.size;
        left->id = pair.id;
        left->next = right->next;
        right->size = 0;
        if (left->next != LAM_SYMBOL_NONE)
            merger->symbols[left->next].prev = pair.left;
        offer(merger, merge, context, left->prev, pair.left);
        offer(merger, merge, context, pair.left, left->next);
    }
}

void lam_merger_done(struct lam_merger *merger)
{
    lam_free(merger->symbols);
    lam_free(merger->heap);
    *merger = (struct lam_merger){0};
}
