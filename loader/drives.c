/* drives: see the header. */
#include "loader/drives.h"

uint32_t lam_drives_find(struct lam_drives *drives, dev_t device)
{
    uint32_t d = 0;

    while (d < drives->n && drives->devices[d] != device)
        d++;
    if (d == LAM_JOBS_DRIVES_MAX)
        return d - 1;
    if (d == drives->n)
        drives->devices[drives->n++] = device;
    return d;
}

/* The part with most of the unit. */
static uint32_t part_of(const struct lam_file *file, const struct lam_unit *unit)
{
    uint64_t end = unit->file_offset + unit->bytes;
    uint64_t most = 0;
    uint32_t best = 0;

    for (uint32_t p = 0; p < file->n_parts; p++) {
        const struct lam_span *span = &file->spans[p];
        uint64_t from = unit->file_offset > span->begin ? unit->file_offset : span->begin;
        uint64_t to = end < span->begin + span->bytes ? end : span->begin + span->bytes;

        if (from < to && to - from > most) {
            most = to - from;
            best = p;
        }
    }
    return best;
}

/* A bitmap of drives. */
static uint32_t drives_of(struct lam_drives *drives, const struct lam_file *file,
    const struct lam_mirror *mirrors, uint32_t n_mirrors, uint32_t part)
{
    uint32_t set = 1u << lam_drives_find(drives, file->parts[part].identity.st_dev);

    for (uint32_t m = 0; m < n_mirrors; m++)
        set |= 1u << lam_drives_find(drives, mirrors[m].parts[part].identity.st_dev);
    return set;
}

uint32_t lam_drives_group_units(const struct lam_file *file, const struct lam_manifest *manifest,
    const struct lam_mirror *mirrors, uint32_t n_mirrors, uint32_t *ret_groups)
{
    uint32_t sets[LAM_SLOTS_DRIVES_MAX];
    struct lam_drives drives = {0};
    uint32_t n = 0;

    for (uint32_t u = 0; u < manifest->n_units; u++) {
        uint32_t part = part_of(file, &manifest->units[u]);
        uint32_t set = drives_of(&drives, file, mirrors, n_mirrors, part);
        uint32_t g = 0;

        while (g < n && sets[g] != set)
            g++;
        if (g == n && n < LAM_SLOTS_DRIVES_MAX)
            sets[n++] = set;
        ret_groups[u] = g < n ? g : n - 1;
    }
    return n;
}
