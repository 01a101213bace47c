/*
 * drives: on which drives a model lies. A drive is a file system (st_dev): two of one disk, such as
 * subvolumes, count as two.
 *
 * A unit lies on all drives that have a copy of the part with most of it. Units that lie on the
 * same drives are read by the same ones, so they are one group, with one turn in a pass
 * (loader/slots.h): with shards on two drives there are two, with mirrors on the same drives one.
 */
#ifndef LAMINAR_LOADER_DRIVES_H
#define LAMINAR_LOADER_DRIVES_H

#include <stdint.h>
#include <sys/types.h>

#include "loader/file.h"
#include "loader/jobs.h"
#include "loader/mirror.h"

struct lam_drives {
    uint32_t n;
    dev_t devices[LAM_JOBS_DRIVES_MAX];
};

/* The index of a drive, which is new or known. One too many shares that of the last. drives: zeroed
 * at first. */
uint32_t lam_drives_find(struct lam_drives *drives, dev_t device);

/* The group of each unit of the file's manifest into ret_groups[manifest->n_units]. Returns how
 * many there are, at most LAM_SLOTS_DRIVES_MAX. */
uint32_t lam_drives_group_units(const struct lam_file *file, const struct lam_manifest *manifest,
    const struct lam_mirror *mirrors, uint32_t n_mirrors, uint32_t *ret_groups);

#endif
