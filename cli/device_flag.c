/* device_flag: see device_flag.h. */
#include "cli/device_flag.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/flag.h"

#define PREFIX "cuda:"
#define PREFIX_BYTES (sizeof PREFIX - 1)

/* "cuda:0"; behind the first also "1". */
static bool parse_gpu(const char *item, size_t length, bool first, uint32_t *ret_index)
{
    bool prefixed = strncmp(item, PREFIX, PREFIX_BYTES) == 0;
    size_t skipped = prefixed ? PREFIX_BYTES : 0;
    char text[3];
    int64_t index = 0;

    if ((first && !prefixed) || length - skipped >= sizeof text)
        return false;
    snprintf(text, sizeof text, "%.*s", (int)(length - skipped), item + skipped);
    if (!lam_int_parse(text, 0, LAM_PLAN_DEVICES_MAX - 1, &index))
        return false;
    *ret_index = (uint32_t)index;
    return true;
}

static bool is_named(const struct lam_device_flag *flag, uint32_t index)
{
    for (uint32_t i = 0; i < flag->n_gpus; i++)
        if (flag->gpus[i] == index)
            return true;
    return false;
}

enum lam_status lam_device_flag_parse(
    const char *text, struct lam_device_flag *ret_flag, struct lam_err *err)
{
    struct lam_device_flag flag = {
        .is_auto = strcmp(text, "auto") == 0, .is_cpu = strcmp(text, "cpu") == 0};
    const char *item = flag.is_auto || flag.is_cpu ? NULL : text;

    while (item) {
        size_t length = strcspn(item, ",");
        uint32_t index = 0;
        if (!parse_gpu(item, length, item == text, &index))
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "--device: '%.*s' is none of auto, cpu and cuda:0 to cuda:%u",
                (int)(length < 40 ? length : 40), item, LAM_PLAN_DEVICES_MAX - 1);
        if (is_named(&flag, index))
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "--device: cuda:%" PRIu32 " stands there twice; keep one", index);
        flag.gpus[flag.n_gpus++] = index;
        item = item[length] ? item + length + 1 : NULL;
    }
    *ret_flag = flag;
    return LAM_OK;
}
