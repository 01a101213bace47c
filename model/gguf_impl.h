/* gguf_impl (private to model/): the parsed header, shared by gguf.c and gguf_tensors.c (which fill
 * it) and gguf_value.c (which reads it), and the cursor of those that fill it. */
#ifndef LAMINAR_MODEL_GGUF_IMPL_H
#define LAMINAR_MODEL_GGUF_IMPL_H

#include "model/gguf.h"

/* The file's value type ids. */
enum value_type {
    VALUE_U8 = 0,
    VALUE_I8 = 1,
    VALUE_U16 = 2,
    VALUE_I16 = 3,
    VALUE_U32 = 4,
    VALUE_I32 = 5,
    VALUE_F32 = 6,
    VALUE_BOOL = 7,
    VALUE_STRING = 8,
    VALUE_ARRAY = 9,
    VALUE_U64 = 10,
    VALUE_I64 = 11,
    VALUE_F64 = 12,
    VALUE_TYPES = 13,
};

struct value_type_info {
    const char *name;
    uint32_t bytes; /* of a scalar; 0 for strings and arrays */
};

extern const struct value_type_info lam_gguf_value_types[VALUE_TYPES];

/* One key and its value. Which members count follows from `type`. */
struct gguf_kv {
    struct lam_str key;
    enum value_type type;
    enum value_type item_type; /* arrays */
    union {
        uint64_t u64; /* unsigned types and bool */
        int64_t i64;  /* signed types */
        double f64;   /* both float types */
    } number;
    struct lam_str text; /* strings */
    uint64_t n_items;    /* arrays */
    void *items;         /* arrays of string (struct lam_str), i32, u32, f32: ours; else NULL */
};

/* Names in memcmp order, for binary search. No hash: a file could choose names that collide. */
struct gguf_name {
    struct lam_str name;
    uint32_t index;
};

struct lam_gguf {
    uint64_t keys_begin, keys_end; /* of the header; behind them the table of tensors */
    uint64_t table_end;
    uint64_t alignment;
    uint64_t n_keys;
    struct gguf_kv *keys; /* file order */
    struct gguf_name *key_names;
    uint64_t n_tensors;
    struct lam_gguf_tensor *tensors; /* file order */
    struct gguf_name *tensor_names;
};

/* Where the parser is. err: may be NULL, as for lam_fail. */
struct gguf_cursor {
    const unsigned char *data;
    uint64_t at;
    uint64_t have; /* bytes at `data` */
    uint64_t file_bytes;
    struct lam_err *err;
};

/* Copies n bytes out; fields have no alignment in the file. what: for the error text. Errors, here
 * and below: as lam_gguf_parse. */
LAM_MUST_USE enum lam_status lam_gguf_take(
    struct gguf_cursor *cursor, void *ret, uint64_t n, const char *what);

/* A name. They go into error texts and onto terminals: not empty, UTF-8, no control characters. */
LAM_MUST_USE enum lam_status lam_gguf_take_name(
    struct gguf_cursor *cursor, const char *what, struct lam_str *ret);

/* Sorts and refuses doubles: two readers could pick different ones. what: they are names of. */
LAM_MUST_USE enum lam_status lam_gguf_sort_names(
    struct gguf_name *names, uint64_t n, const char *what, struct lam_err *err);

/* The table of n tensors, which the cursor has come to: gguf->tensors, sized and placed in the
 * file, and their names. n is within the cap, and gguf->alignment is known. */
LAM_MUST_USE enum lam_status lam_gguf_take_tensors(
    struct gguf_cursor *cursor, struct lam_gguf *gguf, uint64_t n);

/* Index of `name` in a table sorted as above, or -1. */
int64_t lam_gguf_find_name(const struct gguf_name *names, uint64_t n, struct lam_str name);

#endif
