"""GGUF headers, read without the gguf package: metadata and tensor list, never the weights.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Models are untrusted input: every count is checked
against what the rest of the file could hold before memory is used for it.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmops.checkpoint.tensors import BadFileError, Tensor

MAGIC: Final = b"GGUF"
_MAX_STRING: Final = 16 * 2**20
_MAX_KEYS: Final = 100_000
_MAX_TENSORS: Final = 1_000_000
_KEEP_ITEMS: Final = 1024
_MAX_DEPTH: Final = 4

# ggml type number -> (name, elements a block, bytes a block): ggml/src/ggml.c, type_traits.
GGML_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
# general.file_type -> the name people know (llama.cpp, enum llama_ftype).
FILE_TYPES: Final[dict[int, str]] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip
_SCALARS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array in the metadata that is too long to keep; a tokenizer's vocabulary is one."""

    length: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A parsed header. Shapes are in the usual order (rows first), the reverse of the file's."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]


def read_header(path: Path) -> GgufHeader:
    """Read metadata and tensor list of one file, and check the data's length.

    Raises:
        BadFileError: The file is truncated or not in this format.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    if size < 24:
        raise BadFileError(f"the file has only {size} bytes; it is not a GGUF file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Cursor(data, size).header()


class _Cursor:
    """Reads forward through the mapped file; refuses to leave it."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data, self._size, self._at = data, size, 0

    def header(self) -> GgufHeader:
        if self._take(4) != MAGIC:
            raise BadFileError("it does not start with GGUF")
        version = self._scalar("<I")
        if version not in (2, 3):
            raise BadFileError(f"GGUF version {version} is not supported (2 and 3 are; is it big-endian?)")
        tensor_count, key_count = self._scalar("<Q"), self._scalar("<Q")
        if tensor_count > _MAX_TENSORS or key_count > _MAX_KEYS:
            raise BadFileError(f"the header claims {tensor_count} tensors and {key_count} keys")
        metadata = {self._text(): self._value(self._scalar("<I"), 0) for _ in range(key_count)}
        entries = [self._tensor() for _ in range(tensor_count)]
        self._check_data(metadata, entries)
        return GgufHeader(version, metadata, tuple(tensor for tensor, _ in entries))

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > self._size:
            raise BadFileError(f"truncated: the header goes beyond the file's {self._size} bytes")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def _scalar(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _text(self) -> str:
        length = self._scalar("<Q")
        if length > _MAX_STRING:
            raise BadFileError(f"a string of {length} bytes in the header")
        return self._take(length).decode("utf-8", "replace")

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY and depth < _MAX_DEPTH:
            return self._array(depth + 1)
        raise BadFileError(f"metadata of the unknown type {kind}")

    def _array(self, depth: int) -> Any:
        kind, length = self._scalar("<I"), self._scalar("<Q")
        smallest = struct.calcsize(_SCALARS[kind]) if kind in _SCALARS else 8
        if length * smallest > self._size - self._at:
            raise BadFileError(f"truncated: an array of {length} items goes beyond the file")
        if length <= _KEEP_ITEMS:
            return [self._value(kind, depth) for _ in range(length)]
        if kind in _SCALARS:
            self._at += length * smallest
        else:
            for _ in range(length):
                self._skip(kind, depth)
        return LongArray(length)

    def _skip(self, kind: int, depth: int) -> None:
        if kind != _STRING:
            self._value(kind, depth)
            return
        try:
            (length,) = struct.unpack_from("<Q", self._data, self._at)
        except struct.error as error:
            raise BadFileError(f"truncated: the header goes beyond the file's {self._size} bytes") from error
        self._at += 8 + length
        if self._at > self._size:
            raise BadFileError(f"truncated: the header goes beyond the file's {self._size} bytes")

    def _tensor(self) -> tuple[Tensor, int]:
        name, dims = self._text(), self._scalar("<I")
        if dims > 8:
            raise BadFileError(f"tensor {name[:80]!r} has {dims} dimensions")
        shape = tuple(self._scalar("<Q") for _ in range(dims))[::-1]
        kind, offset = self._scalar("<I"), self._scalar("<Q")
        if kind not in GGML_TYPES:
            raise BadFileError(f"tensor {name[:80]!r} has the unknown type {kind}")
        type_name, block, block_bytes = GGML_TYPES[kind]
        elements = 1
        for extent in shape:
            elements *= extent
        if elements >= 2**62:
            raise BadFileError(f"tensor {name[:80]!r} has an impossible shape")
        return Tensor(name, type_name, shape, -(-elements // block) * block_bytes), offset

    def _check_data(self, metadata: dict[str, Any], entries: list[tuple[Tensor, int]]) -> None:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
            raise BadFileError(f"general.alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        needed = max((start + offset + tensor.size_bytes for tensor, offset in entries), default=self._at)
        if needed > self._size:
            raise BadFileError(f"truncated: the tensors need {needed} bytes, the file has {self._size}")
