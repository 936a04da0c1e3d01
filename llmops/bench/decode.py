"""Raw answers into tokens and times, after the measurement: nothing here runs while the clock does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from llmops.bench.wire import Api
from llmops.http1 import EventSplitter, EventTooLargeError, event_data, event_type

TokenSource = Literal["usage", "continuous-usage", "events", "none"]


@dataclass(slots=True)
class Answer:
    """One answer, read.

    Attributes:
        event_ns: When each token event arrived. An event is one that brings text of any kind: visible, reasoning, or a
            tool call. The empty chunk that only names the role is none.
        event_tokens: Tokens in each event; known from continuous usage, else 1 each.
        visible_ns: When the first visible text or tool call arrived.
        output_tokens: From the final usage, else continuous usage, else the number of events.
        input_tokens: From usage, None where the server does not say.
        source: Where ``output_tokens`` comes from.
        mismatch: Usage disagrees with the tokens seen in events.
        finish: The finish reason; ``[DONE]`` when only that came.
        error: Why it is a failed request, as a stable word; None when it is whole.
        detail: The server's own words about the error.
        text: Visible text, kept only on request (conversations need it).
    """

    event_ns: list[int] = field(default_factory=list)
    event_tokens: list[int] = field(default_factory=list)
    visible_ns: int | None = None
    output_tokens: int = 0
    input_tokens: int | None = None
    source: TokenSource = "none"
    mismatch: bool = False
    finish: str | None = None
    error: str | None = None
    detail: str = ""
    text: str = ""


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: Any = None
    message: Any = None


class _MessageEvent(msgspec.Struct):
    type: str = ""
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    usage: _Usage | None = None
    error: Any = None
    content: Any = None
    stop_reason: str | None = None


_CHUNK = msgspec.json.Decoder(_Chunk)
_MESSAGE = msgspec.json.Decoder(_MessageEvent)


def decode_stream(api: Api, pieces: Sequence[bytes], stamps: Sequence[int], *, keep_text: bool = False) -> Answer:
    """Read one streamed answer; ``stamps`` holds the arrival of each piece."""
    reader = _Reader(api, keep_text)
    splitter = EventSplitter()
    for piece, at_ns in zip(pieces, stamps, strict=True):
        try:
            blocks = splitter.feed(piece)
        except EventTooLargeError as error:
            return reader.failed("not-sse", str(error))
        for block in blocks:
            if reader.take(block, at_ns):
                return reader.answer
    return reader.close(splitter.rest.strip() != b"")


def decode_whole(api: Api, body: bytes, at_ns: int) -> Answer:
    """Read an answer that was not streamed: one event that holds everything."""
    reader = _Reader(api, keep_text=True)
    reader.whole(body, at_ns)
    answer = reader.close(cut=False)
    if answer.event_tokens and answer.output_tokens:
        answer.event_tokens = [answer.output_tokens]
        answer.mismatch = False
    return answer


def error_detail(body: bytes) -> str:
    """The server's words in an error answer, at most 300 characters."""
    try:
        parsed = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body[:300].decode("utf-8", "replace").strip()
    return _words(parsed)


class _Reader:
    """State while events of one answer are read."""

    def __init__(self, api: Api, keep_text: bool) -> None:
        self.answer = Answer()
        self._api = api
        self._texts: list[str] | None = [] if keep_text else None
        self._final: int | None = None  # completion tokens of the latest usage
        self._counted = 0  # tokens that usage inside token events has told of
        self._told = 0  # token events that came with a usage
        self._done = False

    def take(self, block: bytes, at_ns: int) -> bool:
        """One event; True when the answer is decided (an error)."""
        data = event_data(block)
        if data is None or not data.strip():
            return False
        if data == b"[DONE]" or data.strip() == b"[DONE]":
            self._done = True
            return False
        try:
            if self._api == "messages":
                self._message_event(_MESSAGE.decode(data), at_ns)
            else:
                self._chunk(_CHUNK.decode(data), at_ns)
        except msgspec.DecodeError as error:
            self.failed("bad-event", f"{error}: {data[:100].decode('utf-8', 'replace')}")
        if self.answer.error is None and event_type(block) == b"error":
            self.failed("error-event", error_detail(data))
        return self.answer.error is not None

    def whole(self, body: bytes, at_ns: int) -> None:
        try:
            if self._api == "messages":
                self._whole_message(_MESSAGE.decode(body), at_ns)
            else:
                self._chunk(_CHUNK.decode(body), at_ns)
        except msgspec.DecodeError as error:
            self.failed("bad-answer", str(error))

    def failed(self, kind: str, detail: str) -> Answer:
        self.answer.error, self.answer.detail = kind, detail[:300]
        return self.answer

    def close(self, cut: bool) -> Answer:
        """All events are in: count tokens, and decide whether the answer is whole."""
        answer = self.answer
        answer.text = "".join(self._texts or ())
        continuous = self._told >= len(answer.event_ns) > 1
        if not continuous:  # a usage in the last token's chunk says nothing about the chunks before it
            answer.event_tokens = [1] * len(answer.event_ns)
        seen = sum(answer.event_tokens)
        if self._final is not None:
            answer.output_tokens = self._final
            answer.source = "continuous-usage" if continuous else "usage"
            answer.mismatch = seen != self._final
        elif answer.event_ns:
            answer.output_tokens, answer.source = seen, "events"
        if answer.error is None:
            if answer.finish is None and not self._done:
                self.failed("no-finish", "the stream ended without a finish reason or [DONE]")
            elif cut:
                self.failed("cut-event", "the stream ended inside an event")
            elif not answer.event_ns:
                self.failed("empty", "the answer has no token")
        if answer.finish is None and self._done:
            answer.finish = "[DONE]"
        return answer

    def _chunk(self, chunk: _Chunk, at_ns: int) -> None:
        if chunk.error is not None or (chunk.object == "error" and chunk.choices is None):
            self.failed("error-event", _words(chunk.error if chunk.error is not None else chunk.message))
            return
        brought = False
        for choice in chunk.choices or ():
            delta = choice.delta or choice.message or _Delta()
            visible = choice.text or delta.content or delta.tool_calls or delta.function_call or delta.refusal
            if visible and self.answer.visible_ns is None:
                self.answer.visible_ns = at_ns
            brought = brought or bool(visible or delta.reasoning_content or delta.reasoning)
            if self._texts is not None:
                self._texts.append(choice.text or (delta.content if isinstance(delta.content, str) else "") or "")
            self.answer.finish = choice.finish_reason or self.answer.finish
        if brought:
            self._token(at_ns, chunk.usage)
        if chunk.usage is not None:
            self._usage(chunk.usage)

    def _token(self, at_ns: int, usage: _Usage | None) -> None:
        tokens = 1
        if usage is not None and usage.completion_tokens is not None:
            # An event with a usage tells how many tokens it and the silent ones before it brought.
            tokens = max(1, usage.completion_tokens - self._counted)
            self._counted = max(self._counted, usage.completion_tokens)
            self._told += 1
        else:
            self._counted += 1
        self.answer.event_ns.append(at_ns)
        self.answer.event_tokens.append(tokens)

    def _usage(self, usage: _Usage) -> None:
        output = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
        inputs = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
        if output is not None:
            self._final = output
        if inputs is not None:
            self.answer.input_tokens = inputs

    def _message_event(self, event: _MessageEvent, at_ns: int) -> None:
        if event.type == "error" or event.error is not None:
            self.failed("error-event", _words(event.error))
        elif event.type == "message_start" and event.message:
            usage = event.message.get("usage") or {}
            self.answer.input_tokens = usage.get("input_tokens")
        elif event.type == "content_block_delta" and event.delta:
            self._block_delta(event.delta, at_ns)
        elif event.type == "message_delta":
            self.answer.finish = (event.delta or {}).get("stop_reason") or self.answer.finish
            if event.usage is not None:
                self._usage(event.usage)
        elif event.type == "message_stop":
            self._done = True

    def _block_delta(self, delta: dict[str, Any], at_ns: int) -> None:
        visible = delta.get("text") or delta.get("partial_json")
        if not visible and not delta.get("thinking"):
            return
        if visible and self.answer.visible_ns is None:
            self.answer.visible_ns = at_ns
        if self._texts is not None:
            self._texts.append(delta.get("text") or "")
        self._token(at_ns, None)

    def _whole_message(self, message: _MessageEvent, at_ns: int) -> None:
        if message.type == "error" or message.error is not None:
            self.failed("error-event", _words(message.error))
            return
        self.answer.finish = message.stop_reason
        if message.content:
            self.answer.visible_ns = at_ns
            self._token(at_ns, None)
            if self._texts is not None:
                self._texts += [block.get("text", "") for block in message.content if isinstance(block, dict)]
        if message.usage is not None:
            self._usage(message.usage)


def _words(value: Any) -> str:
    """The human part of an error in any of the shapes that servers use."""
    while isinstance(value, dict):
        value = next((value[key] for key in ("message", "error", "detail", "msg") if value.get(key)), str(value))
    return str(value)[:300]
