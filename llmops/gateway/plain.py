"""A request that came whole and in the plainest form is read in one look; every other one is the parser's.

What is taken here is a strict part of what the parser takes, and means the same: a POST to a hot path, printable ASCII, one
``content-length`` and exactly as many bytes as it says, no header that asks for anything of the connection. A parser's
callback for each header costs more than all of that, above all on a core whose caches are cold.
"""

from __future__ import annotations

from typing import Final

from llmops.gateway.reply import MARKED, RawHeaders
from llmops.gateway.surfaces import HOT, Surface

_MOST_HEAD: Final = 16 * 1024
_MOST_DIGITS: Final = 9
_MOST_NAMES: Final = 512
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
# RFC 9110, 5.6.2
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# They change what the bytes after the head mean, or what becomes of the connection.
_OF_THE_PARSER: Final = frozenset(
    {b"transfer-encoding", b"proxy-connection", b"upgrade", b"expect", b"trailer", b"te", b"keep-alive"}
)
_STARTS: Final = {b"POST " + path + b" HTTP/1.1": surface for path, surface in HOT.items()}
# Names as they were written -> in lower case; b"" for one that is not for this module.
_names: Final[dict[bytes, bytes]] = {}


class Head:
    """A request's head but for the number in its ``content-length``.

    Attributes:
        before: Its bytes up to that number.
        after: Its bytes from there on, the empty line included.
        headers: Names in lower case; without ``content-length``.
        marked: Those of ``headers`` that are in ``MARKED`` once more.
    """

    def __init__(self, surface: Surface, before: bytes, after: bytes, headers: RawHeaders, marked: RawHeaders) -> None:
        self.surface = surface
        self.before = before
        self.after = after
        self.headers = headers
        self.marked = marked


class PlainReader:
    """Reads the plain requests of one connection.

    Attributes:
        head: Of the latest one. The next mostly says the same, since a client sends it.
    """

    def __init__(self) -> None:
        self.head: Head | None = None

    def body(self, data: bytes) -> bytes | None:
        """The body of the request that ``data`` is from its first byte to its last; its head is ``head`` then.

        None where the parser must say what it is.
        """
        head, stop = self.head, -1
        if head is not None and data.startswith(head.before):
            stop = data.find(b"\r", len(head.before))
        if head is None or not data.startswith(head.after, stop):
            head = self.head = _head_of(data)
            if head is None:
                return None
            stop = data.find(b"\r", len(head.before))
        digits = data[len(head.before) : stop]
        if not digits.isdigit() or len(digits) > _MOST_DIGITS:
            return None
        begin = stop + len(head.after)
        return data[begin:] if len(data) - begin == int(digits) else None


def _head_of(data: bytes) -> Head | None:
    end: int = data.find(b"\r\n\r\n")
    if end < 0 or end > _MOST_HEAD:
        return None
    head = data[:end]
    lines: list[bytes] = head.split(b"\r\n")
    surface = _STARTS.get(lines[0])
    # Without what may be printed only the ends of the lines are left, or there is something strange in it.
    if surface is None or head.translate(None, _PRINTABLE) != b"\r\n" * (len(lines) - 1):
        return None
    headers: RawHeaders = []
    length_at, length = -1, b""
    at = len(lines[0]) + 2
    for line in lines[1:]:
        name, value = _header(line)
        if not name:
            return None
        if name == b"content-length":
            if length_at >= 0:
                return None
            length_at, length = at + len(line) - len(value), value
        else:
            headers.append((name, value))
        at += len(line) + 2
    if length_at < 0:
        return None
    after = data[length_at + len(length) : end + 4]
    return Head(surface, data[:length_at], after, headers, [row for row in headers if row[0] in MARKED])


def _header(line: bytes) -> tuple[bytes, bytes]:
    """A header's name in lower case, and its value; no name where it is the parser's."""
    at: int = line.find(b":")
    if at <= 0:
        return b"", b""
    raw = line[:at]
    name = _names.get(raw)
    if name is None:
        name = _named(raw)
    value: bytes = line[at + 1 :].lstrip(b" ")
    if not value or value.endswith(b" ") or (name == b"connection" and value.lower() != b"keep-alive"):
        return b"", b""
    return name, value


def _named(raw: bytes) -> bytes:
    """A header's name in lower case; b"" for what is no name, or one of the parser's."""
    name: bytes = raw.lower()
    if raw.translate(None, _TOKEN) or name in _OF_THE_PARSER:
        name = b""
    if len(raw) <= 64:
        if len(_names) >= _MOST_NAMES:
            _names.clear()
        _names[raw] = name
    return name
