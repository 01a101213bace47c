/* memory: how much memory this process may have: the machine's, or less when a control group says
 * so. */
#ifndef LAMINAR_LOADER_MEMORY_H
#define LAMINAR_LOADER_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

struct lam_memory {
    uint64_t total_bytes;     /* of the machine, or of the tightest control group around us */
    uint64_t available_bytes; /* what can still be taken without pushing anybody out */
};

/* Errors: LAM_UNAVAILABLE when /proc/meminfo cannot be read. */
LAM_MUST_USE enum lam_status lam_memory_read(struct lam_memory *ret_memory, struct lam_err *err);

/*
 * The size of the pool from --ram: "auto", "75%" of total_bytes, "free-1GiB" (what is available,
 * less that), or a size; never more than full_bytes, with which the whole model stays in memory.
 * auto: as much as the model needs, up to three quarters of what is available. Errors:
 * LAM_INVALID_ARGUMENT for bad text; LAM_RESOURCE_EXHAUSTED when more is asked for than available.
 */
LAM_MUST_USE enum lam_status lam_memory_budget(const struct lam_memory *memory, const char *ram,
    uint64_t full_bytes, uint64_t *ret_bytes, struct lam_err *err);

/* A control group around us allows limit_bytes to all in it together, and they hold used_bytes. One
 * that allows more than we have may leave less: others are in it too. */
void lam_memory_apply_limit(struct lam_memory *memory, uint64_t limit_bytes, uint64_t used_bytes);

/* The number after "name" in text such as /proc/meminfo or memory.stat; false: not there. */
LAM_MUST_USE bool lam_memory_field(const char *text, const char *name, uint64_t *ret_value);

#endif
