/*
 * kv: who owns which page of the KV cache. A page holds page_tokens positions of one sequence in
 * every layer; a sequence (slot) has a table of pages that grows with it, and gives all of them
 * back at once.
 *
 * Bookkeeping only: no tensor memory, no allocation, one thread. Pages given back last are handed
 * out first, so that a quiet worker touches little memory.
 */
#ifndef LAMINAR_WORKER_KV_H
#define LAMINAR_WORKER_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

struct lam_kv_config {
    uint32_t n_slots;
    uint32_t n_pages;        /* shared by all slots */
    uint32_t page_tokens;    /* a power of two */
    uint32_t pages_per_slot; /* longest table */
};

struct lam_kv {
    struct lam_kv_config config;
    uint32_t *tables;  /* [n_slots, pages_per_slot] */
    uint32_t *n_owned; /* [n_slots] */
    uint32_t *free;    /* [n_pages]: a stack of n_free pages */
    uint32_t n_free;
};

/* Words of 32 bits that lam_kv_init needs. */
uint64_t lam_kv_words(const struct lam_kv_config *config);

/* words: [lam_kv_words], owned by the caller, must outlive kv. All pages are free afterwards. */
void lam_kv_init(struct lam_kv *kv, const struct lam_kv_config *config, uint32_t *words);

/* Pages that hold n_positions. */
uint32_t lam_kv_pages_for(const struct lam_kv *kv, uint32_t n_positions);

uint32_t lam_kv_owned(const struct lam_kv *kv, uint32_t slot);

/* The slot's pages, in the order of its positions; changes with reserve and release. */
const uint32_t *lam_kv_table(const struct lam_kv *kv, uint32_t slot);

/* Grows the slot's table to n_positions. False, and nothing changed, when too few pages are free.
 * n_positions <= pages_per_slot * page_tokens (asserted). */
LAM_MUST_USE bool lam_kv_reserve(struct lam_kv *kv, uint32_t slot, uint32_t n_positions);

/* Gives all pages of the slot back. */
void lam_kv_release(struct lam_kv *kv, uint32_t slot);

#endif
