/*
 * faulty_mount: the model of live_loader once more, below a file system that fails on request
 * (tests/tools/faultfs.c). One mount at a time, in globals, as live_loader has its model.
 */
#ifndef LAMINAR_TESTS_FAULT_FAULTY_MOUNT_H
#define LAMINAR_TESTS_FAULT_FAULTY_MOUNT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/loader.h"

/* Path of the model below the mount. */
extern char faulty_path[64];

/* For configs: of one read; 0: the usual. */
extern uint64_t faulty_deadline_ns;

/* Group fixtures: make a model and mount it. Where FUSE cannot be used they say why, and every
 * test has to begin with faulty_need. */
int faulty_set_up(void **state);
int faulty_tear_down(void **state);

/* Skips the test where there is no mount; clears the fault. */
void faulty_need(void);

/* One command of faultfs: faulty_set("flip %llu 3", offset). */
void faulty_set(const char *fmt, ...) LAM_PRINTF(1, 2);

/* Reads that the file system has served. */
uint64_t faulty_reads(void);

/* Waits until a read stalls. */
void faulty_wait_stalled(void);

/* A loader over the mount; its sockets are in the model's directory. */
struct lam_loader *faulty_start(const char *ram, enum lam_reader_choice engine, bool no_checksums);

#endif
