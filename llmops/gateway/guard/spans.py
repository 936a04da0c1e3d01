"""Which parts of a request came from outside: tool results, documents, and what the caller marked as untrusted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

_MARKED: Final = re.compile(
    r"<(document|untrusted|search_result|web_page)\b[^>]{0,200}>(.{0,100000}?)</\1>", re.DOTALL | re.IGNORECASE
)
_UNTRUSTED_BLOCKS: Final = (
    "tool_result",
    "document",
    "search_result",
    "function_call_output",
    "web_search_tool_result",
)
_decode: Final = msgspec.json.Decoder().decode


def untrusted_spans(body: bytes) -> list[str]:
    """The untrusted texts of a chat request in the dialects of OpenAI (both) and Anthropic."""
    try:
        request = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        return []
    if not isinstance(request, dict):
        return []
    spans: list[str] = []
    for name in ("messages", "input"):
        turns = request.get(name)
        if isinstance(turns, list):
            for turn in turns:
                spans += _of_turn(turn)
        elif isinstance(turns, str):
            spans += _marked(turns)
    return spans


def _of_turn(turn: Any) -> Iterator[str]:
    if not isinstance(turn, dict):
        return
    if turn.get("role") in ("tool", "function") or turn.get("type") in _UNTRUSTED_BLOCKS:
        yield from _texts(turn)
        return
    content = turn.get("content")
    if isinstance(content, str):
        yield from _marked(content)
    elif isinstance(content, list):
        for block in content:
            if not isinstance(block, dict):
                continue
            if block.get("type") in _UNTRUSTED_BLOCKS:
                yield from _texts(block)
            elif isinstance(block.get("text"), str):
                yield from _marked(block["text"])


def _marked(text: str) -> Iterator[str]:
    if "<" in text:
        for match in _MARKED.finditer(text):
            yield match[2]


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """Every text below an untrusted block, but not its ids and media."""
    if isinstance(value, str):
        yield value
    elif depth < 12 and isinstance(value, list):
        for each in value:
            yield from _texts(each, depth + 1)
    elif depth < 12 and isinstance(value, dict):
        for name, each in value.items():
            if name not in (
                "role",
                "type",
                "id",
                "tool_use_id",
                "tool_call_id",
                "call_id",
                "media_type",
                "data",
                "name",
            ):
                yield from _texts(each, depth + 1)
        if value.get("type") == "text" and isinstance(value.get("data"), str):  # a plain-text document of Anthropic
            yield value["data"]
