/*
 * shard_files: the model of model_file once more, split into shards as the tools of the format do
 * it: all keys in the first, each with a table of its own tensors and the numbers split.no,
 * split.count, split.tensors.count.
 */
#ifndef LAMINAR_TESTS_UNIT_LOADER_SHARD_FILES_H
#define LAMINAR_TESTS_UNIT_LOADER_SHARD_FILES_H

#include <stdint.h>

#include "model/gguf.h"
#include "tests/unit/loader/model_file.h"

#define SHARD_FILES_MAX 8u

/* What a test may tell wrongly, for one shard. */
struct shard_lie {
    uint32_t shard; /* UINT32_MAX: nothing is wrong */
    uint16_t index, count;
    int32_t n_tensors;
};

struct shard_files {
    uint32_t n;
    char paths[SHARD_FILES_MAX][96];
    uint64_t firsts[SHARD_FILES_MAX + 1]; /* tensors [firsts[i], firsts[i + 1]) are in shard i */
};

/* Writes DIRS[i]/model-0000I-of-0000N.gguf; firsts and n are set. lie: may be NULL. Asserts. */
void shard_files_write(struct shard_files *shards, const struct model_file *whole,
    const struct lam_gguf *gguf, const char *const *dirs, const struct shard_lie *lie);

#endif
