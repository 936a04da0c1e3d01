"""Sentences to unit vectors: an interface, and MiniLM through ONNX Runtime from a path."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from llmops.errors import UsageError
from llmops.extras import require

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]

MAX_TOKENS: Final = 256


class Embedder(Protocol):
    """Called in a thread of the cache, never on the event loop."""

    def embed(self, text: str) -> Vector: ...


class OnnxMiniLm:
    """all-MiniLM-L6-v2, float or int8: mean of the last hidden states (here their sum, made one long).

    Raises:
        UsageError: The directory lacks ``model.onnx`` or ``tokenizer.json``.
        MachineError: onnxruntime or tokenizers is not installed.
    """

    def __init__(self, directory: Path) -> None:
        for name in ("model.onnx", "tokenizer.json"):
            if not (directory / name).is_file():
                raise UsageError(
                    f"{directory} has no {name}", "semantic_cache.model names a directory with an exported MiniLM"
                )
        ort: Any = require("onnxruntime", "the semantic cache")
        tokenizers: Any = require("tokenizers", "the semantic cache")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._inputs = {each.name for each in self._session.get_inputs()}
        self._lock = threading.Lock()

    def embed(self, text: str) -> Vector:
        """A float32 vector of length one."""
        import numpy as np

        with self._lock:
            encoded = self._tokenizer.encode(text)
        fed = {
            "input_ids": np.array([encoded.ids], dtype=np.int64),
            "attention_mask": np.array([encoded.attention_mask], dtype=np.int64),
            "token_type_ids": np.array([encoded.type_ids], dtype=np.int64),
        }
        hidden = self._session.run(None, {name: value for name, value in fed.items() if name in self._inputs})[0][0]
        vector: Vector = hidden.sum(axis=0) if hidden.ndim == 2 else hidden
        return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
