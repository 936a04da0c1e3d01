"""Step 2 of a text ensemble: token ids to new token ids, for all requests of a batch together."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from llm_decoder import Decoder
from llm_model import Settings, Sometimes, invalid, parameters_of
from llm_sampling import BadRequestError, Row, params_from

NONE = -1


class TritonPythonModel:
    """``input_ids`` and ``attention_mask`` to ``output_ids``, with -1 behind the end of a shorter row."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the graph."""
        self._settings = Settings(args)
        self._tokenizer = self._settings.tokenizer()
        self._graph = self._settings.graph()
        self._eos = frozenset(self._settings.json("eos_token_ids", []))
        self._limit = self._settings.number("max_total_tokens", 2048)
        self._defaults = self._settings.json("defaults", {})

    def execute(self, requests: list[Any]) -> list[Any]:
        """The batch that Triton made is decoded as one."""
        decoder = Decoder(self._graph, self._settings.number("head_dim", 0))
        answers: list[Any] = [None] * len(requests)
        rows: dict[int, list[Row]] = {}
        for at, request in enumerate(requests):
            try:
                rows[at] = self._rows(request)
            except BadRequestError as error:
                answers[at] = invalid(str(error))
        for each in (row for group in rows.values() for row in group):
            decoder.add(each)
        look = Sometimes()
        while decoder.busy:
            decoder.step()
            if look():
                for at, group in rows.items():
                    if requests[at].is_cancelled():
                        decoder.drop(group)
        for at, group in rows.items():
            width = max(1, *(len(row.tokens) for row in group))
            ids = np.full((len(group), width), NONE, np.int64)
            for line, row in enumerate(group):
                ids[line, : len(row.tokens)] = row.tokens
            answers[at] = pb.InferenceResponse([pb.Tensor("output_ids", ids)])
        return answers

    def _rows(self, request: Any) -> list[Row]:
        ids = pb.get_input_tensor_by_name(request, "input_ids").as_numpy()
        mask = pb.get_input_tensor_by_name(request, "attention_mask").as_numpy()
        return [
            Row(
                line[seen > 0].tolist(),
                params_from(parameters_of(request), self._defaults),
                self._tokenizer,
                self._eos,
                self._limit,
                live=False,
            )
            for line, seen in zip(ids, mask, strict=True)
        ]
