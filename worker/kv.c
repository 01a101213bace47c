/* kv: see kv.h. */
#include "worker/kv.h"

#include <assert.h>

uint64_t lam_kv_words(const struct lam_kv_config *config)
{
    return (uint64_t)config->n_slots * config->pages_per_slot + config->n_slots + config->n_pages;
}

void lam_kv_init(struct lam_kv *kv, const struct lam_kv_config *config, uint32_t *words)
{
    uint64_t n_table_words = (uint64_t)config->n_slots * config->pages_per_slot;

    assert(config->n_slots > 0 && config->n_pages > 0 && config->pages_per_slot > 0);
    assert(config->page_tokens > 0 && (config->page_tokens & (config->page_tokens - 1)) == 0);
    kv->config = *config;
    kv->tables = words;
    kv->n_owned = words + n_table_words;
    kv->free = kv->n_owned + config->n_slots;
    kv->n_free = config->n_pages;
    for (uint32_t slot = 0; slot < config->n_slots; slot++)
        kv->n_owned[slot] = 0;
    for (uint32_t i = 0; i < config->n_pages; i++)
        kv->free[i] = config->n_pages - 1 - i;
}

uint32_t lam_kv_pages_for(const struct lam_kv *kv, uint32_t n_positions)
{
    return n_positions / kv->config.page_tokens + (n_positions % kv->config.page_tokens != 0);
}

uint32_t lam_kv_owned(const struct lam_kv *kv, uint32_t slot)
{
    assert(slot < kv->config.n_slots);
    return kv->n_owned[slot];
}

const uint32_t *lam_kv_table(const struct lam_kv *kv, uint32_t slot)
{
    assert(slot < kv->config.n_slots);
    return kv->tables + (uint64_t)slot * kv->config.pages_per_slot;
}

bool lam_kv_reserve(struct lam_kv *kv, uint32_t slot, uint32_t n_positions)
{
    uint32_t n_needed = lam_kv_pages_for(kv, n_positions);
    uint32_t *table = kv->tables + (uint64_t)slot * kv->config.pages_per_slot;

    assert(slot < kv->config.n_slots && n_needed <= kv->config.pages_per_slot);
    if (n_needed <= kv->n_owned[slot])
        return true;
    if (n_needed - kv->n_owned[slot] > kv->n_free)
        return false;
    while (kv->n_owned[slot] < n_needed)
        table[kv->n_owned[slot]++] = kv->free[--kv->n_free];
    return true;
}

void lam_kv_release(struct lam_kv *kv, uint32_t slot)
{
    const uint32_t *table = lam_kv_table(kv, slot);

    while (kv->n_owned[slot] > 0)
        kv->free[kv->n_free++] = table[--kv->n_owned[slot]];
    assert(kv->n_free <= kv->config.n_pages);
}
