"""The graph as a model of its own, where the server has no backend for it: ONNX Runtime inside the Python backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from llm_model import Settings


class TritonPythonModel:
    """The graph's inputs to its outputs; requests of different lengths are padded and run together."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the graph."""
        settings = Settings(args)
        self._graph = settings.graph()
        self._left = settings.text("padding", "right") == "left"
        self._outputs = [each["name"] for each in settings.config["output"]]
        self._inputs = [each["name"] for each in settings.config["input"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One run for all requests."""
        arrays = [{name: pb.get_input_tensor_by_name(r, name).as_numpy() for name in self._inputs} for r in requests]
        width = max(each["input_ids"].shape[1] for each in arrays)
        feed = {name: np.concatenate([self._padded(each[name], width) for each in arrays]) for name in self._inputs}
        feed.setdefault("token_type_ids", np.zeros_like(feed["input_ids"]))
        done = self._graph.run(feed)
        answers, at = [], 0
        for each in arrays:
            rows, tokens = each["input_ids"].shape
            parts = [self._part(done[name][at : at + rows], width, tokens) for name in self._outputs]
            tensors = [pb.Tensor(n, np.ascontiguousarray(p)) for n, p in zip(self._outputs, parts, strict=True)]
            answers.append(pb.InferenceResponse(tensors))
            at += rows
        return answers

    def _padded(self, array: Any, width: int) -> Any:
        more = width - array.shape[1]
        return np.pad(array, ((0, 0), (more, 0) if self._left else (0, more)))

    def _part(self, array: Any, width: int, tokens: int) -> Any:
        """Of outputs with a token axis, the request's own tokens."""
        if array.ndim < 3 or array.shape[1] != width:
            return array
        return array[:, width - tokens :] if self._left else array[:, :tokens]
