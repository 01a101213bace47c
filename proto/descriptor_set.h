/*
 * descriptor_set: a google.protobuf.FileDescriptorSet of every service that a Laminar process can
 * serve, gRPC health and reflection included. Server reflection answers from it.
 */
#ifndef LAMINAR_PROTO_DESCRIPTOR_SET_H
#define LAMINAR_PROTO_DESCRIPTOR_SET_H

#include <stddef.h>

extern const unsigned char lam_descriptor_set[];
extern const size_t lam_descriptor_set_bytes;

#endif
