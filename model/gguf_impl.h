/* gguf_impl (private to model/): the parsed header, shared by gguf.c (which fills it) and
 * gguf_value.c (which reads it). */
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

/* Index of `name` in a table sorted as above, or -1. */
int64_t lam_gguf_find_name(const struct gguf_name *names, uint64_t n, struct lam_str name);

#endif
