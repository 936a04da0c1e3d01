"""Read config.pbtxt: protobuf's text format for Triton's model configuration, with the place of every value.

The schema is data (``model_config.json``), so neither protobuf nor a Triton client is needed, and a mistake is named with
line, column and the nearest right word. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from llmops.errors import did_you_mean

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>-?(?:0[xX][0-9a-fA-F]+|\d+\.?\d*(?:[eE][-+]?\d+)?[fF]?|\.\d+(?:[eE][-+]?\d+)?[fF]?|inf(?:inity)?|nan))(?![\w.])
      | (?P<word>[A-Za-z_][\w.]*)
      | (?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_LIMITS: Final = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}
_MAX_DEPTH: Final = 50


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that the server's own parser refuses."""

    line: int
    column: int
    message: str
    hint: str | None = None


class PbtxtError(Exception):
    """The text is no model configuration; ``mistake`` says where and why."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(mistake.message)
        self.mistake = mistake


@dataclass(slots=True)
class Message:
    """A parsed message: its fields, each with its place. A field that is not set has its type's default."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    line: int = 1
    column: int = 1

    def get(self, name: str) -> Any:
        """The value, or the default of the field's type; an empty message where one is not set."""
        if name in self.values:
            return self.values[name]
        kind, repeated, _ = field_type(self.kind, name)
        if repeated:
            return []
        if kind in schema()["messages"]:
            return Message(kind)
        if kind in schema()["enums"]:
            return schema()["enums"][kind][0]
        return {"string": "", "bool": False, "float": 0.0}.get(kind, 0)

    def has(self, name: str) -> bool:
        """Whether the text sets it."""
        return name in self.values

    def line_of(self, name: str) -> int:
        """Where the field stands, or the message itself."""
        return self.lines.get(name, self.line)

    def column_of(self, name: str) -> int:
        """The column there."""
        return self.columns.get(name, self.column)

    def map(self, name: str) -> dict[str, Any]:
        """A repeated key-value field as a dict."""
        return {entry.get("key"): entry.get("value") for entry in self.get(name)}


@cache
def schema() -> dict[str, Any]:
    """Messages and enumerations by name."""
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name("model_config.json").read_text(encoding="utf-8"))
    return loaded


def field_type(message: str, name: str) -> tuple[str, bool, str]:
    """Type, whether it is repeated, and the one-of group (or nothing) of a field."""
    text = schema()["messages"][message][name]
    text, _, group = text.partition("|")
    return text.removesuffix("*"), text.endswith("*"), group


def parse(text: str) -> Message:
    """Parse a model configuration.

    Raises:
        PbtxtError: With the place of the first mistake.
    """
    return _Parser(text).message("ModelConfig", None, 0)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int
    column: int


def _tokens(text: str) -> Iterator[_Token]:
    at, line, start = 0, 1, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            said = "a string that does not end" if text[at] in "\"'" else f"unexpected {text[at]!r}"
            raise PbtxtError(Mistake(line, at - start + 1, said))
        kind = str(match.lastgroup)
        if kind != "space":
            yield _Token(kind, match.group(), line, at - start + 1)
        newlines = match.group().count("\n")
        if newlines:
            line += newlines
            start = at + match.group().rfind("\n") + 1
        at = match.end()
    yield _Token("end", "the end of the file", line, at - start + 1)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def message(self, kind: str, closer: str | None, depth: int) -> Message:
        """Fields up to ``closer``, or to the end of the text."""
        if depth > _MAX_DEPTH:
            self._fail("nested too deeply")
        found = Message(kind, line=self._now.line, column=self._now.column)
        groups: dict[str, str] = {}
        while True:
            token = self._now
            if (closer is None and token.kind == "end") or token.text == closer:
                self._at += closer is not None
                return found
            if token.kind != "word":
                self._fail(f"a field name or {closer or 'the end'!r} is expected, not {token.text!r}")
            self._field(found, groups, depth)

    @property
    def _now(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._now
        self._at += 1
        return token

    def _field(self, into: Message, groups: dict[str, str], depth: int) -> None:
        token = self._take()
        known = schema()["messages"][into.kind]
        if token.text not in known:
            self._at -= 1
            self._fail(f"{into.kind} has no field {token.text!r}", did_you_mean(token.text, known))
        kind, repeated, group = field_type(into.kind, token.text)
        if group and groups.setdefault(group, token.text) != token.text:
            self._fail(f"{token.text} and {groups[group]} exclude each other", token=token)
        if not repeated and token.text in into.values:
            self._fail(f"{token.text} stands twice", token=token)
        is_message = kind in schema()["messages"]
        if self._now.text == ":":
            self._at += 1
        elif not is_message:
            self._fail(f"':' is expected after {token.text}")
        values = (
            self._list(kind, is_message, depth) if self._now.text == "[" else [self._value(kind, is_message, depth)]
        )
        if not repeated and len(values) != 1:
            self._fail(f"{token.text} takes one value, not a list", token=token)
        into.lines.setdefault(token.text, token.line)
        into.columns.setdefault(token.text, token.column)
        if repeated:
            into.values.setdefault(token.text, []).extend(values)
        else:
            into.values[token.text] = values[0]
        if self._now.text in (",", ";"):
            self._at += 1

    def _list(self, kind: str, is_message: bool, depth: int) -> list[Any]:
        self._at += 1
        values: list[Any] = []
        while self._now.text != "]":
            values.append(self._value(kind, is_message, depth))
            if self._now.text == ",":
                self._at += 1
            elif self._now.text != "]":
                self._fail(f"',' or ']' is expected, not {self._now.text!r}")
        self._at += 1
        return values

    def _value(self, kind: str, is_message: bool, depth: int) -> Any:
        token = self._take()
        if is_message:
            if token.text not in ("{", "<"):
                self._fail(f"'{{' is expected, not {token.text!r}", token=token)
            return self.message(kind, "}" if token.text == "{" else ">", depth + 1)
        if kind in schema()["enums"]:
            return self._enum(kind, token)
        read = {"string": self._string, "bool": self._bool, "float": self._float}.get(kind, self._integer)
        return read(kind, token)

    def _enum(self, kind: str, token: _Token) -> str:
        names = schema()["enums"][kind]
        if token.kind == "number" and token.text.isdigit() and int(token.text) < len(names):
            return str(names[int(token.text)])
        if token.text not in names:
            self._fail(f"{kind} has no value {token.text}", did_you_mean(token.text, names), token)
        return token.text

    def _string(self, _kind: str, token: _Token) -> str:
        if token.kind != "string":
            self._fail(f"a text in quotes is expected, not {token.text!r}", token=token)
        parts = [_unquote(token.text)]
        while self._now.kind == "string":  # adjacent strings are one
            parts.append(_unquote(self._take().text))
        return "".join(parts)

    def _bool(self, _kind: str, token: _Token) -> bool:
        if token.text in ("true", "True", "t", "1"):
            return True
        if token.text in ("false", "False", "f", "0"):
            return False
        self._fail(f"true or false is expected, not {token.text!r}", token=token)
        raise AssertionError

    def _float(self, _kind: str, token: _Token) -> float:
        if token.kind != "number":
            self._fail(f"a number is expected, not {token.text!r}", token=token)
        return float(token.text.rstrip("fF") if "x" not in token.text else int(token.text, 16))

    def _integer(self, kind: str, token: _Token) -> int:
        try:
            value = int(token.text, 0 if "x" in token.text.lower() else 10)
        except ValueError:
            self._fail(f"a whole number is expected, not {token.text!r}", token=token)
            raise AssertionError from None
        low, high = _LIMITS[kind]
        if not low <= value <= high:
            self._fail(f"{value} does not fit into {kind}", token=token)
        return value

    def _fail(self, message: str, hint: str | None = None, token: _Token | None = None) -> None:
        token = token or self._now
        raise PbtxtError(Mistake(token.line, token.column, message, hint))


def _unquote(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "01234567":
            return chr(int(code, 8))
        if code[0] in "xX":
            return chr(int(code[1:], 16))
        return _ESCAPES.get(code, code)

    return re.sub(r"\\([0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|.)", replace, text[1:-1])
