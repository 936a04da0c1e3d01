"""Streams of the caller's own dialect: whole events pass as they are, and are looked at on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import msgspec

from llmops.gateway.dialects.shapes import AnthropicEvent, Chunk, Delta, ResponsesEvent
from llmops.gateway.dialects.usage import anthropic_usage, of_tier, openai_usage
from llmops.gateway.dialects.wire import UNREADABLE, raw_error_in_200
from llmops.gateway.refusal import error_event
from llmops.gateway.resilience import Failure
from llmops.http1 import EventSplitter, EventTooLargeError, event_data
from llmops.prices import Usage

_NULL: Final = b"null"
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024


def _has(data: bytes, word: bytes) -> bool:
    """``word in data``, in a third of the time: ``in`` takes the word for a number first, and makes an error of that."""
    return data.find(word) >= 0


def too_large() -> Failure:
    """An event that does not end."""
    return Failure("protocol", 502, f"the upstream sent an event of more than {MAX_EVENT_BYTES} bytes")


class _NativeLens(ABC):
    """Forwards whole events unchanged; subclasses say what an event means."""

    __slots__ = ("_rest", "_splitter", "_told", "committed", "error", "events", "finished")
    dialect = "openai"

    def __init__(self) -> None:
        self._rest = b""
        self._splitter: EventSplitter | None = None
        self.committed = self.finished = False
        self.error: Failure | None = None
        self._told = False  # whether the upstream's own words about its failure went to the caller
        self.events = 0

    def feed(self, data: bytes) -> bytes:
        """See ``Lens``. Half an event waits for its other half: an event is passed on only when it has been judged."""
        if self.error is not None:
            return b""
        if self._splitter is not None or _has(data, b"\r"):
            return self._feed_odd(data)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not data.endswith(b"\n\n"):
            cut = data.rfind(b"\n\n") + 2
            if cut == 1:
                self._keep(data)
                return b""
            self._rest = data[cut:]
            data = data[:cut]
        return self._block(data)

    def _keep(self, data: bytes) -> None:
        """Hold half an event, unless it is too large to be one."""
        if len(data) > MAX_EVENT_BYTES:
            self.error, data = too_large(), b""
        self._rest = data

    def _feed_odd(self, data: bytes) -> bytes:
        """Streams with carriage returns, which may cut anywhere: event by event."""
        if self._splitter is None:
            self._splitter = EventSplitter(MAX_EVENT_BYTES)
            data, self._rest = self._rest + data, b""
        try:
            blocks = self._splitter.feed(data)
        except EventTooLargeError:
            self.error = too_large()
            return b""
        return self._block(b"".join(block + b"\n\n" for block in blocks)) if blocks else b""

    def _block(self, block: bytes) -> bytes:
        """Whole events."""
        self.events += block.count(b"\n\n")
        if self.committed and not self._notable(block):
            return block
        out = b""
        for event in block.split(b"\n\n"):
            if event and self._look(event):
                out += event + b"\n\n"
            if self.error is not None:  # what comes after a failure is no part of the answer
                break
        return out

    @abstractmethod
    def _notable(self, block: bytes) -> bool:
        """Whether events hold something to learn, judged by their bytes."""

    @abstractmethod
    def _look(self, event: bytes) -> bool:
        """Learn from one event; False takes it out of the stream."""

    def close(self, why: str | None) -> bytes:
        """See ``Lens``."""
        if self.finished and why is None:
            return b""
        if self.error is None:
            self.error = Failure("protocol", 502, why or "the upstream's stream ended before it was whole")
        if self._told:
            return b""
        self._told = True
        return error_event(self.dialect, 502, self.error.message, code="upstream_stream_broken")


_chunk: Final = msgspec.json.Decoder(Chunk)
_EMPTY: Final = (b"null", b'""', b"[]")


class OpenAILens(_NativeLens):
    """Chat and Completions streams."""

    __slots__ = ("_finish", "_keep_usage", "_tier", "_usage")

    def __init__(self, *, keep_usage: bool) -> None:
        super().__init__()
        self._keep_usage = keep_usage
        self._usage: bytes | None = None
        self._tier: str | None = None
        self._finish = False

    def _notable(self, block: bytes) -> bool:
        if _has(block, b'"usage"') and (_has(block, b'"usage":{') or _has(block, b'"usage": {')):
            return True
        if _has(block, b'"finish_reason":"') or _has(block, b'"finish_reason": "'):
            return True
        return _has(block, b'"error"') or _has(block, b"[DONE]")

    def _look(self, event: bytes) -> bool:
        data = event_data(event)
        if data is None:
            return True
        if data == b"[DONE]":
            self.finished = True
            return True
        try:
            chunk = _chunk.decode(data)
        except UNREADABLE:
            self.error = Failure("protocol", 502, "the upstream sent an event that is no JSON object")
            return False
        if bytes(chunk.error) != _NULL:
            self.error = raw_error_in_200(chunk.error)
            self._told = True
            return True
        has_usage = bytes(chunk.usage) != _NULL
        if has_usage:
            self._usage = bytes(chunk.usage)
        self._tier = chunk.service_tier or self._tier
        for choice in chunk.choices or ():
            if choice.finish_reason is not None:
                self._finish = self.committed = True
            if choice.text or (choice.delta is not None and _says_something(choice.delta)):
                self.committed = True
        return self._keep_usage or not (has_usage and chunk.choices == [])

    def usage(self) -> Usage | None:
        """See ``Lens``."""
        return of_tier(openai_usage(self._usage), self._tier) if self._usage is not None else None

    def close(self, why: str | None) -> bytes:
        """A server that ends a stream in good order after a finish reason, without [DONE], is forgiven."""
        if why is None and self._finish and self.error is None and not self.finished:
            self.finished = True
            return b"data: [DONE]\n\n"
        return super().close(why)


def _says_something(delta: Delta) -> bool:
    return any(bytes(getattr(delta, name)) not in _EMPTY for name in Delta.__struct_fields__)


_anthropic_event: Final = msgspec.json.Decoder(AnthropicEvent)


class AnthropicLens(_NativeLens):
    """Messages streams."""

    __slots__ = ("_usages",)
    dialect = "anthropic"

    def __init__(self) -> None:
        super().__init__()
        self._usages: list[bytes] = []

    def _notable(self, block: bytes) -> bool:
        return _has(block, b'"usage"') or _has(block, b'"error"') or _has(block, b"message_stop")

    def _look(self, event: bytes) -> bool:
        data = event_data(event)
        if data is None:
            return True
        try:
            read = _anthropic_event.decode(data)
        except UNREADABLE:
            self.error = Failure("protocol", 502, "the upstream sent an event that is no JSON object")
            return False
        for raw in (read.message.usage if read.message is not None else None, read.usage):
            if raw is not None and bytes(raw) != _NULL:
                self._usages.append(bytes(raw))
        if read.type == "error":
            self.error = raw_error_in_200(read.error)
            self._told = True
        elif read.type == "message_stop":
            self.finished = True
        if read.type not in ("message_start", "ping", "error"):
            self.committed = True
        return True

    def usage(self) -> Usage | None:
        """See ``Lens``."""
        return anthropic_usage(*self._usages) if self._usages else None


_responses_event: Final = msgspec.json.Decoder(ResponsesEvent)
_LAST: Final = ("response.completed", "response.incomplete", "response.failed")


class ResponsesLens(_NativeLens):
    """Responses streams."""

    __slots__ = ("_tier", "_usage")

    def __init__(self) -> None:
        super().__init__()
        self._usage: bytes | None = None
        self._tier: str | None = None

    def _notable(self, block: bytes) -> bool:
        return _has(block, b'"usage"') or _has(block, b'"error"') or _has(block, b"response.completed")

    def _look(self, event: bytes) -> bool:
        data = event_data(event)
        if data is None or data == b"[DONE]":
            return True
        try:
            read = _responses_event.decode(data)
        except UNREADABLE:
            self.error = Failure("protocol", 502, "the upstream sent an event that is no JSON object")
            return False
        response = read.response
        if response is not None and bytes(response.usage) != _NULL:
            self._usage, self._tier = bytes(response.usage), response.service_tier
        if read.type == "error":
            self.error = raw_error_in_200(data)
        elif read.type == "response.failed" and response is not None:
            self.error = raw_error_in_200(response.error)
        self._told = self.error is not None
        if read.type in _LAST:
            self.finished = True
        if read.type not in ("response.created", "response.in_progress", "response.queued", "error", "response.failed"):
            self.committed = True
        return True

    def usage(self) -> Usage | None:
        """See ``Lens``."""
        return of_tier(openai_usage(self._usage), self._tier) if self._usage is not None else None
