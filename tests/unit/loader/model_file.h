/*
 * model_file: a small model on disk, with random weights, in a private directory.
 *
 * 12 layers of some 600 KiB and two head tiles; neither the data section nor the end of the file is
 * aligned to anything larger than 32 bytes.
 */
#ifndef LAMINAR_TESTS_UNIT_LOADER_MODEL_FILE_H
#define LAMINAR_TESTS_UNIT_LOADER_MODEL_FILE_H

#include <stdbool.h>
#include <stdint.h>

struct model_file {
    char dir[32];
    char path[64];
    unsigned char *bytes; /* the whole file */
    uint64_t n_bytes;
};

extern const char *model_file_base; /* where directories are made: "/tmp" */
extern bool model_file_untied;      /* the next one has a head of its own, and so a table */

/* shift: bytes before the first tensor, so that everything lies differently. Asserts. */
void model_file_make(struct model_file *file, uint64_t shift);
void model_file_write(const struct model_file *file);           /* its bytes, again */
void model_file_read(struct model_file *file, const char *dir); /* one that is there already */
void model_file_remove(struct model_file *file); /* and the directory with all in it */

#endif
