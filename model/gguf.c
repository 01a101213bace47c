/*
 * gguf: the parser. See gguf.h. Here are the cursor and the metadata; the table of tensors is in
 * gguf_tensors.c, typed access to the metadata in gguf_value.c.
 *
 * Design: one cursor over the bytes; every read first asks want(), the only place that decides
 * between "the file ends here" and "read more". Each count is held against its cap and the bytes
 * that it claims to describe before anything is allocated for it. Sizes are checked after every
 * single step: a product, a sum and a rounding that are checked together have let wrapped values
 * through in other readers of this format.
 *
 * Invariants after success: names are unique, every tensor lies inside the file, aligned, and
 * overlaps none.
 */
#include "model/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "common/utf8.h"
#include "model/gguf_impl.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read in place: little-endian");

#define KEYS_MAX 65536u
#define TENSORS_MAX 65536u
#define NAME_BYTES_MAX 255u
#define STRING_BYTES_MAX (16 * LAM_MIB)
#define ITEMS_MAX (4 * LAM_MIB)
#define ALIGNMENT_DEFAULT 32u
#define ALIGNMENT_MIN 8u
#define ALIGNMENT_MAX 65536u

/* The smallest records: a key of one byte with a one-byte value; a tensor of one byte and one
 * dimension. */
#define KEY_RECORD_BYTES_MIN (8u + 1 + 4 + 1)
#define TENSOR_RECORD_BYTES_MIN (8u + 1 + 4 + 8 + 4 + 8)

const struct value_type_info lam_gguf_value_types[VALUE_TYPES] = {
    [VALUE_U8] = {"u8", 1},
    [VALUE_I8] = {"i8", 1},
    [VALUE_U16] = {"u16", 2},
    [VALUE_I16] = {"i16", 2},
    [VALUE_U32] = {"u32", 4},
    [VALUE_I32] = {"i32", 4},
    [VALUE_F32] = {"f32", 4},
    [VALUE_BOOL] = {"bool", 1},
    [VALUE_STRING] = {"string", 0},
    [VALUE_ARRAY] = {"array", 0},
    [VALUE_U64] = {"u64", 8},
    [VALUE_I64] = {"i64", 8},
    [VALUE_F64] = {"f64", 8},
};

/* Are there n more bytes? what: for the error text. */
static enum lam_status want(const struct gguf_cursor *cursor, uint64_t n, const char *what)
{
    if (lam_size_range_ok(cursor->at, n, cursor->have))
        return LAM_OK;
    if (!lam_size_range_ok(cursor->at, n, cursor->file_bytes))
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "GGUF header: %s at byte %" PRIu64 " reaches beyond the end of the file (%" PRIu64
            " bytes); the file is cut off or damaged",
            what, cursor->at, cursor->file_bytes);
    if (!lam_size_range_ok(cursor->at, n, LAM_GGUF_HEADER_BYTES_MAX))
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "GGUF header: %s at byte %" PRIu64 " reaches beyond the header limit of 64 MiB", what,
            cursor->at);
    return lam_fail(cursor->err, LAM_OUT_OF_RANGE,
        "GGUF header: %s at byte %" PRIu64 " needs more than the %" PRIu64 " bytes read so far",
        what, cursor->at, cursor->have);
}

enum lam_status lam_gguf_take(struct gguf_cursor *cursor, void *ret, uint64_t n, const char *what)
{
    enum lam_status status = want(cursor, n, what);

    if (status)
        return status;
    memcpy(ret, cursor->data + cursor->at, n);
    cursor->at += n;
    return LAM_OK;
}

static enum lam_status take_string(
    struct gguf_cursor *cursor, uint64_t bytes_max, const char *what, struct lam_str *ret)
{
    uint64_t size = 0;
    enum lam_status status = lam_gguf_take(cursor, &size, sizeof size, what);

    if (status)
        return status;
    if (size > bytes_max)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "GGUF header: %s at byte %" PRIu64 " has %" PRIu64 " bytes; at most %" PRIu64
            " are allowed",
            what, cursor->at, size, bytes_max);
    status = want(cursor, size, what);
    if (status)
        return status;
    *ret = (struct lam_str){(const char *)cursor->data + cursor->at, size};
    cursor->at += size;
    return LAM_OK;
}

enum lam_status lam_gguf_take_name(
    struct gguf_cursor *cursor, const char *what, struct lam_str *ret)
{
    struct lam_str name = {0};
    enum lam_status status = take_string(cursor, NAME_BYTES_MAX, what, &name);
    bool clean;

    if (status)
        return status;
    clean = name.size > 0 && lam_utf8_valid(name.data, name.size);
    for (uint64_t i = 0; clean && i < name.size; i++)
        clean = (unsigned char)name.data[i] >= ' ' && name.data[i] != 0x7f;
    if (!clean)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "GGUF header: %s that ends at byte %" PRIu64 " is empty or no printable text", what,
            cursor->at);
    *ret = name;
    return LAM_OK;
}

static enum lam_status take_scalar(struct gguf_cursor *cursor, struct gguf_kv *kv)
{
    unsigned char raw[8] = {0};
    uint32_t bytes = lam_gguf_value_types[kv->type].bytes;
    enum lam_status status = lam_gguf_take(cursor, raw, bytes, "a value");
    uint64_t bits;
    float f32;

    if (status)
        return status;
    memcpy(&bits, raw, sizeof bits);
    switch (kv->type) {
    case VALUE_I8:
        kv->number.i64 = (int8_t)bits;
        break;
    case VALUE_I16:
        kv->number.i64 = (int16_t)bits;
        break;
    case VALUE_I32:
        kv->number.i64 = (int32_t)bits;
        break;
    case VALUE_F32:
        memcpy(&f32, raw, sizeof f32);
        kv->number.f64 = (double)f32;
        break;
    case VALUE_F64:
        memcpy(&kv->number.f64, raw, sizeof bits);
        break;
    default:
        kv->number.u64 = bits;
        break;
    }
    if (kv->type == VALUE_BOOL && bits > 1)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "GGUF header: key '%.*s' is a bool of value %u; only 0 and 1 are allowed",
            (int)kv->key.size, kv->key.data, (unsigned)bits);
    return LAM_OK;
}

/* The items of an array whose type and count are known and within the caps. */
static enum lam_status take_items(struct gguf_cursor *cursor, struct gguf_kv *kv)
{
    bool strings = kv->item_type == VALUE_STRING;
    bool copied =
        kv->item_type == VALUE_I32 || kv->item_type == VALUE_U32 || kv->item_type == VALUE_F32;
    uint64_t item_bytes = strings ? 8 : lam_gguf_value_types[kv->item_type].bytes;
    uint64_t bytes = kv->n_items * item_bytes; /* at most ITEMS_MAX * 8; for strings, the least */
    enum lam_status status = want(cursor, bytes, "an array");

    if (status)
        return status;
    if (strings || copied) {
        kv->items = lam_calloc(kv->n_items, strings ? sizeof(struct lam_str) : item_bytes);
        if (!kv->items)
            return lam_fail(cursor->err, LAM_RESOURCE_EXHAUSTED,
                "no memory for the %" PRIu64 " items of key '%.*s'", kv->n_items, (int)kv->key.size,
                kv->key.data);
    }
    if (!strings) {
        if (copied)
            memcpy(kv->items, cursor->data + cursor->at, bytes);
        cursor->at += bytes;
        return LAM_OK;
    }
    for (uint64_t i = 0; i < kv->n_items && !status; i++)
        status =
            take_string(cursor, STRING_BYTES_MAX, "a string", &((struct lam_str *)kv->items)[i]);
    return status;
}

static enum lam_status take_array(struct gguf_cursor *cursor, struct gguf_kv *kv)
{
    uint32_t item_type = 0;
    enum lam_status status = lam_gguf_take(cursor, &item_type, sizeof item_type, "an array's type");

    if (!status)
        status = lam_gguf_take(cursor, &kv->n_items, sizeof kv->n_items, "an array's length");
    if (status)
        return status;
    if (item_type >= VALUE_TYPES || item_type == VALUE_ARRAY)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "GGUF header: key '%.*s' is an array of type %" PRIu32
            "; only numbers, bools and strings are allowed",
            (int)kv->key.size, kv->key.data, item_type);
    if (kv->n_items > ITEMS_MAX)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "GGUF header: key '%.*s' is an array of %" PRIu64 " items; at most %" PRIu64
            " are allowed",
            (int)kv->key.size, kv->key.data, kv->n_items, ITEMS_MAX);
    kv->item_type = (enum value_type)item_type;
    return take_items(cursor, kv);
}

static enum lam_status take_key(struct gguf_cursor *cursor, struct gguf_kv *kv)
{
    uint32_t type = 0;
    enum lam_status status = lam_gguf_take_name(cursor, "a key", &kv->key);

    if (!status)
        status = lam_gguf_take(cursor, &type, sizeof type, "a value's type");
    if (status)
        return status;
    if (type >= VALUE_TYPES)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "GGUF header: key '%.*s' has the value type %" PRIu32 "; the format knows 0 to 12",
            (int)kv->key.size, kv->key.data, type);
    kv->type = (enum value_type)type;
    if (kv->type == VALUE_ARRAY)
        return take_array(cursor, kv);
    if (kv->type == VALUE_STRING)
        return take_string(cursor, STRING_BYTES_MAX, "a string", &kv->text);
    return take_scalar(cursor, kv);
}

static int compare_str(struct lam_str a, struct lam_str b)
{
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);

    if (order != 0)
        return order;
    return (a.size > b.size) - (a.size < b.size);
}

static int compare_names(const void *a, const void *b)
{
    return compare_str(((const struct gguf_name *)a)->name, ((const struct gguf_name *)b)->name);
}

int64_t lam_gguf_find_name(const struct gguf_name *names, uint64_t n, struct lam_str name)
{
    struct gguf_name wanted = {.name = name};
    const struct gguf_name *found = NULL;

    if (n > 0)
        found = bsearch(&wanted, names, n, sizeof names[0], compare_names);
    return found ? (int64_t)found->index : -1;
}

enum lam_status lam_gguf_sort_names(
    struct gguf_name *names, uint64_t n, const char *what, struct lam_err *err)
{
    if (n > 0)
        qsort(names, n, sizeof names[0], compare_names);
    for (uint64_t i = 1; i < n; i++)
        if (compare_names(&names[i - 1], &names[i]) == 0)
            return lam_fail(err, LAM_INVALID_ARGUMENT, "GGUF header: %s '%.*s' stands there twice",
                what, (int)names[i].name.size, names[i].name.data);
    return LAM_OK;
}

static enum lam_status parse_keys(struct gguf_cursor *cursor, struct lam_gguf *gguf, uint64_t n)
{
    enum lam_status status = LAM_OK;

    gguf->keys = lam_calloc(n, sizeof gguf->keys[0]);
    gguf->key_names = lam_calloc(n, sizeof gguf->key_names[0]);
    if (!gguf->keys || !gguf->key_names)
        return lam_fail(cursor->err, LAM_RESOURCE_EXHAUSTED, "no memory for %" PRIu64 " keys", n);
    gguf->n_keys = n;
    for (uint64_t i = 0; i < n && !status; i++) {
        status = take_key(cursor, &gguf->keys[i]);
        gguf->key_names[i] = (struct gguf_name){gguf->keys[i].key, (uint32_t)i};
    }
    if (status)
        return status;
    return lam_gguf_sort_names(gguf->key_names, n, "key", cursor->err);
}

static enum lam_status read_alignment(struct lam_gguf *gguf, struct lam_err *err)
{
    static const struct lam_str key = {"general.alignment", sizeof "general.alignment" - 1};
    int64_t index = lam_gguf_find_name(gguf->key_names, gguf->n_keys, key);
    const struct gguf_kv *kv;
    uint64_t alignment;

    gguf->alignment = ALIGNMENT_DEFAULT;
    if (index < 0)
        return LAM_OK;
    kv = &gguf->keys[index];
    if (kv->type != VALUE_U32)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "GGUF header: general.alignment is of type %s; the format wants u32",
            lam_gguf_value_types[kv->type].name);
    alignment = kv->number.u64;
    if (alignment < ALIGNMENT_MIN || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1)))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "GGUF header: general.alignment is %" PRIu64 "; a power of two from 8 to 65536 is "
            "allowed",
            alignment);
    gguf->alignment = alignment;
    return LAM_OK;
}

/* Magic, version, counts. */
static enum lam_status take_counts(
    struct gguf_cursor *cursor, uint64_t *ret_n_tensors, uint64_t *ret_n_keys)
{
    char magic[4];
    uint32_t version = 0;
    enum lam_status status = lam_gguf_take(cursor, magic, sizeof magic, "the magic number");

    if (status)
        return status;
    if (memcmp(magic, "GGUF", sizeof magic) != 0)
        return lam_fail(
            cursor->err, LAM_INVALID_ARGUMENT, "not a GGUF file: it does not begin with 'GGUF'");
    status = lam_gguf_take(cursor, &version, sizeof version, "the version");
    if (status)
        return status;
    if (version != 2 && version != 3)
        return lam_fail(cursor->err, LAM_UNIMPLEMENTED,
            "GGUF version %" PRIu32 "%s is not supported; convert the file to version 3", version,
            version == 0x02000000 || version == 0x03000000 ? " (big-endian)" : "");
    status = lam_gguf_take(cursor, ret_n_tensors, sizeof *ret_n_tensors, "the tensor count");
    if (status)
        return status;
    return lam_gguf_take(cursor, ret_n_keys, sizeof *ret_n_keys, "the key count");
}

/* A count of records may not claim more than fits into the rest of the file. */
static enum lam_status check_count(const struct gguf_cursor *cursor, uint64_t n, uint64_t max,
    uint64_t record_bytes, const char *what)
{
    if (n > max)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "GGUF header: %" PRIu64 " %s; at most %" PRIu64 " are allowed", n, what, max);
    if (n > (cursor->file_bytes - cursor->at) / record_bytes)
        return lam_fail(cursor->err, LAM_INVALID_ARGUMENT,
            "GGUF header: %" PRIu64 " %s do not fit into a file of %" PRIu64
            " bytes; the file is cut off or damaged",
            n, what, cursor->file_bytes);
    return LAM_OK;
}

static enum lam_status parse(struct gguf_cursor *cursor, struct lam_gguf *gguf)
{
    uint64_t n_tensors = 0;
    uint64_t n_keys = 0;
    enum lam_status status = take_counts(cursor, &n_tensors, &n_keys);

    if (!status)
        status = check_count(cursor, n_keys, KEYS_MAX, KEY_RECORD_BYTES_MIN, "keys");
    if (!status)
        status = check_count(cursor, n_tensors, TENSORS_MAX, TENSOR_RECORD_BYTES_MIN, "tensors");
    gguf->keys_begin = cursor->at;
    if (!status)
        status = parse_keys(cursor, gguf, n_keys);
    gguf->keys_end = cursor->at;
    if (!status)
        status = read_alignment(gguf, cursor->err);
    if (!status)
        status = check_count(cursor, n_tensors, TENSORS_MAX, TENSOR_RECORD_BYTES_MIN, "tensors");
    if (!status)
        status = lam_gguf_take_tensors(cursor, gguf, n_tensors);
    return status;
}

enum lam_status lam_gguf_parse(const void *header, uint64_t header_bytes, uint64_t file_bytes,
    struct lam_gguf **ret_gguf, struct lam_err *err)
{
    struct gguf_cursor cursor = {.data = header, .have = header_bytes, .err = err};
    struct lam_gguf *gguf;
    enum lam_status status;

    cursor.file_bytes = file_bytes;
    if (cursor.have > file_bytes)
        cursor.have = file_bytes;
    if (cursor.have > LAM_GGUF_HEADER_BYTES_MAX)
        cursor.have = LAM_GGUF_HEADER_BYTES_MAX;
    gguf = lam_calloc(1, sizeof *gguf);
    if (!gguf)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a GGUF header");
    status = parse(&cursor, gguf);
    if (status) {
        lam_gguf_destroy(gguf);
        return status;
    }
    *ret_gguf = gguf;
    return LAM_OK;
}

void lam_gguf_destroy(struct lam_gguf *gguf)
{
    if (!gguf)
        return;
    for (uint64_t i = 0; i < gguf->n_keys; i++)
        lam_free(gguf->keys[i].items);
    lam_free(gguf->keys);
    lam_free(gguf->key_names);
    lam_free(gguf->tensors);
    lam_free(gguf->tensor_names);
    lam_free(gguf);
}
