"""What a user asks of an export. Values are checked against the model and the machine in ``plan``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from llmops.errors import UsageError

Task = Literal["causal-lm", "causal-lm-cache", "embedding", "classification"]
Pooling = Literal["mean", "cls", "last"]
DTYPE_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
# Least share of positions whose most likely token is the same. Two near-equal logits may swap in 16 bit.
MIN_AGREEMENT: Final = {"float32": 0.99, "float16": 0.97, "bfloat16": 0.95, "int4": 0.7}
_RANGE: Final = re.compile(r"^(\d+):(\d+)$")


def parse_range(text: str, option: str) -> tuple[int, int]:
    """``1:16`` -> (1, 16).

    Raises:
        UsageError: It is no range, or its ends are in the wrong order.
    """
    match = _RANGE.match(text.strip())
    if match is None:
        raise UsageError(f"{option} {text}: not a range", "write it as MIN:MAX, such as 1:16")
    low, high = int(match[1]), int(match[2])
    if not 1 <= low <= high:
        raise UsageError(f"{option} {text}: a range needs 1 <= MIN <= MAX", "write it as MIN:MAX, such as 1:16")
    return low, high


class OnnxSpec(BaseModel):
    """One export.

    Attributes:
        model: A Hugging Face directory.
        out: The directory to make.
        task: ``auto`` follows the model's class; ``causal-lm-cache`` adds the KV cache as inputs and outputs.
        dtype: Type of the weights and activations of the graph.
        batch: ``MIN:MAX`` rows that the model will be served with.
        seq: ``MIN:MAX`` tokens of a row; the maximum is cut to the model's own limit.
        opset: Version of the standard operators; None takes the exporter's own.
        format: ``onnx`` with our exporter, or ``genai`` with the builder of onnxruntime-genai.
        exporter: ``dynamo`` traces with torch.export; ``torchscript`` is the older one, for models that it cannot trace.
        pooling: For ``embedding``; ``auto`` follows the model's own sentence-transformers files, else mean (encoders) or last.
        normalize: Scale embeddings to length 1; None follows the model's own files.
        precision: For ``genai``: int4, fp16 or fp32; None follows ``dtype``.
        check: Run the parity check.
        min_agreement: Least share of equal most likely tokens (or least cosine); None takes the default for ``dtype``.
        provider: ONNX Runtime's execution provider for the check, without ``ExecutionProvider``.
        threads: CPU threads of export and check; None takes the cores that this process may use.
        force: Replace an existing ``out``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    out: Path
    task: Literal["auto", "causal-lm", "causal-lm-cache", "embedding", "classification"] = "auto"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    batch: str = "1:16"
    seq: str = "1:2048"
    opset: int | None = None
    format: Literal["onnx", "genai"] = "onnx"
    exporter: Literal["dynamo", "torchscript"] = "dynamo"
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    normalize: bool | None = None
    precision: Literal["int4", "fp16", "fp32"] | None = None
    check: bool = True
    min_agreement: float | None = None
    provider: str = "CPU"
    threads: int | None = None
    force: bool = False
