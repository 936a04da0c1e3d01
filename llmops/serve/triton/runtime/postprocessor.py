"""Step 3 of a text ensemble: new token ids to text, ending before a stop text."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb
from llm_model import Settings, invalid, parameters_of, strings
from llm_sampling import BadRequestError, params_from


class TritonPythonModel:
    """``output_ids`` to ``output``."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the tokenizer."""
        settings = Settings(args)
        self._tokenizer = settings.tokenizer()
        self._defaults = settings.json("defaults", {})

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            stops = params_from(parameters_of(request), self._defaults).stop
        except BadRequestError as error:
            return invalid(str(error))
        rows = pb.get_input_tensor_by_name(request, "output_ids").as_numpy()
        texts = []
        for row in rows:
            text = self._tokenizer.decode(row[row >= 0].tolist(), skip_special_tokens=True)
            cuts = [at for at in (text.find(stop) for stop in stops) if at >= 0]
            texts.append(text[: min(cuts)] if cuts else text)
        return pb.InferenceResponse([pb.Tensor("output", strings(texts))])
