"""An optional classifier of injected instructions: a local ONNX model, by path. Slow; call it off the event loop."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any, Final

from llmops.errors import UsageError
from llmops.extras import require

_MAX_TOKENS: Final = 512


class Classifier:
    """A sequence classifier with ``model.onnx`` and ``tokenizer.json`` in one directory.

    The last class, or the one named like an attack in ``config.json``, is the score.
    """

    def __init__(self, directory: Path) -> None:
        for name in ("model.onnx", "tokenizer.json"):
            if not (directory / name).is_file():
                raise UsageError(f"the classifier directory {directory} has no {name}", "export one with onnx")
        ort: Any = require("onnxruntime", "an injection classifier")
        tokenizers: Any = require("tokenizers", "an injection classifier")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._inputs = {each.name for each in self._session.get_inputs()}
        self._attack = _attack_class(directory)
        self._lock = threading.Lock()

    def score(self, text: str) -> float:
        """How likely ``text`` gives orders to the model, 0 to 1."""
        import numpy as np

        with self._lock:
            encoded = self._tokenizer.encode(text)
        fed = {
            "input_ids": np.array([encoded.ids], dtype=np.int64),
            "attention_mask": np.array([encoded.attention_mask], dtype=np.int64),
            "token_type_ids": np.array([encoded.type_ids], dtype=np.int64),
        }
        logits = self._session.run(None, {name: value for name, value in fed.items() if name in self._inputs})[0][0]
        if len(logits) == 1:
            return 1 / (1 + math.exp(-float(logits[0])))
        raised = np.exp(logits - logits.max())
        return float(raised[self._attack] / raised.sum())


def _attack_class(directory: Path) -> int:
    import json

    try:
        labels = json.loads((directory / "config.json").read_text(encoding="utf-8"))["id2label"]
    except (OSError, ValueError, KeyError):
        return -1
    words = ("inject", "jailbreak", "malicious", "attack", "unsafe", "label_1")
    return next((int(n) for n, label in labels.items() if any(word in str(label).lower() for word in words)), -1)
