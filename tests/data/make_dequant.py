#!/usr/bin/env python3
"""Writes dequant.bin: packed blocks of every weight format and their values by the `gguf` package.

Run by hand when a format is added (pip install gguf); the result is committed, so the tests need no
Python. Records of little-endian u32: GGUF type id, columns, packed bytes; then the packed bytes;
then the f32 bits.
"""
import pathlib
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# Where the f16 scales of a block lie; the rest may be any bits.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}
INF, NEG_INF, NAN, NEG_NAN, SIGNALLING = 0x7C00, 0xFC00, 0x7E01, 0xFE55, 0x7D01
LARGEST, LEAST, SUBNORMAL = 0x7BFF, 0x0001, 0x83FF


def with_halves(block, offsets, halves):
    """A block with given f16 bits; the last is repeated for further fields."""
    block = bytearray(block)
    for i, at in enumerate(offsets):
        block[at:at + 2] = struct.pack("<H", halves[min(i, len(halves) - 1)])
    return bytes(block)


def blocks_of(kind, rng):
    offsets = HALVES[kind]
    size = GGML_QUANT_SIZES[kind][1]
    some = lambda: rng.integers(0, 256, size, dtype=np.uint8).tobytes()
    plain = lambda: float_bits(rng.uniform(-0.5, 0.5))
    yield bytes(size)
    yield with_halves(b"\xff" * size, offsets, [LARGEST, LARGEST])
    yield with_halves(b"\x00" * size, offsets, [LARGEST, 0xFBFF])
    yield with_halves(some(), offsets, [LEAST, SUBNORMAL])
    for special in (INF, NEG_INF, NAN, NEG_NAN, SIGNALLING):
        yield with_halves(some(), offsets, [special, plain()])
        if len(offsets) > 1:
            yield with_halves(some(), offsets, [plain(), special])
    for _ in range(6):
        yield with_halves(some(), offsets, [plain(), plain()])


def float_bits(value):
    return int(np.float16(value).view(np.uint16))


def record(kind, packed):
    with np.errstate(all="ignore"):
        values = dequantize(np.frombuffer(packed, np.uint8).reshape(1, -1), kind).ravel()
    head = struct.pack("<III", int(kind), values.size, len(packed))
    return head + packed + values.astype(np.float32, copy=False).tobytes()


def main():
    rng = np.random.default_rng(2024)
    out = bytearray()
    for kind in HALVES:
        out += record(kind, b"".join(blocks_of(kind, rng)))
    specials = [0, 0x8000, INF, NEG_INF, NAN, NEG_NAN, SIGNALLING, LARGEST, LEAST, SUBNORMAL,
                0x3C00]
    random = rng.integers(0, 65536, 117, dtype=np.uint16)
    halves = np.concatenate([np.array(specials, np.uint16), random])
    out += record(T.F16, halves.tobytes())
    out += record(T.BF16, halves.tobytes())
    out += record(T.F32, rng.integers(0, 2**32, 64, dtype=np.uint32).tobytes())
    pathlib.Path(__file__).with_name("dequant.bin").write_bytes(out)


if __name__ == "__main__":
    main()
