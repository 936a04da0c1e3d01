"""Step 1 of an ensemble: texts to token ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from llm_model import Settings, invalid, texts_of


class TritonPythonModel:
    """``text`` to ``input_ids`` and ``attention_mask``."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the tokenizer."""
        settings = Settings(args)
        self._tokenizer = settings.tokenizer()
        self._left = settings.text("padding", "left") == "left"
        self._limit = settings.number("max_tokens_in", 2048)
        self._bucket = settings.number("pad_to", 1)
        self._cut = settings.text("truncate") == "true"
        self._input = settings.config["input"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        rows = [self._tokenizer.encode(text).ids for text in texts_of(request, self._input)]
        if self._cut:
            rows = [row[: self._limit - 1] + row[-1:] if len(row) > self._limit else row for row in rows]
        if any(not row for row in rows):
            return invalid("the text must not be empty")
        longest = max(map(len, rows))
        if longest > self._limit:
            return invalid(f"the text has {longest} tokens; this model takes at most {self._limit}")
        width = min(self._limit, -(-longest // self._bucket) * self._bucket)
        ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
        for at, row in enumerate(rows):
            part = slice(width - len(row), width) if self._left else slice(0, len(row))
            ids[at, part], mask[at, part] = row, 1
        return pb.InferenceResponse([pb.Tensor("input_ids", ids), pb.Tensor("attention_mask", mask)])
