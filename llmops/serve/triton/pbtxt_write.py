"""Write protobuf's text format from plain data. Pure; ``pbtxt`` reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Word:
    """An enumeration's value, written without quotes."""

    name: str


def write(values: Mapping[str, Any]) -> str:
    """A configuration from plain data: dicts are messages, lists are repeated, :class:`Word` is an enumeration's value."""
    return "".join(_lines(values, ""))


def _lines(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name} {{\n"
            yield from _lines(value, indent + "  ")
            yield f"{indent}}}\n"
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            for each in value:
                yield from _lines({name: each}, indent)
        elif isinstance(value, (list, tuple)):
            yield f"{indent}{name}: [ {', '.join(_scalar(each) for each in value)} ]\n"
        else:
            yield f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return repr(value)
