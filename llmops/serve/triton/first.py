"""One real request to each model that clients call: a server whose models are READY has loaded them, and computed nothing yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmops.serve.ready import request

# What a client may call, in words for people; the words also say how to ask.
STREAM: Final = "text to text, a token at a time: /generate and /generate_stream"
VLLM: Final = "text to text, streaming (vLLM backend)"
ENSEMBLE: Final = "text to text in one answer, batched: /infer and /generate"
EMBEDDING: Final = "text to embedding: /infer"
LABEL: Final = "text to label: /infer"
PROMPT: Final = "Hello"
TOKENS: Final = 4


def body_of(use: str) -> tuple[str, dict[str, Any]] | None:
    """The call and its body for a model of this kind; None for models of others, whose inputs are not known."""
    if use in (STREAM, VLLM):
        return "generate", {"text_input": PROMPT, "max_tokens": TOKENS}
    if use == ENSEMBLE:
        return "generate", {"text": PROMPT, "max_tokens": TOKENS}
    if use in (EMBEDDING, LABEL):
        row = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": [PROMPT]}
        return "infer", {"inputs": [row]}
    return None


def command(url: str, model: str, use: str) -> str | None:
    """The same as a line to copy."""
    asked = body_of(use)
    return asked and f"curl {url}/v2/models/{model}/{asked[0]} -d '{json.dumps(asked[1])}'"


def answers(url: str, models: Mapping[str, str], timeout_s: float) -> tuple[dict[str, str], dict[str, str]]:
    """Ask every model once.

    Returns:
        What each answered, in short, and for each that failed the reason.
    """
    said: dict[str, str] = {}
    failed: dict[str, str] = {}
    for model, use in models.items():
        asked = body_of(use)
        if asked is None:
            continue
        status, body = request(url, "POST", f"/v2/models/{model}/{asked[0]}", asked[1], key=None, timeout_s=timeout_s)
        if status == 200:
            said[model] = _SHORT[use](body)
        else:
            silence = f"no answer within {timeout_s:.0f} s" if status == 0 else f"status {status}"
            failed[model] = str(body.get("error") or silence)
    return said, failed


def _output(body: Mapping[str, Any], name: str) -> list[Any]:
    outputs = body.get("outputs") or []
    return list(next((each.get("data") or [] for each in outputs if each.get("name") == name), []))


def _label(body: Mapping[str, Any]) -> str:
    label, score = _output(body, "label"), _output(body, "score")
    return f"{label[0]} ({score[0]:.2f})" if label and score else "nothing"


_SHORT: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    STREAM: lambda body: repr(body.get("text_output", "")),
    VLLM: lambda body: repr(body.get("text_output", "")),
    ENSEMBLE: lambda body: repr(body.get("output", "")),
    EMBEDDING: lambda body: f"{len(_output(body, 'embedding'))} numbers",
    LABEL: _label,
}
