"""Flags that would let a failed server start, as a pure function of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from llmops.diagnosis.report import Cause, Diagnosis

SURE_ENOUGH: Final = 0.8
Direction = Literal["down", "up"]
_DOWN: Final[Mapping[str, Direction]] = {
    "gpu-memory-utilization": "down",
    "mem-fraction-static": "down",
    "max-num-seqs": "down",
    "max-num-batched-tokens": "down",
    "cuda-graph-max-bs": "down",
}
_UP: Final[Mapping[str, Direction]] = {
    "gpu-memory-utilization": "up",
    "mem-fraction-static": "up",
    "max-num-seqs": "down",
    "max-num-batched-tokens": "down",
}
# In which direction a flag helps against a cause: "less memory" is a remedy only where the flag asks for less than now.
_DIRECTIONS: Final[Mapping[str, Mapping[str, Direction]]] = {
    "gpu-memory-occupied": _DOWN,
    "gpu-oom-warmup": _DOWN,
    "gpu-oom-cudagraph": _DOWN,
    "gpu-oom-runtime": _DOWN,
    "kv-cache-no-memory": _UP,
    "kv-cache-too-small": _UP,
    "lora-rank-too-high": {"max-lora-rank": "up"},
}
# What an engine takes when the flag is not given.
_DEFAULTS: Final[Mapping[str, str]] = {"gpu-memory-utilization": "0.9", "max-lora-rank": "16"}


def remedies(diagnosis: Diagnosis, flags: Mapping[str, str]) -> Mapping[str, str]:
    """New or changed server flags that answer the first cause.

    Args:
        diagnosis: Of the log of the server that died.
        flags: Its flags, long names with or without leading dashes, values as text.

    Returns:
        Only what changes, in the spelling of ``flags`` (dashed where ``flags`` is empty); empty when no flag can help, or
        the cause is not sure enough. The first fix that changes something in the direction that helps is taken.
    """
    cause = diagnosis.top
    if cause is None or cause.confidence < SURE_ENOUGH:
        return MappingProxyType({})
    dash = "" if flags and not any(name.startswith("--") for name in flags) else "--"
    now = {name.removeprefix("--"): value for name, value in flags.items()}
    for proposed in _proposals(cause):
        better = {dash + name: value for name, value in proposed.items() if _helps(cause.cause, name, value, now)}
        if better:
            return MappingProxyType(better)
    return MappingProxyType({})


def _proposals(cause: Cause) -> list[dict[str, str]]:
    """Of each fix whose command is nothing but flags with plain values: those flags, without dashes."""
    found = []
    for fix in cause.fixes:
        words = (fix.command or "").split()
        pairs = list(zip(words[::2], words[1::2], strict=False))
        if words and 2 * len(pairs) == len(words) and all(n.startswith("--") and v[0].isalnum() for n, v in pairs):
            found.append({name.removeprefix("--"): value for name, value in pairs if not value.isupper()})
    return [proposal for proposal in found if proposal]


def _helps(cause: str, name: str, value: str, now: Mapping[str, str]) -> bool:
    current = now.get(name, _DEFAULTS.get(name))
    if current is None:
        return True
    if current == value:
        return False
    direction = _DIRECTIONS.get(cause, {}).get(name)
    if direction is None:
        return True
    try:
        return float(value) < float(current) if direction == "down" else float(value) > float(current)
    except ValueError:
        return True
