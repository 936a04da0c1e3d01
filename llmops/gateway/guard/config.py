"""The ``guard:`` part of ``gateway.yaml``, for all routes or one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SecretAction = Literal["off", "log", "redact", "block"]
InjectionAction = Literal["off", "log", "header", "block"]


class GuardConfig(BaseModel):
    """What is looked for and what happens then.

    ``injection`` judges untrusted text only (tool results, documents, marked parts); ``classifier`` is a directory with
    ``model.onnx`` and ``tokenizer.json`` whose score is taken where it is higher than the rules'.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    secrets_in: SecretAction = "log"
    secrets_out: SecretAction = "off"
    injection: InjectionAction = "log"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    classifier: Path | None = None
    max_messages: Annotated[int, Field(ge=1)] = 10_000
    max_prompt_mib: Annotated[float, Field(gt=0)] = 32.0
