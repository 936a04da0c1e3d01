"""Where a request goes, and its bytes. Lengths are always computed here, never taken from a caller's headers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BAD_TARGET: Final = re.compile(rb"[\x00-\x20\x7f-\xff]")
# What frames a message is rebuilt for each request; a copied one is how requests are smuggled.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"host", b"te", b"trailer"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a server. Two requests may share a connection only when their origins are equal."""

    scheme: str
    host: str
    port: int

    @property
    def secure(self) -> bool:
        """Whether the connection is TLS."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """The value of the Host header: port omitted when it is the scheme's own, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @classmethod
    def of(cls, url: str) -> tuple[Self, str]:
        """Split a URL into its origin and its path with query (``/`` when there is none).

        Raises:
            ValueError: It is no http(s) URL, or it carries a user name or password.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// URL")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL must not carry a user name or password")
        host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode("ascii")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80)), path


def request_head(
    method: str, target: str, origin: Origin, headers: Iterable[tuple[bytes, bytes]] = (), *, identity: bool = True
) -> bytes:
    """The request line and headers, without the length and the final blank line (see ``with_body``).

    Built once and reused for every request to the same target. ``identity`` asks for an answer without compression, so
    that a stream is not held back by a compressor and its bytes can be read as they come.

    Raises:
        ValueError: A name, value, method or target holds a byte that could end its line, or a header is one of those
            that frame the message, which are always rebuilt.
    """
    verb, path = method.encode("ascii"), target.encode("ascii")
    if not _TOKEN.match(verb) or not path or _BAD_TARGET.search(path):
        raise ValueError(f"not a request line: {method!r} {target!r}")
    lines = [b"%b %b HTTP/1.1\r\nhost: %b" % (verb, path, origin.authority.encode("ascii"))]
    seen_encoding = False
    for name, value in headers:
        lower = name.lower()
        if not _TOKEN.match(name) or _BAD_VALUE.search(value):
            raise ValueError(f"not a header: {name!r}")
        if lower in _FRAMING:
            raise ValueError(f"the header {name.decode()!r} frames the message and is set by the connection")
        if lower == b"accept-encoding":
            if identity:
                continue
            seen_encoding = True
        lines.append(b"%b: %b" % (name, value))
    if not seen_encoding:
        lines.append(b"accept-encoding: identity")
    return b"\r\n".join(lines) + b"\r\n"


def with_body(head: bytes, body: bytes | None = None) -> bytes:
    """The whole request. ``None`` is a request without a body, ``b""`` one with an empty body."""
    if body is None:
        return head + b"\r\n"
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
