/* device_flag: the grammar of --device: auto, cpu, cuda:0, or several GPUs: cuda:0,cuda:1, or
 * cuda:0,1. */
#ifndef LAMINAR_CLI_DEVICE_FLAG_H
#define LAMINAR_CLI_DEVICE_FLAG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "model/plan.h"

struct lam_device_flag {
    bool is_auto; /* the first GPU if there is one, else the CPU */
    bool is_cpu;
    uint32_t n_gpus; /* named ones; 0 for auto and cpu */
    uint32_t gpus[LAM_PLAN_DEVICES_MAX];
};

/* Errors: LAM_INVALID_ARGUMENT names the item, and what to write. */
LAM_MUST_USE enum lam_status lam_device_flag_parse(
    const char *text, struct lam_device_flag *ret_flag, struct lam_err *err);

#endif
