"""MIL's blob storage, version 2: the weight.bin inside an .mlpackage. Reader and writer of our own.

Layout (coremltools mlmodel/src/MILBlob/Blob/StorageFormat.hpp): a header of 64 bytes (count, version), then per
entry 64 bytes of metadata and its data, each aligned to 64 bytes. A program names an entry by the offset of its
metadata. Types narrower than a byte are packed least significant bit first, without gaps between elements.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from qtools.core.errors import InputError, MissingPlatform

ALIGNMENT = 64
VERSION = 2
SENTINEL = 0xDEADBEEF
_HEADER = struct.Struct("<II56x")
_METADATA = struct.Struct("<IIQQQ32x")

DTYPES: dict[int, str] = {
    1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1", 10: "uint2",
    11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32",
}  # fmt: skip
"""Codes of BlobDataType.hpp; bfloat16 and the float8 types are left out, no supported model has them."""
_CODES = {name: code for code, name in DTYPES.items()}
SUBBYTE = {"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}
"""Width in bits of the types that are packed."""


def unpack(data: NDArray[np.uint8], dtype: str, count: int) -> NDArray[np.generic]:
    """The first `count` elements of a packed type, one per byte.

    Args:
        data: Packed bytes.
        dtype: A key of SUBBYTE.
        count: Number of elements.
    """
    bits = SUBBYTE[dtype]
    flat = np.unpackbits(data, bitorder="little")[: count * bits].reshape(count, bits)
    codes = np.asarray(flat @ (1 << np.arange(bits)), np.uint8)
    if dtype.startswith("u"):
        return codes
    return np.asarray((codes ^ (1 << (bits - 1))).astype(np.int16) - (1 << (bits - 1)), np.int8)


def pack(codes: NDArray[np.generic], bits: int) -> NDArray[np.uint8]:
    """Codes 0..2^bits-1 (or their two's complement) packed least significant bit first."""
    flat = codes.reshape(-1).astype(np.int16) & ((1 << bits) - 1)
    shifted = (flat[:, None] >> np.arange(bits)) & 1
    return np.packbits(shifted.astype(np.uint8).reshape(-1), bitorder="little")


class BlobReader:
    """Entries of one weight file; every offset and length is checked before it is used."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name
        if len(data) < _HEADER.size:
            raise self._broken("it is shorter than its header")
        version = _HEADER.unpack_from(data)[1]
        if version != VERSION:
            raise self._broken(f"its version is {version}, not {VERSION}")

    def read(self, offset: int, count: int) -> tuple[NDArray[np.generic], str]:
        """One entry.

        Args:
            offset: Where the entry's metadata lies, in bytes.
            count: Number of elements the program expects.

        Returns:
            A flat array of `count` elements (narrow types one per byte), and the name of the stored type.
        """
        dtype, start, size = self.entry(offset, count)
        raw = np.frombuffer(self._data, np.uint8, size, start)
        return (unpack(raw, dtype, count) if dtype in SUBBYTE else raw.view(dtype)), dtype

    def entry(self, offset: int, count: int) -> tuple[str, int, int]:
        """Type, first byte and length in bytes of an entry that holds `count` elements."""
        if offset % ALIGNMENT or not _HEADER.size <= offset <= len(self._data) - _METADATA.size:
            raise self._broken(f"an entry at offset {offset} cannot be")
        sentinel, code, size, start, padding = _METADATA.unpack_from(self._data, offset)
        if sentinel != SENTINEL:
            raise self._broken(f"there is no entry at offset {offset}")
        if code not in DTYPES:
            raise MissingPlatform(f"{self._name}: qtools cannot read blob data type {code}")
        if start > len(self._data) or size > len(self._data) - start:
            raise self._broken(f"the entry at offset {offset} ends outside the file")
        dtype = DTYPES[code]
        if dtype in SUBBYTE:
            stored = (size * 8 - min(padding, 7)) // SUBBYTE[dtype]
            if not count <= stored <= count + 7:
                raise self._broken(f"the entry at offset {offset} holds {stored} elements, not {count}")
        elif size != count * np.dtype(dtype).itemsize:
            width = np.dtype(dtype).itemsize
            raise self._broken(f"the entry at offset {offset} holds {size} bytes, not {count * width}")
        return dtype, start, size

    def _broken(self, why: str) -> InputError:
        return InputError(f"{self._name} is no weight file that can be read: {why}", "export the package again")


class BlobWriter:
    """Builds a weight file. Equal entries are stored once, so equal programs give equal bytes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = [b""]
        self._size = _HEADER.size
        self._known: dict[tuple[str, bytes, int], int] = {}

    def add(self, array: NDArray[np.generic], dtype: str) -> int:
        """Appends an array and returns the offset a program names it by.

        Args:
            array: Any shape; narrow types one element per byte.
            dtype: A value of DTYPES.
        """
        bits = SUBBYTE.get(dtype)
        data = (np.ascontiguousarray(array, dtype) if bits is None else pack(array, bits)).tobytes()
        padding = 0 if bits is None else len(data) * 8 - array.size * bits
        key = (dtype, data, padding)  # one code and two may fill the same byte
        if key not in self._known:
            offset = self._size
            start = offset + _METADATA.size
            fill = -len(data) % ALIGNMENT
            self._pieces += [_METADATA.pack(SENTINEL, _CODES[dtype], len(data), start, padding), data, bytes(fill)]
            self._size = start + len(data) + fill
            self._known[key] = offset
        return self._known[key]

    def getvalue(self) -> bytes:
        """The whole file."""
        return _HEADER.pack(len(self._known), VERSION) + b"".join(self._pieces)
