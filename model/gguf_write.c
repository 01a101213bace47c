/* gguf_write: see gguf_write.h. */
#include "model/gguf_write.h"

#include <assert.h>
#include <string.h>

#include "common/size.h"
#include "model/gguf.h"
#include "model/gguf_impl.h"

#define VERSION 3u

static void put(struct lam_gguf_writer *writer, struct lam_buf *to, const void *bytes, uint64_t n)
{
    if (!lam_buf_append(to, bytes, n))
        writer->failed = true;
}

static void put_text(
    struct lam_gguf_writer *writer, struct lam_buf *to, const char *text, uint64_t n)
{
    put(writer, to, &n, sizeof n);
    put(writer, to, text, n);
}

static void put_key(struct lam_gguf_writer *writer, const char *key, uint32_t type)
{
    put_text(writer, &writer->keys, key, strlen(key));
    put(writer, &writer->keys, &type, sizeof type);
    writer->n_keys++;
}

static void begin_array(
    struct lam_gguf_writer *writer, const char *key, uint32_t item_type, uint64_t n_items)
{
    put_key(writer, key, VALUE_ARRAY);
    put(writer, &writer->keys, &item_type, sizeof item_type);
    put(writer, &writer->keys, &n_items, sizeof n_items);
}

void lam_gguf_writer_init(struct lam_gguf_writer *writer)
{
    *writer = (struct lam_gguf_writer){
        .keys = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX), .tensors = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX)};
}

void lam_gguf_writer_done(struct lam_gguf_writer *writer)
{
    lam_buf_done(&writer->keys);
    lam_buf_done(&writer->tensors);
}

void lam_gguf_put_keys(
    struct lam_gguf_writer *writer, const void *bytes, uint64_t n_bytes, uint64_t n_keys)
{
    put(writer, &writer->keys, bytes, n_bytes);
    writer->n_keys += n_keys;
}

void lam_gguf_put_u16(struct lam_gguf_writer *writer, const char *key, uint16_t value)
{
    put_key(writer, key, VALUE_U16);
    put(writer, &writer->keys, &value, sizeof value);
}

void lam_gguf_put_i32(struct lam_gguf_writer *writer, const char *key, int32_t value)
{
    put_key(writer, key, VALUE_I32);
    put(writer, &writer->keys, &value, sizeof value);
}

void lam_gguf_put_u32(struct lam_gguf_writer *writer, const char *key, uint32_t value)
{
    put_key(writer, key, VALUE_U32);
    put(writer, &writer->keys, &value, sizeof value);
}

void lam_gguf_put_f32(struct lam_gguf_writer *writer, const char *key, float value)
{
    put_key(writer, key, VALUE_F32);
    put(writer, &writer->keys, &value, sizeof value);
}

void lam_gguf_put_bool(struct lam_gguf_writer *writer, const char *key, bool value)
{
    uint8_t byte = value;

    put_key(writer, key, VALUE_BOOL);
    put(writer, &writer->keys, &byte, sizeof byte);
}

void lam_gguf_put_str(struct lam_gguf_writer *writer, const char *key, const char *value)
{
    put_key(writer, key, VALUE_STRING);
    put_text(writer, &writer->keys, value, strlen(value));
}

void lam_gguf_begin_strings(struct lam_gguf_writer *writer, const char *key, uint64_t n_items)
{
    begin_array(writer, key, VALUE_STRING, n_items);
}

void lam_gguf_item_str(struct lam_gguf_writer *writer, const char *text, uint64_t n_bytes)
{
    put_text(writer, &writer->keys, text, n_bytes);
}

void lam_gguf_begin_i32s(struct lam_gguf_writer *writer, const char *key, uint64_t n_items)
{
    begin_array(writer, key, VALUE_I32, n_items);
}

void lam_gguf_item_i32(struct lam_gguf_writer *writer, int32_t value)
{
    put(writer, &writer->keys, &value, sizeof value);
}

uint64_t lam_gguf_put_tensor(struct lam_gguf_writer *writer, const char *name, enum lam_dtype dtype,
    uint64_t n_cols, uint64_t n_rows)
{
    uint32_t n_dims = n_rows > 0 ? 2 : 1;
    uint32_t type = (uint32_t)dtype;
    uint64_t offset = writer->data_bytes;
    uint64_t bytes = 0;

    assert(n_cols % lam_dtype_info(dtype)->block_elems == 0);
    put_text(writer, &writer->tensors, name, strlen(name));
    put(writer, &writer->tensors, &n_dims, sizeof n_dims);
    put(writer, &writer->tensors, &n_cols, sizeof n_cols);
    if (n_rows > 0)
        put(writer, &writer->tensors, &n_rows, sizeof n_rows);
    put(writer, &writer->tensors, &type, sizeof type);
    put(writer, &writer->tensors, &offset, sizeof offset);
    writer->n_tensors++;
    if (!lam_dtype_row_bytes(dtype, n_cols, &bytes) ||
        !lam_size_mul(bytes, n_rows > 0 ? n_rows : 1, &bytes) ||
        !lam_size_add(offset, bytes, &bytes) ||
        !lam_size_align_up(bytes, LAM_GGUF_WRITE_ALIGNMENT, &writer->data_bytes))
        writer->failed = true;
    return offset;
}

enum lam_status lam_gguf_writer_finish(const struct lam_gguf_writer *writer,
    struct lam_buf *ret_header, uint64_t *ret_file_bytes, struct lam_err *err)
{
    static const char padding[LAM_GGUF_WRITE_ALIGNMENT];
    const uint32_t version = VERSION;
    uint64_t file_bytes = 0;
    bool ok = !writer->failed && lam_buf_append(ret_header, "GGUF", 4) &&
              lam_buf_append(ret_header, &version, sizeof version) &&
              lam_buf_append(ret_header, &writer->n_tensors, sizeof writer->n_tensors) &&
              lam_buf_append(ret_header, &writer->n_keys, sizeof writer->n_keys) &&
              lam_buf_append(ret_header, writer->keys.data, writer->keys.size) &&
              lam_buf_append(ret_header, writer->tensors.data, writer->tensors.size);

    if (ok)
        ok = lam_buf_append(ret_header, padding,
            lam_align_up(ret_header->size, LAM_GGUF_WRITE_ALIGNMENT) - ret_header->size);
    if (!ok || !lam_size_add(ret_header->size, writer->data_bytes, &file_bytes))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the header of a model file");
    *ret_file_bytes = file_bytes;
    return LAM_OK;
}
