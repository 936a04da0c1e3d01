"""Step 3 of a classifier's ensemble: logits to the best label, its score, and all scores."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from llm_model import Settings, strings


class TritonPythonModel:
    """``logits`` to ``label``, ``score`` and ``scores``."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Read the names of the classes."""
        config = json.loads((Settings(args).assets / "config.json").read_text(encoding="utf-8"))
        self._names = {int(number): name for number, name in (config.get("id2label") or {}).items()}

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        logits = pb.get_input_tensor_by_name(request, "logits").as_numpy().astype(np.float32)
        if logits.shape[1] == 1:  # one output is a score of its own, as rerankers have
            scores = 1 / (1 + np.exp(-logits))
        else:
            raised = np.exp(logits - logits.max(-1, keepdims=True))
            scores = raised / raised.sum(-1, keepdims=True)
        best = scores.argmax(-1)
        names = [self._names.get(int(index), f"LABEL_{index}") for index in best]
        return pb.InferenceResponse(
            [
                pb.Tensor("label", strings(names)),
                pb.Tensor("score", scores[np.arange(len(best)), best][:, None].astype(np.float32)),
                pb.Tensor("scores", scores.astype(np.float32)),
            ]
        )
