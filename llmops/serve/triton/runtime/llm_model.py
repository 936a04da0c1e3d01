"""What the models of a repository share: their parameters, their files, reading a request."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from llm_decoder import OrtGraph, TritonGraph
from tokenizers import Tokenizer


class Settings:
    """Parameters of config.pbtxt, and the directory of shared files."""

    def __init__(self, args: dict[str, Any]) -> None:
        config = json.loads(args["model_config"])
        self._values = {name: each["string_value"] for name, each in config.get("parameters", {}).items()}
        self.config = config
        # `model_repository` is the directory of this model; the shared files are beside it, in another model's.
        self.assets = Path(args["model_repository"]).parent / self._values["assets"]

    def text(self, name: str, default: str = "") -> str:
        """A parameter."""
        return str(self._values.get(name, default))

    def number(self, name: str, default: int) -> int:
        """A parameter that is a whole number."""
        return int(self._values.get(name) or default)

    def json(self, name: str, default: Any) -> Any:
        """A parameter that is JSON."""
        return json.loads(self._values[name]) if self._values.get(name) else default

    def tokenizer(self) -> Any:
        """The model's tokenizer, without the padding and truncation that its file may ask for."""
        tokenizer = Tokenizer.from_file(str(self.assets / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def graph(self) -> Any:
        """The graph, in this process or in another model of the server."""
        other = self.text("engine_model")
        if other:
            return TritonGraph(other, self.json("engine_inputs", []))
        threads = int(os.environ.get("LLMOPS_TRITON_THREADS") or self.number("threads", 1))
        return OrtGraph(str(self.assets / "model.onnx"), threads, self.text("provider", "CPU"))


class Sometimes:
    """True at most once in ``every_s`` seconds: asking the server whether a request was given up takes as long as a small step."""

    def __init__(self, every_s: float = 0.05) -> None:
        self._every_s, self._next = every_s, time.monotonic() + every_s

    def __call__(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every_s
        return True


def texts_of(request: Any, name: str) -> list[str]:
    """The texts of a STRING input, one a row."""
    values = pb.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)
    return [each.decode("utf-8") if isinstance(each, bytes) else str(each) for each in values]


def parameters_of(request: Any) -> dict[str, Any]:
    """Request parameters, as a client gave them."""
    return dict(json.loads(request.parameters() or "{}"))


def strings(values: list[str]) -> Any:
    """A STRING tensor of one column."""
    return np.array([[value.encode("utf-8")] for value in values], dtype=object)


def invalid(message: str) -> Any:
    """A response that blames the request."""
    return pb.InferenceResponse(error=pb.TritonError(message, pb.TritonError.INVALID_ARG))
