/*
 * gpu_watch: how much memory of a GPU is in use, read from outside of the process that uses it: by
 * NVML, the driver's management library, opened at run time. A thread reads fifty times a second
 * and keeps the largest value.
 *
 * Where one process alone computes on the GPU, its own bytes are read; otherwise what the GPU has
 * in use beyond what it had when the watch began, so nobody else should begin or end meanwhile.
 */
#ifndef LAMINAR_CLI_GPU_WATCH_H
#define LAMINAR_CLI_GPU_WATCH_H

#include <stdbool.h>
#include <stdint.h>

struct lam_gpu_watch;

/*
 * index: the GPU's, as NVML and `nvidia-smi` count. folder: where libnvidia-ml.so.1 is looked for;
 * NULL: where the system's loader looks. NULL when there is no such library or GPU. Before the
 * process that is watched starts.
 */
struct lam_gpu_watch *lam_gpu_watch_start(const char *folder, uint32_t index);

/* The most bytes so far; *ret_exact says whether they are one process's own. */
uint64_t lam_gpu_watch_peak(struct lam_gpu_watch *watch, bool *ret_exact);

void lam_gpu_watch_stop(struct lam_gpu_watch *watch); /* NULL is allowed */

#endif
