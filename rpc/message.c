/*
 * message: see message.h.
 *
 * The walk proves what protobuf-c takes on trust: bounded depth, lengths inside their parent,
 * strings that a C reader sees whole, wire types that fit the schema, a bounded number of fields.
 * protobuf-c then does the unpacking, with an allocator that can only shrink the arena.
 */
#include "rpc/message.h"

#include <string.h>

#include "common/utf8.h"
#include "rpc/wire.h"

/* No message of ours nests deeper than 5. */
#define DEPTH_MAX 16

/* Fields of all levels together, each element of an unpacked repeated field counted. protobuf-c
 * keeps some 40 bytes for each while it works, and narrows counts to 32 bits. */
#define FIELDS_MAX ((size_t)1 << 20)

struct walk {
    size_t n_fields;
    struct lam_err *err;
};

static enum lam_wire_type wire_type_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return LAM_WIRE_FIXED32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return LAM_WIRE_FIXED64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return LAM_WIRE_BYTES;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_BOOL:
    case PROTOBUF_C_TYPE_ENUM:
    default:
        return LAM_WIRE_VARINT;
    }
}

static enum lam_status refuse(struct walk *walk, const ProtobufCMessageDescriptor *type,
    const char *field_name, const char *reason)
{
    return lam_fail(walk->err, LAM_INVALID_ARGUMENT, "%s.%s: %s", type->name, field_name, reason);
}

/* A packed array: whole elements of one wire type, back to back. */
static bool packed_ok(const struct lam_wire_field *field, enum lam_wire_type element)
{
    struct lam_wire wire = {field->bytes, field->bytes + field->n_bytes};
    uint64_t value;

    if (element == LAM_WIRE_FIXED32)
        return field->n_bytes % 4 == 0;
    if (element == LAM_WIRE_FIXED64)
        return field->n_bytes % 8 == 0;
    while (wire.at < wire.end)
        if (!lam_wire_varint(&wire, &value))
            return false;
    return true;
}

static enum lam_status walk_message(struct walk *walk, const ProtobufCMessageDescriptor *type,
    const unsigned char *bytes, size_t n_bytes, unsigned depth);

static enum lam_status walk_field(struct walk *walk, const ProtobufCMessageDescriptor *type,
    const ProtobufCFieldDescriptor *schema, const struct lam_wire_field *field, unsigned depth)
{
    enum lam_wire_type element = wire_type_of(schema->type);

    if (element != field->type) {
        bool packed = schema->label == PROTOBUF_C_LABEL_REPEATED && field->type == LAM_WIRE_BYTES;
        if (!packed || !packed_ok(field, element))
            return refuse(walk, type, schema->name, "its bytes do not have the field's type");
        return LAM_OK;
    }
    if (schema->type == PROTOBUF_C_TYPE_STRING) {
        if (field->n_bytes > 0 && memchr(field->bytes, '\0', field->n_bytes))
            return refuse(walk, type, schema->name, "text with a NUL character");
        if (!lam_utf8_valid((const char *)field->bytes, field->n_bytes))
            return refuse(walk, type, schema->name, "text that is not valid UTF-8");
    }
    if (schema->type == PROTOBUF_C_TYPE_MESSAGE)
        return walk_message(walk, schema->descriptor, field->bytes, field->n_bytes, depth + 1);
    return LAM_OK;
}

static enum lam_status walk_message(struct walk *walk, const ProtobufCMessageDescriptor *type,
    const unsigned char *bytes, size_t n_bytes, unsigned depth)
{
    struct lam_wire wire = {bytes, bytes + n_bytes};
    enum lam_status status = LAM_OK;

    if (depth > DEPTH_MAX)
        return lam_fail(
            walk->err, LAM_INVALID_ARGUMENT, "%s: nested deeper than %d", type->name, DEPTH_MAX);
    while (status == LAM_OK && wire.at < wire.end) {
        struct lam_wire_field field;
        const ProtobufCFieldDescriptor *schema;

        if (!lam_wire_next(&wire, &field))
            return lam_fail(walk->err, LAM_INVALID_ARGUMENT,
                "%s: malformed at byte %zu: send a serialised message of this type", type->name,
                (size_t)(wire.at - bytes));
        if (++walk->n_fields > FIELDS_MAX)
            return lam_fail(walk->err, LAM_INVALID_ARGUMENT, "%s: more than %zu fields", type->name,
                FIELDS_MAX);
        schema = protobuf_c_message_descriptor_get_field(type, field.number);
        if (schema) /* unknown fields are a newer peer's, and pass */
            status = walk_field(walk, type, schema, &field, depth);
    }
    return status;
}

struct arena_allocator {
    struct lam_arena *arena;
    bool exhausted;
};

static void *arena_alloc(void *data, size_t n_bytes)
{
    struct arena_allocator *allocator = data;
    void *block = lam_arena_alloc(allocator->arena, n_bytes, 1, 16);

    if (!block)
        allocator->exhausted = true;
    return block;
}

static void arena_free(void *data, void *block)
{
    (void)data;
    (void)block;
}

enum lam_status lam_message_unpack(const ProtobufCMessageDescriptor *type, const void *bytes,
    size_t n_bytes, struct lam_arena *arena, ProtobufCMessage **ret_message, struct lam_err *err)
{
    struct walk walk = {.err = err};
    struct arena_allocator state = {.arena = arena};
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &state};
    static const unsigned char nothing[1];
    const unsigned char *begin = n_bytes > 0 ? bytes : nothing;
    enum lam_status status = walk_message(&walk, type, begin, n_bytes, 0);
    ProtobufCMessage *message;

    if (status != LAM_OK)
        return status;
    message = protobuf_c_message_unpack(type, &allocator, n_bytes, begin);
    if (message) {
        *ret_message = message;
        return LAM_OK;
    }
    if (state.exhausted)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
            "%s: needs more than the %llu bytes set aside for it: send a smaller message",
            type->name, (unsigned long long)arena->cap_bytes);
    return lam_fail(err, LAM_INVALID_ARGUMENT, "%s: malformed message", type->name);
}

struct sink {
    ProtobufCBuffer base; /* first: protobuf-c hands us a pointer to it */
    struct lam_buf *out;
    bool failed;
};

static void append_to_sink(ProtobufCBuffer *base, size_t n_bytes, const uint8_t *bytes)
{
    struct sink *sink = (struct sink *)base;

    if (!sink->failed && !lam_buf_append(sink->out, bytes, n_bytes))
        sink->failed = true;
}

bool lam_message_pack(const ProtobufCMessage *message, struct lam_buf *out)
{
    struct sink sink = {.base = {append_to_sink}, .out = out};

    lam_buf_clear(out);
    protobuf_c_message_pack_to_buffer(message, &sink.base);
    return !sink.failed;
}
