/*
 * probe: how large requests are, and how many are under way, on a drive and its file system: which
 * ways are tried, which of them wins, and a record of it, so that it is tried once and not at every
 * start. The measuring itself is the engine's, with the reads that it does later.
 *
 * Records are small text files in a directory of their own, one for each drive and file system.
 * Losing one costs a second at the next start. What is in them is not believed without looking: a
 * record that this program would not have written is refused with a reason.
 */
#ifndef LAMINAR_LOADER_PROBE_H
#define LAMINAR_LOADER_PROBE_H

#include <stdint.h>

#include "common/status.h"

#define LAM_PROBE_CANDIDATES 6u
#define LAM_PROBE_ROUNDS 3u /* of all candidates */
#define LAM_PROBE_KEY_BYTES 96u

struct lam_probe_way {
    uint64_t request_bytes;
    uint32_t depth;
};

/* [0] is what is taken without a probe, and whenever nothing is clearly better. */
extern const struct lam_probe_way lam_probe_candidates[LAM_PROBE_CANDIDATES];

/* The middle one of a candidate's rounds: one that fell into a pause of the drive says nothing. */
uint64_t lam_probe_median(const uint64_t rounds[LAM_PROBE_ROUNDS]);

/* bytes_per_s[LAM_PROBE_CANDIDATES] -> index of the best candidate. The best of many is often the
 * luckiest: it is to be measured again, beside [0] alone, and chosen again of these two. */
uint32_t lam_probe_choose(const uint64_t *bytes_per_s);

/* A name for the drive and file system behind fd, good as a file name. Errors: those of fstat. */
LAM_MUST_USE enum lam_status lam_probe_key(
    int fd, char key[LAM_PROBE_KEY_BYTES], struct lam_err *err);

/* Errors: LAM_NOT_FOUND when there is no record; LAM_INVALID_ARGUMENT when it is none of ours, and
 * errors of opening, each with the path. */
LAM_MUST_USE enum lam_status lam_probe_load(
    const char *dir, const char *key, struct lam_probe_way *ret_way, struct lam_err *err);

/* Makes the directory if it is not there. Wholly or not at all. Errors: the file system's. */
LAM_MUST_USE enum lam_status lam_probe_save(const char *dir, const char *key,
    const struct lam_probe_way *way, uint64_t bytes_per_s, struct lam_err *err);

#endif
