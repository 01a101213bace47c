/*
 * wire: reads protobuf's wire format, one field at a time, without memory. Private to rpc/.
 *
 *     struct lam_wire wire = {bytes, bytes + n_bytes};
 *     while (wire.at < wire.end)
 *         if (!lam_wire_next(&wire, &field)) ...malformed...
 */
#ifndef LAMINAR_RPC_WIRE_H
#define LAMINAR_RPC_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

enum lam_wire_type {
    LAM_WIRE_VARINT = 0,
    LAM_WIRE_FIXED64 = 1,
    LAM_WIRE_BYTES = 2,
    LAM_WIRE_FIXED32 = 5,
};

struct lam_wire {
    const unsigned char *at;
    const unsigned char *end;
};

struct lam_wire_field {
    uint32_t number;
    enum lam_wire_type type;
    const unsigned char *bytes; /* the content of a BYTES field */
    size_t n_bytes;
};

/*
 * Takes the next field; at < end. False when the bytes are malformed: a varint of more than ten
 * bytes, a field number out of range, a length past the end, a group (proto3 has none) or an
 * unknown wire type.
 */
LAM_MUST_USE bool lam_wire_next(struct lam_wire *wire, struct lam_wire_field *ret_field);

/* Takes one varint. */
LAM_MUST_USE bool lam_wire_varint(struct lam_wire *wire, uint64_t *ret_value);

#endif
