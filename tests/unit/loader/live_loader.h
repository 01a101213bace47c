/*
 * live_loader: a loader in this process over the model of model_file, and a worker that checks what
 * it gets against the file. One model at a time, in globals: set up for a group of tests.
 */
#ifndef LAMINAR_TESTS_UNIT_LOADER_LIVE_LOADER_H
#define LAMINAR_TESTS_UNIT_LOADER_LIVE_LOADER_H

#include <stdint.h>

#include "common/status.h"
#include "loader/loader.h"
#include "model/manifest.h"
#include "tests/unit/loader/model_file.h"
#include "tests/unit/loader/pool_worker.h"

extern struct model_file live_model;
extern struct lam_manifest live_manifest;
extern const char *live_path;                 /* of the model, for configs */
extern struct lam_share_options live_options; /* for configs; the engine is live_start's */
extern const char *live_ops;                  /* address for the operations port; NULL: none */

/* Group fixtures. */
int live_set_up(void **state);
int live_tear_down(void **state);

/* Another model instead. */
void live_use_model(uint64_t shift);
void live_drop_model(void);

/* The model of another process, in its directory, which stays that one's. */
void live_read_model(const char *dir);

/* Its sockets are loader.sock and pool.sock in the model's directory. Fails the test on error. */
struct lam_loader *live_start(const char *ram, enum lam_reader_choice engine);

/* A --ram of that share of the model, with room for the alignment; returns text. */
const char *live_share(uint32_t percent, char text[32]);

void live_check_unit(const struct pool_worker *worker, const struct pool_event *event);

/* Walks whole passes, one unit at a time like a worker, and compares every byte. */
void live_walk(struct pool_worker *worker, uint32_t n_passes);

/* How many leases are left, as soon as there are none or after the limit. */
#define LIVE_LIMIT_NS (60 * LAM_NS_PER_S) /* or they stay for ever */
uint32_t live_leases_after(struct pool_worker *observer, uint64_t limit_ns);

/* Reads on to the end of the stream and returns how it ended. */
enum lam_status live_end_of(struct pool_worker *worker, struct lam_err *err);

#endif
