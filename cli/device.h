/*
 * device: what the GPUs of this machine say, without a trace of CUDA in this process: a child opens
 * the backend, asks, measures, and ends.
 */
#ifndef LAMINAR_CLI_DEVICE_H
#define LAMINAR_CLI_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/facts.h"
#include "common/status.h"

struct lam_device_question {
    const char *folder; /* of the backend; NULL: where it is installed */
    uint32_t first;     /* of the visible devices */
    uint32_t n_max;     /* 1..LAM_FACTS_GPUS_MAX: ends at the last device that there is */
    bool measure;       /* also the rates: some seconds for each device */
    uint64_t link_ns;   /* not 0: also the link alone, at least once and for about so long */
};

/* Of rounds of LAM_DEVICE_LINK_BYTES from pinned memory, bytes a second. n: 0 when not asked for */
#define LAM_DEVICE_LINK_BYTES ((uint64_t)512 << 20)

struct lam_device_link {
    uint32_t n;
    double median, p10, p90;
};

struct lam_device_answer {
    uint32_t index;
    struct lam_device_link link;
    struct lam_gpu_facts facts; /* rates: 0 unless measured */
    uint64_t free_bytes;        /* without our child */
    bool context_is_exact;      /* facts.context_bytes is of one process, not of the device */
};

/*
 * Call before any thread exists. Errors: those of lam_cuda_open; of the first device;
 * LAM_DEADLINE_EXCEEDED; LAM_INTERNAL when the child died.
 */
LAM_MUST_USE enum lam_status lam_device_ask(const struct lam_device_question *question,
    struct lam_device_answer *ret_answers, uint32_t *ret_n, struct lam_err *err);

#endif
