"""Weights that an engine quantises while it loads a plain model: which engine can, and under which name. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import UsageError, did_you_mean
from llmops.serve.spec import Engine

# What a user types, and each engine's own word for it.
_VLLM: Final = {"fp8": "fp8", "bnb-nf4": "bitsandbytes"}
WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "transformers": {"bnb-nf4": "bnb-nf4", "bnb-int8": "bnb-int8"},
    "vllm": _VLLM,
    "ray": _VLLM,
}
_SAME: Final = {"bitsandbytes": "bnb-nf4"}
_KNOWN: Final = ("bnb-nf4", "bnb-int8", "fp8")


def online(wanted: str | None, facts: ModelFacts, engine: Engine, *, gpus: int) -> str | None:
    """The engine's word for ``--quantization``; None when nothing was asked for.

    Raises:
        UsageError: No such method, the model is quantised already, or this engine cannot do it here.
    """
    if wanted in (None, "none"):
        return None
    name = _SAME.get(wanted, wanted)
    if name not in _KNOWN:
        raise UsageError(f"--quantization {wanted}: there is no such method", did_you_mean(wanted, _KNOWN))
    if facts.quantization is not None:
        raise UsageError(
            f"--quantization {wanted}: {facts.name} is quantised already ({facts.quantization.method})", "leave it out"
        )
    if engine in ("vllm", "ray") and not gpus:
        raise UsageError(
            f"--quantization {wanted}: vLLM quantises while it loads on GPUs only",
            "--engine transformers, or quantise first: llmops quantize",
        )
    word = WORDS.get(engine, {}).get(name)
    if word is None:
        can = ", ".join(WORDS.get(engine, ())) or "nothing"
        raise UsageError(
            f"--quantization {wanted}: the engine {engine} quantises {can} while it loads",
            "choose another, or quantise first: llmops quantize",
        )
    return word
