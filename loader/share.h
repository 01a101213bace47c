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
#include "loader/verifier.h"

/* How to read, the same for all models of a loader. Its texts outlive the shares. */
struct lam_share_options {
    uint32_t n_workers; /* to stream at a time, each from a lane of its own; 0: as many as the usual
                           lanes allow */
    enum lam_reader_choice engine;
    const char *const *mirrors; /* [n_mirrors] directories, each with a copy of the file */
    size_t n_mirrors;
    struct lam_file_dirs shard_dirs;
    const char *io_cache;      /* directory of what is known about drives; NULL: nobody is asked */
    uint64_t read_deadline_ns; /* for one request to a drive; 0: LAM_READER_DEADLINE_NS */
    uint64_t region_bytes;     /* of the pool's first region; 0: the usual */
};

struct lam_share {
    struct lam_share_options options;
    struct lam_file file;
    bool file_open;
    struct lam_mirror mirrors[LAM_JOBS_COPIES_MAX - 1];
    uint32_t n_mirrors;
    struct lam_layout layout;
    uint64_t pool_offset;            /* of its part */
    struct lam_integrity *integrity; /* NULL: checksums are off */
    struct lam_checker *checker;
    struct lam_reader *reader;
    struct lam_sessions *sessions;
    struct lam_extents *extents;
    struct lam_verifier *verifier;
    uint32_t lost; /* bitmap of copies that were reported as lost */
};

/* Errors: those of lam_file_open and lam_mirror_open; LAM_INVALID_ARGUMENT for too many mirrors.
 * The share may be closed afterwards either way. share: zeroed. */
LAM_MUST_USE enum lam_status lam_share_open(struct lam_share *share, const char *path,
    const struct lam_share_options *options, struct lam_err *err);

/* Keeps checksums, in memory and under cache_dir (NULL: in memory only). Not called: they are off.
 * Errors: those of lam_integrity_open. */
LAM_MUST_USE enum lam_status lam_share_open_record(
    struct lam_share *share, const char *cache_dir, struct lam_err *err);

/* What a pool needs to keep all units, and what it needs to stream them well: one of the largest
 * for each lane, or all if that is less. */
uint64_t lam_share_bytes_full(const struct lam_share *share);
uint64_t lam_share_bytes_least(const struct lam_share *share);

/* What it needs beside all units to keep the model's embedding table too; 0: there is none. */
uint64_t lam_share_bytes_table(const struct lam_share *share);

/* The layout of budget_bytes at pool_offset, which is a multiple of the file's alignment. Errors:
 * those of lam_policy_layout. */
LAM_MUST_USE enum lam_status lam_share_lay_out(
    struct lam_share *share, uint64_t pool_offset, uint64_t budget_bytes, struct lam_err *err);

/* Starts the threads that read, check and serve rows; the share's first region is populated.
 * Sessions may be opened after lam_share_connect; units are read from lam_share_back on. */
LAM_MUST_USE enum lam_status lam_share_start(
    struct lam_share *share, const struct lam_pool *pool, struct lam_err *err);
void lam_share_connect(struct lam_share *share, struct lam_handover *handover);

/* Region r of the layout is populated: the first one first, then in any order. [any thread] */
void lam_share_back(struct lam_share *share, uint32_t r);

/* Now and then: tries again what could not be read, gives up reads that take too long, says which
 * copies are lost. [one thread] */
void lam_share_tick(struct lam_share *share);

/* Ends all of it; the server and the handover have stopped. A zeroed struct is allowed. */
void lam_share_close(struct lam_share *share);

#endif
