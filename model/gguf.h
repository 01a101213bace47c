/*
 * gguf: reader for GGUF v2/v3 headers. A pure function over hostile bytes: no file, no global.
 *
 * The header (metadata and tensor table) is parsed from memory; tensor data is never touched.
 * Everything returned points into the caller's header bytes or into the parser's own tables, so the
 * header bytes must outlive the result.
 *
 * Caps, checked before any allocation: a header of 64 MiB, 65,536 keys, 65,536 tensors, 4
 * dimensions, names up to 255 bytes, strings up to 16 MiB, arrays up to 4 Mi elements and no arrays
 * of arrays, alignment a power of two in 8..65,536. Source: ggml's docs/gguf.md.
 */
#ifndef LAMINAR_MODEL_GGUF_H
#define LAMINAR_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/status.h"

#define LAM_GGUF_HEADER_BYTES_MAX ((uint64_t)64 << 20)

struct lam_gguf;

/* Bytes inside the header, not NUL-terminated. */
struct lam_str {
    const char *data;
    uint64_t size;
};

struct lam_gguf_tensor {
    struct lam_str name;
    enum lam_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[4]; /* dims[0] is contiguous (columns); unused ones are 1 */
    uint64_t offset;  /* from the start of the file, a multiple of the alignment */
    uint64_t bytes;   /* offset + bytes <= file_bytes, checked */
};

/*
 * Parses header[0, header_bytes) of a file of file_bytes.
 * Errors: LAM_OUT_OF_RANGE when the header goes on after header_bytes (< file_bytes): read more and
 * call again. LAM_INVALID_ARGUMENT: not GGUF, or malformed; LAM_UNIMPLEMENTED: version or tensor
 * type that this build does not know, named. LAM_RESOURCE_EXHAUSTED: no memory. Destroy with
 * lam_gguf_destroy.
 */
LAM_MUST_USE enum lam_status lam_gguf_parse(const void *header, uint64_t header_bytes,
    uint64_t file_bytes, struct lam_gguf **ret_gguf, struct lam_err *err);

void lam_gguf_destroy(struct lam_gguf *gguf); /* NULL is allowed */

/* Bytes up to the end of the tensor table (before the padding to the data section). */
uint64_t lam_gguf_header_bytes(const struct lam_gguf *gguf);

uint64_t lam_gguf_n_tensors(const struct lam_gguf *gguf);
const struct lam_gguf_tensor *lam_gguf_tensor(const struct lam_gguf *gguf, uint64_t index);

/* By name, such as "blk.3.attn_q.weight", in log n. Returns the index or -1. */
int64_t lam_gguf_find_tensor(const struct lam_gguf *gguf, const char *name);

/*
 * Metadata by key. Each returns LAM_NOT_FOUND (key absent) or LAM_INVALID_ARGUMENT (other type,
 * named in err). Integers of every width convert to u64 when not negative.
 */
LAM_MUST_USE enum lam_status lam_gguf_u64(
    const struct lam_gguf *gguf, const char *key, uint64_t *ret, struct lam_err *err);
LAM_MUST_USE enum lam_status lam_gguf_f64(
    const struct lam_gguf *gguf, const char *key, double *ret, struct lam_err *err);
LAM_MUST_USE enum lam_status lam_gguf_bool(
    const struct lam_gguf *gguf, const char *key, bool *ret, struct lam_err *err);
LAM_MUST_USE enum lam_status lam_gguf_str(
    const struct lam_gguf *gguf, const char *key, struct lam_str *ret, struct lam_err *err);

/* An array of strings, indexed once at parse time. */
struct lam_gguf_strings {
    const struct lam_str *items;
    uint64_t n;
};
LAM_MUST_USE enum lam_status lam_gguf_strings(const struct lam_gguf *gguf, const char *key,
    struct lam_gguf_strings *ret, struct lam_err *err);

/* An array of i32/u32 or f32. In the file it may be unaligned: these are copies of the gguf's. */
struct lam_gguf_i32s {
    const int32_t *items;
    uint64_t n;
};
struct lam_gguf_f32s {
    const float *items;
    uint64_t n;
};
LAM_MUST_USE enum lam_status lam_gguf_i32s(
    const struct lam_gguf *gguf, const char *key, struct lam_gguf_i32s *ret, struct lam_err *err);
LAM_MUST_USE enum lam_status lam_gguf_f32s(
    const struct lam_gguf *gguf, const char *key, struct lam_gguf_f32s *ret, struct lam_err *err);

/* For `laminar inspect`: key i of n in file order, its value as one short line of text. */
uint64_t lam_gguf_n_keys(const struct lam_gguf *gguf);
struct lam_str lam_gguf_key(const struct lam_gguf *gguf, uint64_t index);
void lam_gguf_describe(const struct lam_gguf *gguf, uint64_t index, char *buf, size_t buf_bytes);

#endif
