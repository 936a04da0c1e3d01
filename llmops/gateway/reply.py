"""Where an answer goes. The request's way knows only this; the ASGI app and the short cut each implement it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from llmops.gateway.access.keyform import Digester
from llmops.gateway.surfaces import Surface

RawHeaders = list[tuple[bytes, bytes]]
# Headers that every request is searched for: who asks, and what the provider must hear.
MARKED: Final = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"anthropic-beta",
        b"anthropic-version",
        b"openai-beta",
        b"openai-organization",
        b"openai-project",
    }
)


def marked_of(headers: RawHeaders) -> RawHeaders:
    """Those of ``headers`` that are in ``MARKED``."""
    return [row for row in headers if row[0] in MARKED]


class Request:
    """A whole request as it came. Header names are in lower case; ``marked`` are those in ``MARKED`` once more.

    ``digester`` makes the digest of the credential, and belongs to the caller's connection.
    """

    # Written out, here and in the other classes of which each request makes one: a dataclass's is not compiled.
    def __init__(
        self,
        surface: Surface,
        headers: RawHeaders,
        marked: RawHeaders,
        body: bytes,
        *,
        digester: Digester,
        client: str,
        started_ns: int,
    ) -> None:
        self.surface = surface
        self.headers = headers
        self.marked = marked
        self.body = body
        self.digester = digester
        self.client = client
        self.started_ns = started_ns

    def header(self, name: bytes) -> bytes | None:
        """The first header of that name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Reply(Protocol):
    """Takes one answer, whole or as a stream. Nothing raises when the client has gone: what is written is dropped."""

    gone: bool
    task: asyncio.Task[None] | None
    on_gone: Callable[[], None] | None
    on_pause: Callable[[], None] | None
    on_resume: Callable[[], None] | None

    def whole(self, status: int, headers: bytes, body: bytes) -> None:
        """Head and body in one write. ``headers`` are lines, each ended by CR LF, without any length."""

    def start(self, status: int, headers: bytes, first: bytes) -> None:
        """Begin a stream: head and first piece in one write."""

    def write(self, data: bytes) -> None:
        """The next piece."""

    def end(self) -> None:
        """The stream is whole."""

    def settled(self) -> None:
        """The request is accounted for; nothing more comes."""

    def cut(self) -> None:
        """The stream is broken and its dialect has no way to say so: close the connection without a proper end."""
