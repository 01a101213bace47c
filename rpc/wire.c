/* wire: see wire.h. Source: protobuf's published encoding. */
#include "rpc/wire.h"

#define VARINT_BYTES_MAX 10
#define FIELD_NUMBER_MAX ((1u << 29) - 1)

bool lam_wire_varint(struct lam_wire *wire, uint64_t *ret_value)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < VARINT_BYTES_MAX && wire->at + i < wire->end; i++) {
        unsigned char byte = wire->at[i];
        /* The tenth byte holds bit 63 alone. */
        if (i == VARINT_BYTES_MAX - 1 && byte > 1)
            return false;
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            wire->at += i + 1;
            *ret_value = value;
            return true;
        }
    }
    return false;
}

static bool skip(struct lam_wire *wire, uint64_t n_bytes)
{
    if (n_bytes > (uint64_t)(wire->end - wire->at))
        return false;
    wire->at += n_bytes;
    return true;
}

bool lam_wire_next(struct lam_wire *wire, struct lam_wire_field *ret_field)
{
    struct lam_wire_field field = {0};
    uint64_t key;
    uint64_t value;

    if (!lam_wire_varint(wire, &key) || key >> 3 == 0 || key >> 3 > FIELD_NUMBER_MAX)
        return false;
    field.number = (uint32_t)(key >> 3);
    field.type = (enum lam_wire_type)(key & 7);
    switch (field.type) {
    case LAM_WIRE_VARINT:
        if (!lam_wire_varint(wire, &value))
            return false;
        break;
    case LAM_WIRE_FIXED64:
        if (!skip(wire, 8))
            return false;
        break;
    case LAM_WIRE_FIXED32:
        if (!skip(wire, 4))
            return false;
        break;
    case LAM_WIRE_BYTES:
        if (!lam_wire_varint(wire, &value))
            return false;
        field.bytes = wire->at;
        if (!skip(wire, value))
            return false;
        field.n_bytes = (size_t)value;
        break;
    default:
        return false;
    }
    *ret_field = field;
    return true;
}
