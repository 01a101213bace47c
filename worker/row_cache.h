/*
 * row_cache: the packed embedding rows of recent tokens, in memory of a fixed size.
 *
 * Direct-mapped by token id (frequent tokens have low ids and so seldom meet). A look-up tells
 * which rows must be fetched and where to put them; rows that another row of the same look-up
 * displaces go to a side buffer, so every pointer of a look-up stays valid until the next one. No
 * I/O here; one thread.
 */
#ifndef LAMINAR_WORKER_ROW_CACHE_H
#define LAMINAR_WORKER_ROW_CACHE_H

#include <stdint.h>

#include "common/status.h"

struct lam_row_miss {
    int32_t id;
    void *row; /* put row_bytes bytes here */
};

struct lam_row_cache {
    uint64_t row_bytes;
    uint64_t n_places;
    unsigned char *places; /* [n_places, row_bytes] */
    int32_t *ids;          /* [n_places]: whose row lies there, -1: nobody's */
    uint64_t *last_used;   /* [n_places]: number of the last look-up that handed the place out */
    uint64_t look_up;      /* number of the current look-up, from 1 */
    unsigned char *side;   /* [rows_max, row_bytes] */
    uint32_t rows_max;     /* of one look-up */
    uint32_t n_misses;
    struct lam_row_miss *misses; /* [rows_max] */
};

/* budget_bytes: of the places; at least one place is made, at most n_ids. Errors:
 * LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_row_cache_init(struct lam_row_cache *cache, uint64_t row_bytes,
    uint64_t budget_bytes, uint64_t n_ids, uint32_t rows_max, struct lam_err *err);
void lam_row_cache_done(struct lam_row_cache *cache); /* a zeroed struct is allowed */

/*
 * ret_rows[i] = where row ids[i] lies once all misses are filled. n <= rows_max, ids not negative.
 * The caller fills every miss, or calls lam_row_cache_forget.
 */
void lam_row_cache_look_up(
    struct lam_row_cache *cache, const int32_t *ids, uint32_t n, const void **ret_rows);

/* The misses of the last look-up were not all filled: none of them counts as cached. */
void lam_row_cache_forget(struct lam_row_cache *cache);

#endif
