"""What the forwarding needs of a dialect pair, and small readers that several dialects share."""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from llmops.gateway.dialects.shapes import ErrorBody
from llmops.gateway.refusal import Refusal
from llmops.gateway.resilience import Failure, kind_of_status
from llmops.gateway.surfaces import Surface
from llmops.prices import Usage

Fields = dict[str, msgspec.Raw]
_fields: Final = msgspec.json.Decoder(Fields).decode
_text: Final = msgspec.json.Decoder(str).decode
encode: Final = msgspec.json.encode
# What decoding raises for bytes that are no JSON: malformed, not UTF-8, or nested too deeply.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Ask:
    """A request's body, read one level deep: what is not needed stays as the caller wrote it, byte for byte.

    Attributes:
        model: The name that the caller used.
        stream: Whether the caller wants a stream.
        size: Bytes of the body.
        whole: The body as plain values, made on first use by ``deep``.
    """

    def __init__(self, surface: Surface, fields: Fields, model: str, stream: bool, size: int) -> None:
        self.surface = surface
        self.fields = fields
        self.model = model
        self.stream = stream
        self.size = size
        self.whole: dict[str, Any] | None = None
        self.notes: list[str] = []

    def deep(self) -> dict[str, Any]:
        """The whole body as plain values."""
        if self.whole is None:
            self.whole = {name: self.value(name) for name in self.fields}
        return self.whole

    def value(self, name: str, default: Any = None) -> Any:
        """One top-level field as a plain value; ``default`` when absent.

        Raises:
            Refusal: 400: it holds what only a full look shows, as half a surrogate pair.
        """
        raw = self.fields.get(name)
        if raw is None:
            return default
        try:
            return msgspec.json.decode(raw)
        except UNREADABLE as error:
            raise Refusal(400, f"the field {name!r} cannot be read: {error}", code="invalid_json", param=name) from None


def read_ask(surface: Surface, body: bytes) -> Ask:
    """Read a request's body.

    Raises:
        Refusal: 400: not a JSON object, or without a usable ``model``.
    """
    try:
        if not body.isascii():
            body.decode()  # JSON is UTF-8, and what is passed on unread must be too
        fields = _fields(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refusal(400, f"the body is not a JSON object: {error}", code="invalid_json") from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply", code="invalid_json") from None
    raw = fields.get("model")
    try:
        model = _text(raw) if raw is not None else ""
    except UNREADABLE:
        model = ""
    if not model or len(model) > 256 or not model.isprintable():
        message = "the field 'model' must be a name of at most 256 printable characters"
        raise Refusal(400, message, code="invalid_model", param="model")
    stream = fields.get("stream") if surface.streams else None
    return Ask(surface, fields, model, stream is not None and bytes(stream) == b"true", len(body))


class Lens(Protocol):
    """Looks at a stream on its way to the caller and says what to send.

    Attributes:
        committed: Real content has come; from here on there is no falling back.
        error: The upstream said inside the stream that it failed.
        finished: The stream's own end has come.
        usage: The provider's counts so far.
        events: Content events so far, to estimate from when no counts come.
    """

    @property
    def committed(self) -> bool: ...
    @property
    def error(self) -> Failure | None: ...
    @property
    def finished(self) -> bool: ...
    @property
    def events(self) -> int: ...

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the upstream; returns bytes for the caller."""

    def close(self, why: str | None) -> bytes:
        """The upstream's stream is over, or broke for the reason ``why``; returns the last bytes for the caller."""

    def usage(self) -> Usage | None:
        """The provider's own counts, None when it gave none."""


class Codec(Protocol):
    """How one surface is spoken to one dialect of server."""

    native: bool

    def path(self, model: str, *, stream: bool) -> str:
        """The path below the provider's base URL."""

    def encode(self, ask: Ask, model: str, *, drop: bool) -> tuple[bytes, list[str]]:
        """The body for the server, and the names of fields that were dropped.

        Raises:
            Refusal: 400: something cannot be said in the server's dialect, and ``drop`` is not set.
        """

    def decode(self, ask: Ask, body: bytes) -> tuple[bytes, Usage | None]:
        """A whole good answer for the caller, and the provider's counts.

        Raises:
            Failure: It is no good answer: an ``error`` object inside a 200, or garbage.
        """

    def lens(self, ask: Ask) -> Lens:
        """For a stream."""


def failure_of(status: int, body: bytes, retry_after_s: float | None, *, own_key: bool) -> Failure:
    """What an upstream's error answer means. The provider's own message is kept; it is masked when written out."""
    message, code, param = read_error(body)
    kind = kind_of_status(status, own_key=own_key)
    if kind == "credentials":
        return Failure(kind, 502, "the provider refused the gateway's own credentials", code="upstream_credentials")
    shown = (
        status
        if status in (400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 501, 502, 503, 504, 529)
        else (500 if status >= 500 else 400)
    )
    return Failure(kind, shown, message or f"the upstream answered {status}", retry_after_s, code, param)


def read_error(body: bytes) -> tuple[str, str | None, str | None]:
    """(message, code, param) from any dialect's error body; the start of the text where it is no JSON."""
    try:
        read = msgspec.json.decode(body, type=ErrorBody)
    except UNREADABLE:
        return body[:300].decode("utf-8", "replace").strip(), None, None
    error = read.error
    if isinstance(error, dict):
        code = error.get("code")
        param = error.get("param")
        return (
            str(error.get("message") or error.get("type") or "")[:2000],
            str(code) if code is not None else None,
            param if isinstance(param, str) else None,
        )
    text = error if isinstance(error, str) else read.message or read.detail or ""
    return (text if isinstance(text, str) else encode(text).decode())[:2000], None, None


def raw_error_in_200(raw: bytes | msgspec.Raw) -> Failure:
    """``error_in_200`` of an object that has not been read yet."""
    try:
        return error_in_200(msgspec.json.decode(raw))
    except UNREADABLE:
        return Failure("protocol", 502, "the upstream reported an error that cannot be read")


def error_in_200(error: Any) -> Failure:
    """An ``error`` object inside an answer with status 200, or inside a stream."""
    details = error if isinstance(error, dict) else {"message": str(error)}
    status = next((code for code in (details.get("code"), details.get("status")) if isinstance(code, int)), 0)
    message = str(details.get("message") or details.get("type") or "the upstream reported an error")[:2000]
    named = {"rate_limit_error": 429, "overloaded_error": 529, "invalid_request_error": 400, "api_error": 500}
    status = status if 400 <= status < 600 else named.get(str(details.get("type")), 502)
    kind = kind_of_status(status, own_key=False)
    return Failure(kind, status, message, code=str(details.get("code")) if details.get("code") is not None else None)


def in_path(model: str) -> str:
    """A model's name as one path segment (or several, for names with slashes): nothing can climb or add a query."""
    from urllib.parse import quote

    return quote(model, safe="/-._~" if ".." not in model else "-._~")
