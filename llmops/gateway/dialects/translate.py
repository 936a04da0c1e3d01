"""Codecs for a caller and a server that speak different dialects: read on one side, written on the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from llmops.gateway.dialects import (
    anthropic_read,
    anthropic_stream,
    anthropic_write,
    completions,
    gemini,
    lost,
    openai_read,
    openai_stream,
    openai_write,
    responses_read,
    responses_write,
    triton,
)
from llmops.gateway.dialects.ir import Answer, Begin, Chat, Close, Event, Fail, Finish, More, Open
from llmops.gateway.dialects.native import asked_usage
from llmops.gateway.dialects.native_stream import MAX_EVENT_BYTES, too_large
from llmops.gateway.dialects.wire import UNREADABLE, Ask, Lens, encode, error_in_200, in_path
from llmops.gateway.refusal import Refusal
from llmops.gateway.resilience import Failure
from llmops.gateway.surfaces import Surface
from llmops.http1 import EventSplitter, EventTooLargeError, event_data, event_type
from llmops.prices import Usage

_OWN: Final = openai_write.Manner()
# What reading something of another form ends in.
_MALFORMED: Final = (*UNREADABLE, AttributeError, TypeError, KeyError, IndexError, ValueError)
_READ: Final[dict[str, Callable[[dict[str, Any]], Chat]]] = {
    "chat": openai_read.read_request,
    "completions": completions.read_request,
    "responses": responses_read.read_request,
    "messages": anthropic_read.read_request,
}
_WRITE_ANSWER: Final[dict[str, Callable[[Answer], dict[str, Any]]]] = {
    "chat": openai_write.write_response,
    "completions": completions.write_response,
    "messages": anthropic_write.write_response,
}


class StreamReader(Protocol):
    """From an upstream's events to neutral ones."""

    done: bool

    def read(self, name: bytes | None, data: bytes) -> list[Event]: ...
    def end(self) -> list[Event]: ...


class StreamWriter(Protocol):
    """From neutral events to the caller's."""

    def write(self, event: Event) -> bytes: ...


class TranslatingCodec:
    """A codec between two dialects, through the neutral form."""

    native = False

    def __init__(
        self,
        surface: Surface,
        dialect: str,
        text_input: str,
        text_output: str,
        messages_input: str | None = None,
        *,
        manner: openai_write.Manner = _OWN,
    ) -> None:
        self._surface = surface
        self._dialect = dialect
        self._text = (text_input, text_output)
        self._manner = manner
        # A text completion is one text; the other surfaces have turns.
        self._messages = None if surface.name == "completions" else messages_input

    def path(self, model: str, *, stream: bool) -> str:
        """See ``Codec``."""
        if self._dialect == "openai":
            return "/chat/completions"
        if self._dialect == "anthropic":
            return "/messages"
        if self._dialect == "gemini":
            return f"/models/{in_path(model)}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"
        return f"/v2/models/{in_path(model)}/{'generate_stream' if stream else 'generate'}"

    def encode(self, ask: Ask, model: str, *, drop: bool) -> tuple[bytes, list[str]]:
        """See ``Codec``."""
        try:
            chat = _READ[self._surface.name](ask.deep())
            body, unsaid = self._write(chat, model)
            lost.note_unsaid(chat, self._dialect)
        except _MALFORMED as error:
            raise Refusal(400, f"the request is malformed: {error}", code="invalid_request") from None
        return encode(body), lost.settle(chat, unsaid, drop=drop, to=self._dialect)

    def _write(self, chat: Chat, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._dialect == "openai":
            return openai_write.write_request(chat, model, self._manner)
        if self._dialect == "anthropic":
            return anthropic_write.write_request(chat, model)
        if self._dialect == "gemini":
            return gemini.write_request(chat, model)
        return triton.write_request(chat, self._text[0], self._messages)

    def decode(self, ask: Ask, body: bytes) -> tuple[bytes, Usage | None]:
        """See ``Codec``."""
        try:
            raw = msgspec.json.decode(body)
            if isinstance(raw, list):  # Gemini's errors come in a list from some paths
                raw = raw[0]
            if raw.get("error") is not None:
                raise error_in_200(raw["error"])
            answer = self._read(raw)
            usage = answer.usage
            return encode(self._for_caller(answer, ask, len(body))), usage
        except _MALFORMED:
            raise Failure("protocol", 502, "the upstream's answer has not the form it should have") from None

    def _for_caller(self, answer: Answer, ask: Ask, size: int) -> dict[str, Any]:
        answer.model = answer.model or ask.model
        if answer.usage is None and self._surface.name == "messages":  # it must be there: an estimate, not a zero
            answer.usage = Usage(max(1, ask.size // 4), max(1, size // 4), estimated=True)
        if self._surface.name == "responses":
            return responses_write.write_response(answer, ask.deep())
        return _WRITE_ANSWER[self._surface.name](answer)

    def _read(self, raw: dict[str, Any]) -> Answer:
        if self._dialect == "openai":
            return openai_read.read_response(raw)
        if self._dialect == "anthropic":
            return anthropic_read.read_response(raw)
        if self._dialect == "gemini":
            return gemini.read_response(raw)
        return triton.read_response(raw, self._text[1])

    def lens(self, ask: Ask) -> Lens:
        """See ``Codec``."""
        estimate = Usage(max(1, ask.size // 4), estimated=True)
        readers: dict[str, Callable[[], StreamReader]] = {
            "openai": lambda: openai_stream.Reader(estimate),
            "anthropic": lambda: anthropic_stream.Reader(estimate),
            "gemini": lambda: gemini.Reader(estimate),
            "triton": lambda: triton.Reader(estimate, self._text[1]),
        }
        wants_usage = asked_usage(ask)
        writers: dict[str, Callable[[], StreamWriter]] = {
            "chat": lambda: openai_stream.Writer(ask.model, include_usage=wants_usage),
            "completions": lambda: completions.Writer(ask.model, include_usage=wants_usage),
            "responses": lambda: responses_write.Writer(ask.model, ask.deep()),
            "messages": lambda: anthropic_stream.Writer(ask.model),
        }
        fill = estimate if self._surface.name == "messages" else None
        return TranslatingLens(readers[self._dialect](), writers[self._surface.name](), fill)


class TranslatingLens:
    """A stream read in one dialect and written in another, event by event."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, fill: Usage | None) -> None:
        self._reader = reader
        self._fill = fill  # what to tell a caller whose dialect demands counts, when there are none
        self._writer = writer
        self._splitter = EventSplitter(MAX_EVENT_BYTES)
        self._usage: Usage | None = None
        self._open = False
        self.committed = self.finished = False
        self.error: Failure | None = None
        self.events = 0

    def feed(self, data: bytes) -> bytes:
        """See ``Lens``."""
        out = b""
        try:
            blocks = self._splitter.feed(data)
        except EventTooLargeError:
            return self._written([Fail(too_large())])
        for block in blocks:
            payload = event_data(block)
            if payload is None or self.finished or self.error is not None:
                continue
            try:
                out += self._written(self._reader.read(event_type(block), payload))
            except _MALFORMED:
                out += self._written([Fail(Failure("protocol", 502, "the upstream sent an event that cannot be read"))])
        return out

    def close(self, why: str | None) -> bytes:
        """See ``Lens``."""
        out = b""
        if why is None and self.error is None and not self.finished:
            out = self._written(self._reader.end())
        if not self.finished and self.error is None:
            text = why or "the upstream's stream ended before it was whole"
            out += self._written([Fail(Failure("protocol", 502, text, code="upstream_stream_broken"))])
        return out

    def usage(self) -> Usage | None:
        """See ``Lens``."""
        return self._usage

    def _in_order(self, event: Event) -> None:
        """One block is open at a time, and nothing is said outside of one: an upstream that breaks this has failed."""
        if isinstance(event, Open):
            if self._open:
                raise ValueError("a block within a block")
            self._open = True
        elif isinstance(event, (More, Close)):
            if not self._open:
                raise ValueError("words outside of a block")
            self._open = isinstance(event, More)
        elif isinstance(event, Finish) and self._open:
            raise ValueError("the end within a block")

    def _written(self, events: list[Event]) -> bytes:
        out = b""
        for event in events:
            self._in_order(event)
            if isinstance(event, Fail):
                self.error = event.failure
            elif isinstance(event, Begin):
                if not event.usage.estimated:
                    self._usage = event.usage
            else:
                self.committed = True
                self.events += 1
            if isinstance(event, Finish):
                self._usage = event.usage
                self.finished = True
                if event.usage is None and self._fill is not None:
                    event.usage = Usage(self._fill.input_tokens, self.events, estimated=True)
            out += self._writer.write(event)
        return out
