"""The ``semantic_cache:`` part of a route in ``gateway.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class SemanticCacheConfig(BaseModel):
    """``model`` is a directory with ``model.onnx`` and ``tokenizer.json`` of a MiniLM.

    ``shadow`` looks up but always asks the model, and counts how often the kept answer would have been wrong; ``serve``
    answers, and still checks ``check_share`` of its hits in that way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["off", "shadow", "serve"] = "off"
    model: Path | None = None
    threshold: Annotated[float, Field(ge=0.5, le=1)] = 0.95
    ttl_s: Annotated[float, Field(gt=0)] = 3600.0
    max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_answer_kib: Annotated[float, Field(gt=0)] = 256.0
    max_turns: Annotated[int, Field(ge=1)] = 8
    max_chars: Annotated[int, Field(ge=1)] = 2000
    max_temperature: Annotated[float, Field(ge=0)] = 0.3
    check_share: Annotated[float, Field(ge=0, le=1)] = 0.02
