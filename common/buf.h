/*
 * buf: a byte buffer that grows up to a maximum given at its creation. Always NUL-terminated after
 * the last byte, so that text can be read as a C string.
 *
 *     struct lam_buf b = LAM_BUF(1 << 20);
 *     if (!lam_buf_append(&b, bytes, n)) ...no memory or over the maximum: nothing was appended...
 *     lam_buf_done(&b);
 */
#ifndef LAMINAR_COMMON_BUF_H
#define LAMINAR_COMMON_BUF_H

#include <stdbool.h>
#include <stddef.h>

#include "common/status.h"

struct lam_buf {
    char *data; /* NULL while empty and never grown */
    size_t size;
    size_t cap;
    size_t max;
};

#define LAM_BUF(max_bytes) ((struct lam_buf){.max = (max_bytes)})

LAM_MUST_USE bool lam_buf_append(struct lam_buf *buf, const void *bytes, size_t n_bytes);
LAM_MUST_USE bool lam_buf_text(struct lam_buf *buf, const char *text);
LAM_MUST_USE bool lam_buf_printf(struct lam_buf *buf, const char *fmt, ...) LAM_PRINTF(2, 3);

/* Removes the first n bytes (n <= size). */
void lam_buf_drop_front(struct lam_buf *buf, size_t n_bytes);

/* Empties, keeps the memory. */
void lam_buf_clear(struct lam_buf *buf);

/* Frees the memory; the buffer stays usable. */
void lam_buf_done(struct lam_buf *buf);

#endif
