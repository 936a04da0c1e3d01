"""Same dialect on both sides: bytes pass as they are, apart from the model's name and the request for usage."""

from __future__ import annotations

from typing import Final

import msgspec

from llmops.gateway.dialects.usage import anthropic_usage, openai_usage
from llmops.gateway.dialects.wire import Ask, Lens, encode, error_in_200
from llmops.gateway.refusal import error_event
from llmops.gateway.resilience import Failure
from llmops.gateway.surfaces import Surface
from llmops.http1 import EventSplitter, event_data
from llmops.prices import Usage


class _Envelope(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")
    type: str | None = None
    input_tokens: int | None = None


_envelope: Final = msgspec.json.Decoder(_Envelope)
_NULL: Final = b"null"
_WITH_USAGE: Final = msgspec.Raw(b'{"include_usage":true}')


class NativeCodec:
    """An upstream of the caller's own dialect."""

    native = True

    def __init__(self, surface: Surface, *, ask_usage: bool) -> None:
        self._surface = surface
        self._ask_usage = ask_usage and surface.name in ("chat", "completions")
        self._usage_of = anthropic_usage if surface.dialect == "anthropic" else openai_usage

    def path(self, model: str, *, stream: bool) -> str:  # noqa: ARG002 - the interface of every codec
        """See ``Codec``."""
        return self._surface.path

    def encode(self, ask: Ask, model: str, *, drop: bool) -> tuple[bytes, list[str]]:  # noqa: ARG002 - the same
        """The caller's fields; doubled keys are gone, so that the server reads what was checked here."""
        fields = dict(ask.fields)
        if model != ask.model:
            fields["model"] = msgspec.Raw(encode(model))
        if ask.stream and self._ask_usage and not asked_usage(ask):
            options = ask.value("stream_options")
            fields["stream_options"] = (
                msgspec.Raw(encode({**options, "include_usage": True})) if isinstance(options, dict) else _WITH_USAGE
            )
        return encode(fields), []

    def decode(self, ask: Ask, body: bytes) -> tuple[bytes, Usage | None]:  # noqa: ARG002 - the same
        """See ``Codec``."""
        try:
            envelope = _envelope.decode(body)
        except (msgspec.MsgspecError, RecursionError):
            raise Failure("protocol", 502, "the upstream's answer is not the JSON it should be") from None
        if envelope.type == "error" or bytes(envelope.error) != _NULL:
            raise error_in_200(msgspec.json.decode(envelope.error))
        if self._surface.name == "count_tokens":
            return body, Usage()
        return body, None if bytes(envelope.usage) == _NULL else self._usage_of(envelope.usage)

    def lens(self, ask: Ask) -> Lens:
        """See ``Codec``."""
        if self._surface.dialect == "anthropic":
            return AnthropicLens()
        if self._surface.name == "responses":
            return ResponsesLens()
        return OpenAILens(keep_usage=not self._ask_usage or asked_usage(ask))


def asked_usage(ask: Ask) -> bool:
    """Whether the caller itself asked for usage in the stream."""
    raw = ask.fields.get("stream_options")
    if raw is None:
        return False
    options = msgspec.json.decode(raw)
    return isinstance(options, dict) and options.get("include_usage") is True


class _NativeLens:
    """Forwards whole events unchanged; subclasses say what an event means."""

    __slots__ = ("_rest", "_splitter", "committed", "error", "events", "finished")
    dialect = "openai"

    def __init__(self) -> None:
        self._rest = b""
        self._splitter: EventSplitter | None = None
        self.committed = self.finished = False
        self.error: Failure | None = None
        self.events = 0

    def feed(self, data: bytes) -> bytes:
        """See ``Lens``. Half an event waits for its other half: an event is passed on only when it has been judged."""
        if self._splitter is not None or b"\r" in data:
            return self._feed_odd(data)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not data.endswith(b"\n\n"):
            cut = data.rfind(b"\n\n") + 2
            if cut == 1:
                self._rest = data
                return b""
            self._rest = data[cut:]
            data = data[:cut]
        return self._block(data)

    def _feed_odd(self, data: bytes) -> bytes:
        """Streams with carriage returns, which may cut anywhere: event by event."""
        if self._splitter is None:
            self._splitter = EventSplitter()
            data, self._rest = self._rest + data, b""
        blocks = self._splitter.feed(data)
        return self._block(b"".join(block + b"\n\n" for block in blocks)) if blocks else b""

    def _block(self, block: bytes) -> bytes:
        """Whole events."""
        self.events += block.count(b"\n\n")
        if self.committed and not self._notable(block):
            return block
        return b"".join(event + b"\n\n" for event in block.split(b"\n\n") if event and self._look(event))

    def _notable(self, block: bytes) -> bool:
        raise NotImplementedError

    def _look(self, event: bytes) -> bool:
        """Learn from one event; False takes it out of the stream."""
        raise NotImplementedError

    def close(self, why: str | None) -> bytes:
        """See ``Lens``."""
        if self.finished and why is None:
            return b""
        if self.error is None:
            self.error = Failure("protocol", 502, why or "the upstream's stream ended before it was whole")
            return error_event(self.dialect, 502, self.error.message, code="upstream_stream_broken")
        return b""


class _Delta(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"null")
    tool_calls: msgspec.Raw = msgspec.Raw(b"null")
    reasoning_content: msgspec.Raw = msgspec.Raw(b"null")
    reasoning: msgspec.Raw = msgspec.Raw(b"null")
    refusal: msgspec.Raw = msgspec.Raw(b"null")
    function_call: msgspec.Raw = msgspec.Raw(b"null")
    audio: msgspec.Raw = msgspec.Raw(b"null")


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


_chunk: Final = msgspec.json.Decoder(_Chunk)
_EMPTY: Final = (b"null", b'""', b"[]")


class OpenAILens(_NativeLens):
    """Chat and Completions streams."""

    __slots__ = ("_finish", "_keep_usage", "_usage")

    def __init__(self, *, keep_usage: bool) -> None:
        super().__init__()
        self._keep_usage = keep_usage
        self._usage: bytes | None = None
        self._finish = False

    def _notable(self, block: bytes) -> bool:
        if b'"usage"' in block and (b'"usage":{' in block or b'"usage": {' in block):
            return True
        return (
            b'"error"' in block or b"[DONE]" in block or b'"finish_reason":"' in block or b'"finish_reason": "' in block
        )

    def _look(self, event: bytes) -> bool:
        data = event_data(event)
        if data is None:
            return True
        if data == b"[DONE]":
            self.finished = True
            return True
        try:
            chunk = _chunk.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            self.error = Failure("protocol", 502, "the upstream sent an event that is no JSON object")
            return False
        if bytes(chunk.error) != _NULL:
            self.error = error_in_200(msgspec.json.decode(chunk.error))
            return True
        has_usage = bytes(chunk.usage) != _NULL
        if has_usage:
            self._usage = bytes(chunk.usage)
        for choice in chunk.choices or ():
            if choice.finish_reason is not None:
                self._finish = self.committed = True
            if choice.text or (choice.delta is not None and _says_something(choice.delta)):
                self.committed = True
        return self._keep_usage or not (has_usage and chunk.choices == [])

    def usage(self) -> Usage | None:
        """See ``Lens``."""
        return openai_usage(self._usage) if self._usage is not None else None

    def close(self, why: str | None) -> bytes:
        """A server that ends a stream in good order after a finish reason, without [DONE], is forgiven."""
        if why is None and self._finish and self.error is None and not self.finished:
            self.finished = True
            return b"data: [DONE]\n\n"
        return super().close(why)


def _says_something(delta: _Delta) -> bool:
    return any(bytes(getattr(delta, name)) not in _EMPTY for name in _Delta.__struct_fields__)


class _Message(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _AnthropicEvent(msgspec.Struct):
    type: str = ""
    message: _Message | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


_anthropic_event: Final = msgspec.json.Decoder(_AnthropicEvent)


class AnthropicLens(_NativeLens):
    """Messages streams."""

    __slots__ = ("_usages",)
    dialect = "anthropic"

    def __init__(self) -> None:
        super().__init__()
        self._usages: list[bytes] = []

    def _notable(self, block: bytes) -> bool:
        return b'"usage"' in block or b'"error"' in block or b"message_stop" in block

    def _look(self, event: bytes) -> bool:
        data = event_data(event)
        if data is None:
            return True
        try:
            read = _anthropic_event.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            self.error = Failure("protocol", 502, "the upstream sent an event that is no JSON object")
            return False
        for raw in (read.message.usage if read.message is not None else None, read.usage):
            if raw is not None and bytes(raw) != _NULL:
                self._usages.append(bytes(raw))
        if read.type == "error":
            self.error = error_in_200(msgspec.json.decode(read.error))
        elif read.type == "message_stop":
            self.finished = True
        if read.type not in ("message_start", "ping", "error"):
            self.committed = True
        return True

    def usage(self) -> Usage | None:
        """See ``Lens``."""
        return anthropic_usage(*self._usages) if self._usages else None


class _ResponseObject(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _ResponsesEvent(msgspec.Struct):
    type: str = ""
    response: _ResponseObject | None = None


_responses_event: Final = msgspec.json.Decoder(_ResponsesEvent)
_LAST: Final = ("response.completed", "response.incomplete", "response.failed")


class ResponsesLens(_NativeLens):
    """Responses streams."""

    __slots__ = ("_usage",)

    def __init__(self) -> None:
        super().__init__()
        self._usage: bytes | None = None

    def _notable(self, block: bytes) -> bool:
        return b'"usage"' in block or b'"error"' in block or b"response.completed" in block

    def _look(self, event: bytes) -> bool:
        data = event_data(event)
        if data is None or data == b"[DONE]":
            return True
        try:
            read = _responses_event.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            self.error = Failure("protocol", 502, "the upstream sent an event that is no JSON object")
            return False
        response = read.response
        if response is not None and bytes(response.usage) != _NULL:
            self._usage = bytes(response.usage)
        if read.type == "error":
            self.error = error_in_200(msgspec.json.decode(data))
        elif read.type == "response.failed" and response is not None:
            self.error = error_in_200(msgspec.json.decode(response.error))
        if read.type in _LAST:
            self.finished = True
        if read.type not in ("response.created", "response.in_progress", "response.queued", "error", "response.failed"):
            self.committed = True
        return True

    def usage(self) -> Usage | None:
        """See ``Lens``."""
        return openai_usage(self._usage) if self._usage is not None else None
