/*
 * facts: how fast this machine is, as `laminar doctor --measure` found it, in
 * ~/.cache/laminar/facts.json. Plans are made from them; what is not there is assumed, and said so.
 *
 * What a process takes on a GPU before its first own byte depends on the GPU, the driver and our
 * library of kernels: an entry is for all three, and one for another library is not used. The file
 * may come from anywhere: everything in it is checked.
 */
#ifndef LAMINAR_CLI_FACTS_H
#define LAMINAR_CLI_FACTS_H

#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/status.h"

#define LAM_FACTS_GPUS_MAX 16u
#define LAM_FACTS_FILE_BYTES_MAX ((size_t)64 << 10)

struct lam_gpu_facts {
    char name[96];    /* "NVIDIA H100 80GB HBM3" */
    char driver[32];  /* "550.54.15"; "": cannot be read */
    char library[20]; /* digest of the backend's file */
    uint64_t total_bytes;
    uint64_t context_bytes; /* held by a process without an arena */
    double link_rate;       /* bytes a second; 0: not measured; likewise below */
    double memory_rate;
    /* Weights of each format that a product with one row reads, in a layer's shapes. */
    double product_rates[LAM_DTYPE_END];
    double layer_seconds; /* what such a layer takes beside its products; 0: not measured */
};

struct lam_facts {
    double disk_rate;
    double memory_rate; /* that all processors together read at */
    uint32_t n_gpus;
    struct lam_gpu_facts gpus[LAM_FACTS_GPUS_MAX];
};

/* Errors: LAM_INVALID_ARGUMENT names what is wrong. */
LAM_MUST_USE enum lam_status lam_facts_parse(
    const char *text, size_t n_bytes, struct lam_facts *ret_facts, struct lam_err *err);

/* home: NULL is allowed. All zeros where there is no file. Errors: those of lam_facts_parse and of
 * reading; they name the file and the remedy. */
LAM_MUST_USE enum lam_status lam_facts_read(
    const char *home, struct lam_facts *ret_facts, struct lam_err *err);

/* Replaces the file as a whole. Errors: those of writing. */
LAM_MUST_USE enum lam_status lam_facts_write(
    const char *home, const struct lam_facts *facts, struct lam_err *err);

/* The entry of this GPU with this driver and library, or NULL. */
const struct lam_gpu_facts *lam_facts_find(
    const struct lam_facts *facts, const char *name, const char *driver, const char *library);

/* The name of the file, for messages; "" without a home. path: PATH_MAX bytes. */
const char *lam_facts_path(const char *home, char *path);

/* Adds the entry, in the place of one for the same GPU. The oldest goes when there are too many. */
void lam_facts_put(struct lam_facts *facts, const struct lam_gpu_facts *gpu);

#endif
