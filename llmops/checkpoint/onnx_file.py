"""The reader of ONNX files: inputs, outputs, operators, sizes and external data.

Reads the protobuf wire format directly, without the ``onnx`` package and without loading a weight: a tensor's payload is
stepped over. Field numbers are those of ``onnx.proto3``. Untrusted input: every length is checked before it is used.
"""

from __future__ import annotations

import dataclasses
import mmap
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llmops.checkpoint.onnx_facts import OnnxFacts, OnnxTensor, tensorrt_findings
from llmops.checkpoint.onnx_wire import CorruptError, Span, fields, packed, text_of
from llmops.errors import UsageError

DTYPES: Final = (
    "UNDEFINED", "FLOAT", "UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "STRING", "BOOL", "FLOAT16", "DOUBLE",
    "UINT32", "UINT64", "COMPLEX64", "COMPLEX128", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2",
    "FLOAT8E5M2FNUZ", "UINT4", "INT4", "FLOAT4E2M1", "FLOAT8E8M0", "UINT2", "INT2",
    "FLOAT6E2M3", "FLOAT6E3M2",
)  # fmt: skip
_BITS: Final = {
    "UINT8": 8, "INT8": 8, "BOOL": 8, "UINT16": 16, "INT16": 16, "FLOAT16": 16, "BFLOAT16": 16, "DOUBLE": 64, "INT64": 64,
    "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128, "FLOAT8E4M3FN": 8, "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8,
    "FLOAT8E5M2FNUZ": 8, "FLOAT8E8M0": 8, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2,
    "FLOAT6E2M3": 6, "FLOAT6E3M2": 6,
}  # fmt: skip
_MAX_DEPTH: Final = 32
_MAX_NODES: Final = 5_000_000


@dataclass(slots=True)
class _Tally:
    opsets: dict[str, int] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    external: dict[str, int] = field(default_factory=dict)
    inputs: list[OnnxTensor] = field(default_factory=list)
    outputs: list[OnnxTensor] = field(default_factory=list)
    initializers: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    parameters: int = 0
    inline: int = 0


def read_onnx(path: Path) -> OnnxFacts:
    """Read the facts of ``path`` without its weights.

    Raises:
        UsageError: There is no such file, it is no ONNX file, or it is cut off.
    """
    if not path.is_file():
        hint = f"give the .onnx file inside it: {path}/model.onnx" if path.is_dir() else "check the path"
        raise UsageError(f"there is no ONNX file {path}", hint)
    size = path.stat().st_size
    if size == 0:
        raise UsageError(f"{path} is empty, not an ONNX file", "export it again: llmops export onnx")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(path, data, size)
    except CorruptError as error:
        raise UsageError(
            f"{path} is not an ONNX file, or it is cut off: {error}",
            "compare its size and hash with the source, or export it again",
        ) from error


def _read(path: Path, data: mmap.mmap, size: int) -> OnnxFacts:
    tally = _Tally()
    ir_version, producer, graphs = 0, ["", ""], 0
    # Functions stand after the graph, and a call of one is no operator of its own: they are read first.
    for number, value in fields(data, 0, size):
        if number == 25 and isinstance(value, tuple):
            tally.functions.add(_function_name(data, value))
    for number, value in fields(data, 0, size):
        if number == 1 and isinstance(value, int):
            ir_version = value
        elif number in (2, 3) and isinstance(value, tuple):
            producer[number - 2] = text_of(data, value)
        elif number == 7 and isinstance(value, tuple):
            graphs += 1
            _graph(data, value, tally, top=True, depth=0)
        elif number == 8 and isinstance(value, tuple):
            domain, version = _opset(data, value)
            tally.opsets[domain] = version
        elif number == 25 and isinstance(value, tuple):
            _function(data, value, tally)
    if not graphs or not tally.opsets or not 1 <= ir_version <= 64:
        raise CorruptError("it has no graph or no operator set")
    return _facts(path, size, ir_version, " ".join(producer).strip(), tally)


def _facts(path: Path, size: int, ir_version: int, producer: str, tally: _Tally) -> OnnxFacts:
    missing = tuple(sorted(name for name, need in tally.external.items() if not _is_whole(path.parent / name, need)))
    # Old exporters list initialisers among the inputs; those are constants, not inputs.
    inputs = tuple(tensor for tensor in tally.inputs if tensor.name not in tally.initializers)
    facts = OnnxFacts(
        path=path,
        size_bytes=size,
        ir_version=ir_version,
        producer=producer,
        opsets=dict(sorted(tally.opsets.items())),
        inputs=inputs,
        outputs=tuple(tally.outputs),
        operators=dict(sorted(tally.operators.items(), key=lambda item: (-item[1], item[0]))),
        parameters=tally.parameters,
        inline_bytes=tally.inline,
        external=dict(sorted(tally.external.items())),
        missing=missing,
        weight_dtypes=dict(tally.dtypes.most_common()),
        initializers=len(tally.initializers),
    )
    return dataclasses.replace(facts, findings=tensorrt_findings(facts))


# ---- messages ----


def _graph(data: mmap.mmap, span: Span, tally: _Tally, *, top: bool, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise CorruptError("its graphs are nested too deeply")
    for number, value in fields(data, *span):
        if not isinstance(value, tuple):
            continue
        if number == 1:
            _node(data, value, tally, depth)
        elif number == 5:
            name = _tensor(data, value, tally)
            if top:
                tally.initializers.add(name)
        elif number == 11 and top:
            tally.inputs.append(_value_info(data, value))
        elif number == 12 and top:
            tally.outputs.append(_value_info(data, value))


def _node(data: mmap.mmap, span: Span, tally: _Tally, depth: int) -> None:
    operator = domain = ""
    for number, value in fields(data, *span):
        if not isinstance(value, tuple):
            continue
        if number == 4:
            operator = text_of(data, value)
        elif number == 7:
            domain = text_of(data, value)
        elif number == 5:
            _attribute(data, value, tally, depth)
    name = operator if domain in ("", "ai.onnx") else f"{domain}::{operator}"
    if name not in tally.functions:
        tally.operators[name] += 1
    if len(tally.operators) > _MAX_NODES:
        raise CorruptError("it has too many operators")


def _attribute(data: mmap.mmap, span: Span, tally: _Tally, depth: int) -> None:
    for number, value in fields(data, *span):
        if isinstance(value, tuple) and number in (6, 11):
            _graph(data, value, tally, top=False, depth=depth + 1)


def _function(data: mmap.mmap, span: Span, tally: _Tally) -> None:
    for number, value in fields(data, *span):
        if number == 7 and isinstance(value, tuple):
            _node(data, value, tally, 0)


def _function_name(data: mmap.mmap, span: Span) -> str:
    name = domain = ""
    for number, value in fields(data, *span):
        if number == 1 and isinstance(value, tuple):
            name = text_of(data, value)
        elif number == 10 and isinstance(value, tuple):
            domain = text_of(data, value)
    return f"{domain}::{name}" if domain else name


def _opset(data: mmap.mmap, span: Span) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in fields(data, *span):
        if number == 1 and isinstance(value, tuple):
            domain = text_of(data, value)
        elif number == 2 and isinstance(value, int):
            version = value
    return ("" if domain == "ai.onnx" else domain), version


def _tensor(data: mmap.mmap, span: Span, tally: _Tally) -> str:
    """Count one initialiser; returns its name."""
    dims: list[int] = []
    dtype, name, outside = "UNDEFINED", "", {}
    for number, value in fields(data, *span):
        if number == 1:
            dims += [value] if isinstance(value, int) else list(packed(data, value))
        elif number == 2 and isinstance(value, int):
            dtype = _dtype(value)
        elif number == 8 and isinstance(value, tuple):
            name = text_of(data, value)
        elif number == 13 and isinstance(value, tuple):
            key, text = _entry(data, value)
            outside[key] = text
    elements = 1
    for dim in dims:
        elements *= dim
    size = -(-elements * _BITS.get(dtype, 32) // 8)
    tally.parameters += elements
    tally.dtypes[dtype] += size
    if "location" in outside:
        try:
            end = int(outside.get("offset", "0")) + int(outside.get("length", str(size)))
        except ValueError:
            raise CorruptError(f"the external data of {name!r} has no valid offset") from None
        where = outside["location"]
        tally.external[where] = max(end, tally.external.get(where, 0))
    else:
        tally.inline += size
    return name


def _value_info(data: mmap.mmap, span: Span) -> OnnxTensor:
    name, dtype, dims = "", "UNDEFINED", None
    for number, value in fields(data, *span):
        if number == 1 and isinstance(value, tuple):
            name = text_of(data, value)
        elif number == 2 and isinstance(value, tuple):
            for kind, inner in fields(data, *value):
                if kind == 1 and isinstance(inner, tuple):
                    dtype, dims = _tensor_type(data, inner)
                elif kind in (4, 5, 8, 9):
                    dtype = {4: "SEQUENCE", 5: "MAP", 8: "SPARSE", 9: "OPTIONAL"}[kind]
    return OnnxTensor(name, dtype, dims)


def _tensor_type(data: mmap.mmap, span: Span) -> tuple[str, tuple[int | str, ...] | None]:
    dtype, dims = "UNDEFINED", None
    for number, value in fields(data, *span):
        if number == 1 and isinstance(value, int):
            dtype = _dtype(value)
        elif number == 2 and isinstance(value, tuple):
            dims = tuple(_dimension(data, dim) for _, dim in fields(data, *value) if isinstance(dim, tuple))
    return dtype, dims


def _dimension(data: mmap.mmap, span: Span) -> int | str:
    for number, value in fields(data, *span):
        if number == 1 and isinstance(value, int):
            return value
        if number == 2 and isinstance(value, tuple):
            return text_of(data, value) or "?"
    return "?"


def _entry(data: mmap.mmap, span: Span) -> tuple[str, str]:
    parts = {1: "", 2: ""}
    for number, value in fields(data, *span):
        if number in parts and isinstance(value, tuple):
            parts[number] = text_of(data, value)
    return parts[1], parts[2]


def _dtype(number: int) -> str:
    return DTYPES[number] if number < len(DTYPES) else f"TYPE_{number}"


def _is_whole(path: Path, need: int) -> bool:
    return path.is_file() and path.stat().st_size >= need
