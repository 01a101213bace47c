/*
 * share: one model of a loader: its file, its part of the pool, and what reads and serves it. The
 * pool belongs to all; offsets within a share's layout and regions count from `pool_offset`, those
 * that go to workers from the start of the pool.
 *
 * Life: open, then lay out within a budget, then start once the pool is there. Owned by the thread
 * that starts and stops the loader; the parts say who may call them.
 */
#ifndef LAMINAR_LOADER_SHARE_H
#define LAMINAR_LOADER_SHARE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/checker.h"
#include "loader/extent.h"
#include "loader/file.h"
#include "loader/handover.h"
#include "loader/integrity.h"
#include "loader/policy.h"
#include "loader/pool.h"
#include "loader/reader.h"
#include "loader/sessions.h"

struct lam_share {
    struct lam_file file;
    bool file_open;
    struct lam_layout layout;
    uint32_t n_workers;              /* that may stream at a time */
    uint64_t pool_offset;            /* of its part */
    struct lam_integrity *integrity; /* NULL: checksums are off */
    struct lam_checker *checker;
    struct lam_reader *reader;
    struct lam_sessions *sessions;
    struct lam_extents *extents;
};

/* n_workers: how many are to stream at a time, each from a lane of its own; 0 for as many as the
 * usual lanes allow. Errors: those of lam_file_open. The share may be closed afterwards either
 * way. */
LAM_MUST_USE enum lam_status lam_share_open(
    struct lam_share *share, const char *path, uint32_t n_workers, struct lam_err *err);

/* Keeps checksums, in memory and under cache_dir (NULL: in memory only). Not called: they are off.
 * Errors: those of lam_integrity_open. */
LAM_MUST_USE enum lam_status lam_share_open_record(
    struct lam_share *share, const char *cache_dir, struct lam_err *err);

/* What a pool needs to keep all units, and what it needs to stream them well: one of the largest
 * for each lane, or all if that is less. */
uint64_t lam_share_bytes_full(const struct lam_share *share);
uint64_t lam_share_bytes_least(const struct lam_share *share);

/* The layout of budget_bytes at pool_offset, which is a multiple of the file's alignment. Errors:
 * those of lam_policy_layout. */
LAM_MUST_USE enum lam_status lam_share_lay_out(
    struct lam_share *share, uint64_t pool_offset, uint64_t budget_bytes, struct lam_err *err);

/* Starts the threads that read, check and serve rows; the share's first region is populated.
 * Sessions may be opened after lam_share_connect; units are read from lam_share_back on. */
LAM_MUST_USE enum lam_status lam_share_start(struct lam_share *share, const struct lam_pool *pool,
    enum lam_reader_choice engine, struct lam_err *err);
void lam_share_connect(struct lam_share *share, struct lam_handover *handover);

/* Region r of the layout is populated, as are those before it. [any thread] */
void lam_share_back(struct lam_share *share, uint32_t r);

/* Ends all of it; the server and the handover have stopped. A zeroed struct is allowed. */
void lam_share_close(struct lam_share *share);

#endif
