"""Safetensors headers, read without the library: a length, a JSON object, then the data.

Models are untrusted input: every length is checked against a limit and the file's size before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

import msgspec

from llmops.checkpoint.tensors import DTYPE_BITS, BadFileError, Tensor

MAX_HEADER_BYTES: Final = 100_000_000  # the format's own limit
_MAX_DIMS: Final = 16


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header. ``metadata`` is the file's own ``__metadata__``."""

    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read the header of one file and check it against the file's size.

    Raises:
        BadFileError: The file is truncated, has bytes that no tensor covers, or is not in this format.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise BadFileError(f"the file has only {size} bytes; a safetensors file starts with an 8-byte length")
        length = int.from_bytes(head, "little")
        if length > MAX_HEADER_BYTES or length < 2:
            raise BadFileError("its first 8 bytes are no header length, so it is not a safetensors file")
        if 8 + length > size:
            raise BadFileError(f"truncated: the header alone needs {8 + length} bytes, the file has {size}")
        raw = _decode(file.read(length))
    metadata = raw.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise BadFileError("__metadata__ is not an object")
    spans = sorted((_span(name, entry) for name, entry in raw.items()), key=lambda item: (item[1], item[2]))
    _check_coverage([(begin, end) for _, begin, end in spans], size - 8 - length)
    return Header(tuple(tensor for tensor, _, _ in spans), {str(k): str(v) for k, v in metadata.items()})


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        parsed = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadFileError(f"the header is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise BadFileError("the header is not a JSON object")
    return parsed


def _span(name: str, entry: Any) -> tuple[Tensor, int, int]:
    """One tensor with its begin and end in the data."""
    if not isinstance(entry, dict):
        raise BadFileError(f"the entry of tensor {name[:80]!r} is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise BadFileError(f"tensor {name[:80]!r} has the unknown type {str(dtype)[:20]!r}")
    if not (_naturals(shape) and len(shape) <= _MAX_DIMS and _naturals(offsets) and len(offsets) == 2):
        raise BadFileError(f"tensor {name[:80]!r} has no valid shape and data_offsets")
    begin, end = offsets
    tensor = Tensor(name, str(dtype), tuple(shape), end - begin)
    if (tensor.elements * bits + 7) // 8 != end - begin:
        raise BadFileError(f"tensor {name[:80]!r}: shape {shape} of {dtype} does not make {end - begin} bytes")
    return tensor, begin, end


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**62 for item in value)


def _check_coverage(spans: list[tuple[int, int]], data_bytes: int) -> None:
    """The data must be covered without gap or overlap, or the file is truncated or hides something."""
    position = 0
    for begin, end in spans:
        if begin != position:
            raise BadFileError("tensors overlap or leave a gap in the data")
        position = end
    if position > data_bytes:
        raise BadFileError(f"truncated: the tensors need {position} bytes of data, the file has {data_bytes}")
    if position < data_bytes:
        raise BadFileError(f"{data_bytes - position} bytes after the last tensor belong to none")
