/*
 * vram: the grammar of --vram. How much each device may hold in all, context included.
 *
 *     3GiB 3.5 3072MiB 3GB   so much; a bare number is GiB
 *     75%                    of the device's whole memory, never of what happens to be free
 *     free-1GiB              what is free now, less a margin
 *     auto                   what is free now, less 512 MiB or 3 %
 *     off 0 -                the device is not used
 *     3GiB                   one item: every device
 *     3,75%,off              one item per device; devices beyond the list are not used
 *     3,3,...                the last item repeats
 *     0=3GiB,2=75%           by number or name; the others are not used
 *
 * Pure: the devices are given.
 */
#ifndef LAMINAR_MODEL_VRAM_H
#define LAMINAR_MODEL_VRAM_H

#include <stdint.h>

#include "common/status.h"

#define LAM_VRAM_NOTES_BYTES 1024u

struct lam_vram_device {
    char name[32];
    uint64_t total_bytes;
    uint64_t free_bytes;
};

/*
 * ret_caps: [n_devices] bytes, 0 for a device that is not used; at least one is used.
 * ret_notes: LAM_VRAM_NOTES_BYTES; one line each: what relative items came to, which devices are
 * not used. Errors: LAM_INVALID_ARGUMENT names the item and its position, and what to write.
 */
LAM_MUST_USE enum lam_status lam_vram_parse(const char *spec, const struct lam_vram_device *devices,
    uint32_t n_devices, uint64_t *ret_caps, char *ret_notes, struct lam_err *err);

#endif
