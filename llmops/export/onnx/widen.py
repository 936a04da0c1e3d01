"""A float32 copy of a bfloat16 graph: exact for the weights, so a comparison on the CPU measures what their rounding costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def widen(path: Path, scratch: Path) -> Path:
    """Write the copy into ``scratch`` and return its path."""
    import numpy as np
    import onnx

    wide, narrow = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16
    model = onnx.load(str(path))
    for tensor in _tensors(model.graph):
        if tensor.data_type == narrow:
            bits = (
                np.frombuffer(tensor.raw_data, np.uint16) if tensor.raw_data else np.array(tensor.int32_data, np.uint16)
            )
            tensor.ClearField("int32_data")
            tensor.raw_data = (bits.astype(np.uint32) << 16).tobytes()
            tensor.data_type = wide
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == narrow:
            value.type.tensor_type.elem_type = wide
    for attribute in _attributes(model.graph):
        if attribute.name in ("to", "dtype", "stash_type") and attribute.i == narrow:
            attribute.i = wide
    target = scratch / "widened.onnx"
    onnx.save_model(model, str(target), save_as_external_data=True, location="widened.onnx.data")
    return target


def _attributes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute
            for inner in (attribute.g, *attribute.graphs):
                yield from _attributes(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for attribute in _attributes(graph):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for inner in (attribute.g, *attribute.graphs):
            yield from inner.initializer
