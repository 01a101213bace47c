/*
 * gguf_write: writer of GGUF v3 headers, the counterpart of gguf.h. Pure: it makes bytes in memory;
 * what stands in the data section is the caller's.
 *
 *     struct lam_gguf_writer writer;
 *     lam_gguf_writer_init(&writer);
 *     lam_gguf_put_str(&writer, "general.architecture", "llama");
 *     offset = lam_gguf_put_tensor(&writer, "output_norm.weight", LAM_F32, 64, 0);
 *     status = lam_gguf_writer_finish(&writer, &header, &file_bytes, err);
 *     lam_gguf_writer_done(&writer);
 *
 * A failure in between is remembered and told by finish. Names and sizes are the program's, not a
 * stranger's: keys that are put twice and rows that are no multiple of the block are asserted or
 * refused by the parser, not here. Source: ggml's docs/gguf.md.
 */
#ifndef LAMINAR_MODEL_GGUF_WRITE_H
#define LAMINAR_MODEL_GGUF_WRITE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/dtype.h"
#include "common/status.h"

#define LAM_GGUF_WRITE_ALIGNMENT 32u /* of tensors: the format's default, so no key says so */

struct lam_gguf_writer {
    struct lam_buf keys;
    struct lam_buf tensors;
    uint64_t n_keys;
    uint64_t n_tensors;
    uint64_t data_bytes; /* of the tensors so far, each aligned */
    bool failed;         /* no memory, or sizes beyond 64 bits */
};

void lam_gguf_writer_init(struct lam_gguf_writer *writer);
void lam_gguf_writer_done(struct lam_gguf_writer *writer); /* a zeroed struct is allowed */

/* All n_keys keys of another writer, as they stand there. */
void lam_gguf_put_keys(
    struct lam_gguf_writer *writer, const void *bytes, uint64_t n_bytes, uint64_t n_keys);

void lam_gguf_put_u16(struct lam_gguf_writer *writer, const char *key, uint16_t value);
void lam_gguf_put_i32(struct lam_gguf_writer *writer, const char *key, int32_t value);
void lam_gguf_put_u32(struct lam_gguf_writer *writer, const char *key, uint32_t value);
void lam_gguf_put_f32(struct lam_gguf_writer *writer, const char *key, float value);
void lam_gguf_put_bool(struct lam_gguf_writer *writer, const char *key, bool value);
void lam_gguf_put_str(struct lam_gguf_writer *writer, const char *key, const char *value);

/* Arrays: begin says how many items follow, each by one call of the item function. */
void lam_gguf_begin_strings(struct lam_gguf_writer *writer, const char *key, uint64_t n_items);
void lam_gguf_item_str(struct lam_gguf_writer *writer, const char *text, uint64_t n_bytes);
void lam_gguf_begin_i32s(struct lam_gguf_writer *writer, const char *key, uint64_t n_items);
void lam_gguf_item_i32(struct lam_gguf_writer *writer, int32_t value);

/*
 * Places a tensor behind the last one, aligned. n_rows 0: a vector. n_cols: a multiple of the
 * type's block (asserted). Returns its offset from the begin of the data section.
 */
uint64_t lam_gguf_put_tensor(struct lam_gguf_writer *writer, const char *name, enum lam_dtype dtype,
    uint64_t n_cols, uint64_t n_rows);

/*
 * Appends the header to ret_header, padded so that the data section begins right behind it.
 * ret_file_bytes: header and data. Errors: LAM_RESOURCE_EXHAUSTED.
 */
LAM_MUST_USE enum lam_status lam_gguf_writer_finish(const struct lam_gguf_writer *writer,
    struct lam_buf *ret_header, uint64_t *ret_file_bytes, struct lam_err *err);

#endif
