/* buf: see buf.h. */
#include "common/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"

static bool reserve(struct lam_buf *buf, size_t more)
{
    size_t cap = buf->cap ? buf->cap : 64;
    char *data;

    if (more > buf->max || buf->size > buf->max - more)
        return false;
    while (cap < buf->size + more + 1)
        cap *= 2;
    if (cap == buf->cap)
        return true;
    data = lam_realloc(buf->data, cap, 1);
    if (!data)
        return false;
    buf->data = data;
    buf->cap = cap;
    return true;
}

bool lam_buf_append(struct lam_buf *buf, const void *bytes, size_t n_bytes)
{
    if (!reserve(buf, n_bytes))
        return false;
    if (n_bytes)
        memcpy(buf->data + buf->size, bytes, n_bytes);
    buf->size += n_bytes;
    buf->data[buf->size] = '\0';
    return true;
}

bool lam_buf_text(struct lam_buf *buf, const char *text)
{
    return lam_buf_append(buf, text, strlen(text));
}

bool lam_buf_printf(struct lam_buf *buf, const char *fmt, ...)
{
    va_list args;
    int length;

    va_start(args, fmt);
    length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (length < 0 || !reserve(buf, (size_t)length))
        return false;
    va_start(args, fmt);
    vsnprintf(buf->data + buf->size, (size_t)length + 1, fmt, args);
    va_end(args);
    buf->size += (size_t)length;
    return true;
}

void lam_buf_drop_front(struct lam_buf *buf, size_t n_bytes)
{
    assert(n_bytes <= buf->size);
    if (n_bytes == 0)
        return;
    memmove(buf->data, buf->data + n_bytes, buf->size - n_bytes + 1);
    buf->size -= n_bytes;
}

void lam_buf_clear(struct lam_buf *buf)
{
    buf->size = 0;
    if (buf->data)
        buf->data[0] = '\0';
}

void lam_buf_done(struct lam_buf *buf)
{
    lam_free(buf->data);
    *buf = LAM_BUF(buf->max);
}
