"""Flags that would let a failed server start, as a pure function of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from llmops.diagnosis.report import Cause, Diagnosis

SURE_ENOUGH: Final = 0.8


def remedies(diagnosis: Diagnosis, flags: Mapping[str, str]) -> Mapping[str, str]:
    """New or changed server flags that answer the first cause.

    Args:
        diagnosis: Of the log of the server that died.
        flags: Its flags, long names with or without leading dashes, values as text.

    Returns:
        Only what changes, in the spelling of ``flags``; empty when no flag can help, or the cause is not sure enough.
    """
    cause = diagnosis.top
    if cause is None or cause.confidence < SURE_ENOUGH:
        return MappingProxyType({})
    dashed = any(name.startswith("--") for name in flags)
    new = {name if dashed else name.removeprefix("--"): value for name, value in _flags(cause).items()}
    return MappingProxyType({name: value for name, value in new.items() if flags.get(name) != value})


def _flags(cause: Cause) -> dict[str, str]:
    """Flags out of the first fix whose command is nothing but flags."""
    for fix in cause.fixes:
        words = (fix.command or "").split()
        if words and all(word.startswith("--") == (i % 2 == 0) for i, word in enumerate(words)):
            return dict(zip(words[::2], words[1::2], strict=False))
    return {}
