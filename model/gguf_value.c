/* gguf_value: typed access to the metadata that gguf.c has parsed. See gguf.h. */
#include "model/gguf.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/utf8.h"
#include "model/gguf_impl.h"

#define DESCRIBE_TEXT_MAX 120u /* bytes of a string that `describe` shows */

uint64_t lam_gguf_header_bytes(const struct lam_gguf *gguf)
{
    return gguf->table_end;
}

uint64_t lam_gguf_n_tensors(const struct lam_gguf *gguf)
{
    return gguf->n_tensors;
}

const struct lam_gguf_tensor *lam_gguf_tensor(const struct lam_gguf *gguf, uint64_t index)
{
    assert(index < gguf->n_tensors);
    return &gguf->tensors[index];
}

int64_t lam_gguf_find_tensor(const struct lam_gguf *gguf, const char *name)
{
    struct lam_str wanted = {name, strlen(name)};

    return lam_gguf_find_name(gguf->tensor_names, gguf->n_tensors, wanted);
}

static enum lam_status find_key(const struct lam_gguf *gguf, const char *key,
    const struct gguf_kv **ret_kv, struct lam_err *err)
{
    struct lam_str wanted = {key, strlen(key)};
    int64_t index = lam_gguf_find_name(gguf->key_names, gguf->n_keys, wanted);

    if (index < 0)
        return lam_fail(err, LAM_NOT_FOUND, "the model file has no key '%s'", key);
    *ret_kv = &gguf->keys[index];
    return LAM_OK;
}

static const char *type_name(const struct gguf_kv *kv)
{
    enum value_type type = kv->type == VALUE_ARRAY ? kv->item_type : kv->type;

    return lam_gguf_value_types[type].name;
}

static enum lam_status wrong_type(
    const struct gguf_kv *kv, const char *key, const char *wanted, struct lam_err *err)
{
    return lam_fail(err, LAM_INVALID_ARGUMENT, "key '%s' is of type %s%s; %s is wanted", key,
        kv->type == VALUE_ARRAY ? "array of " : "", type_name(kv), wanted);
}

enum lam_status lam_gguf_u64(
    const struct lam_gguf *gguf, const char *key, uint64_t *ret, struct lam_err *err)
{
    const struct gguf_kv *kv = NULL;
    enum lam_status status = find_key(gguf, key, &kv, err);

    if (status)
        return status;
    switch (kv->type) {
    case VALUE_U8:
    case VALUE_U16:
    case VALUE_U32:
    case VALUE_U64:
        *ret = kv->number.u64;
        return LAM_OK;
    case VALUE_I8:
    case VALUE_I16:
    case VALUE_I32:
    case VALUE_I64:
        if (kv->number.i64 < 0)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "key '%s' is %" PRId64 "; it may not be negative", key, kv->number.i64);
        *ret = (uint64_t)kv->number.i64;
        return LAM_OK;
    default:
        return wrong_type(kv, key, "an integer", err);
    }
}

enum lam_status lam_gguf_f64(
    const struct lam_gguf *gguf, const char *key, double *ret, struct lam_err *err)
{
    const struct gguf_kv *kv = NULL;
    enum lam_status status = find_key(gguf, key, &kv, err);

    if (status)
        return status;
    if (kv->type != VALUE_F32 && kv->type != VALUE_F64)
        return wrong_type(kv, key, "f32 or f64", err);
    *ret = kv->number.f64;
    return LAM_OK;
}

enum lam_status lam_gguf_bool(
    const struct lam_gguf *gguf, const char *key, bool *ret, struct lam_err *err)
{
    const struct gguf_kv *kv = NULL;
    enum lam_status status = find_key(gguf, key, &kv, err);

    if (status)
        return status;
    if (kv->type != VALUE_BOOL)
        return wrong_type(kv, key, "bool", err);
    *ret = kv->number.u64 == 1;
    return LAM_OK;
}

enum lam_status lam_gguf_str(
    const struct lam_gguf *gguf, const char *key, struct lam_str *ret, struct lam_err *err)
{
    const struct gguf_kv *kv = NULL;
    enum lam_status status = find_key(gguf, key, &kv, err);

    if (status)
        return status;
    if (kv->type != VALUE_STRING)
        return wrong_type(kv, key, "string", err);
    *ret = kv->text;
    return LAM_OK;
}

enum lam_status lam_gguf_strings(
    const struct lam_gguf *gguf, const char *key, struct lam_gguf_strings *ret, struct lam_err *err)
{
    const struct gguf_kv *kv = NULL;
    enum lam_status status = find_key(gguf, key, &kv, err);

    if (status)
        return status;
    if (kv->type != VALUE_ARRAY || kv->item_type != VALUE_STRING)
        return wrong_type(kv, key, "array of string", err);
    *ret = (struct lam_gguf_strings){kv->items, kv->n_items};
    return LAM_OK;
}

enum lam_status lam_gguf_i32s(
    const struct lam_gguf *gguf, const char *key, struct lam_gguf_i32s *ret, struct lam_err *err)
{
    const struct gguf_kv *kv = NULL;
    enum lam_status status = find_key(gguf, key, &kv, err);
    const int32_t *items;

    if (status)
        return status;
    if (kv->type != VALUE_ARRAY || (kv->item_type != VALUE_I32 && kv->item_type != VALUE_U32))
        return wrong_type(kv, key, "array of i32 or u32", err);
    items = kv->items;
    for (uint64_t i = 0; i < kv->n_items && kv->item_type == VALUE_U32; i++)
        if (items[i] < 0)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "key '%s': item %" PRIu64 " is %" PRIu32 "; it has to fit 31 bits", key, i,
                (uint32_t)items[i]);
    *ret = (struct lam_gguf_i32s){items, kv->n_items};
    return LAM_OK;
}

enum lam_status lam_gguf_f32s(
    const struct lam_gguf *gguf, const char *key, struct lam_gguf_f32s *ret, struct lam_err *err)
{
    const struct gguf_kv *kv = NULL;
    enum lam_status status = find_key(gguf, key, &kv, err);

    if (status)
        return status;
    if (kv->type != VALUE_ARRAY || kv->item_type != VALUE_F32)
        return wrong_type(kv, key, "array of f32", err);
    *ret = (struct lam_gguf_f32s){kv->items, kv->n_items};
    return LAM_OK;
}

uint64_t lam_gguf_n_keys(const struct lam_gguf *gguf)
{
    return gguf->n_keys;
}

struct lam_str lam_gguf_key(const struct lam_gguf *gguf, uint64_t index)
{
    assert(index < gguf->n_keys);
    return gguf->keys[index].key;
}

/* The beginning of a string in quotes, fit for a terminal: one line, no control characters. */
static void describe_text(struct lam_str text, char *buf, size_t buf_bytes)
{
    bool whole = text.size <= DESCRIBE_TEXT_MAX;
    size_t size = whole ? (size_t)text.size : DESCRIBE_TEXT_MAX;
    char shown[DESCRIBE_TEXT_MAX + 1];

    if (!whole)
        size = lam_utf8_complete_prefix(text.data, size);
    if (!lam_utf8_valid(text.data, size)) {
        snprintf(buf, buf_bytes, "%" PRIu64 " bytes that are no UTF-8", text.size);
        return;
    }
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text.data[i];
        shown[i] = c < ' ' || c == 0x7f ? ' ' : text.data[i];
    }
    shown[size] = '\0';
    if (whole)
        snprintf(buf, buf_bytes, "\"%s\"", shown);
    else
        snprintf(buf, buf_bytes, "\"%s\"... (%" PRIu64 " bytes)", shown, text.size);
}

void lam_gguf_describe(const struct lam_gguf *gguf, uint64_t index, char *buf, size_t buf_bytes)
{
    const struct gguf_kv *kv;

    assert(index < gguf->n_keys && buf_bytes > 0);
    kv = &gguf->keys[index];
    switch (kv->type) {
    case VALUE_BOOL:
        snprintf(buf, buf_bytes, "%s", kv->number.u64 ? "true" : "false");
        break;
    case VALUE_F32:
    case VALUE_F64:
        snprintf(buf, buf_bytes, "%.9g", kv->number.f64);
        break;
    case VALUE_I8:
    case VALUE_I16:
    case VALUE_I32:
    case VALUE_I64:
        snprintf(buf, buf_bytes, "%" PRId64, kv->number.i64);
        break;
    case VALUE_STRING:
        describe_text(kv->text, buf, buf_bytes);
        break;
    case VALUE_ARRAY:
        snprintf(buf, buf_bytes, "%" PRIu64 " x %s", kv->n_items, type_name(kv));
        break;
    default:
        snprintf(buf, buf_bytes, "%" PRIu64, kv->number.u64);
        break;
    }
}
