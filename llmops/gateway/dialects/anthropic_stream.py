"""Anthropic Messages streams, read and written."""

from __future__ import annotations

from typing import Any

import msgspec

from llmops.gateway.dialects.anthropic_read import STOP
from llmops.gateway.dialects.anthropic_write import FINISH, pack_signatures
from llmops.gateway.dialects.ir import Begin, Close, Event, Fail, Finish, More, Open, StopReason, ToolCall
from llmops.gateway.dialects.usage import anthropic_usage, as_anthropic
from llmops.gateway.dialects.wire import error_in_200
from llmops.gateway.refusal import error_event
from llmops.prices import Usage


class Reader:
    """From Anthropic's events to neutral ones."""

    def __init__(self, estimate: Usage) -> None:
        self._estimate = estimate
        self._usages: list[bytes] = []
        self._stop: StopReason = "stop"
        self._sequence: str | None = None
        self._signature = ""
        self._input: Any = None
        self.done = False

    def read(self, _name: bytes | None, data: bytes) -> list[Event]:  # noqa: PLR0911 - one for each kind of event
        """One event of the upstream."""
        event = msgspec.json.decode(data)
        kind = event.get("type")
        if kind == "message_start":
            message = event.get("message") or {}
            self._usages.append(msgspec.json.encode(message.get("usage") or {}))
            usage = anthropic_usage(*self._usages) or self._estimate
            return [Begin(message.get("id", ""), message.get("model", ""), usage)]
        if kind == "content_block_start":
            return self._open(event.get("content_block") or {})
        if kind == "content_block_delta":
            return self._delta(event.get("delta") or {})
        if kind == "content_block_stop":
            return self._close()
        if kind == "message_delta":
            delta = event.get("delta") or {}
            self._usages.append(msgspec.json.encode(event.get("usage") or {}))
            self._stop = STOP.get(delta.get("stop_reason") or "end_turn", "stop")
            self._sequence = delta.get("stop_sequence")
        elif kind == "message_stop":
            self.done = True
            return [Finish(self._stop, anthropic_usage(*self._usages), self._sequence)]
        elif kind == "error":
            return [Fail(error_in_200(event.get("error") or {}))]
        return []

    def end(self) -> list[Event]:
        """Only ``message_stop`` ends a message well."""
        return []

    def _open(self, block: dict[str, Any]) -> list[Event]:
        kind = block.get("type")
        self._signature, self._input = "", None
        if kind == "tool_use":
            self._input = block.get("input") or None
            return [Open("call", id=block.get("id", ""), name=block.get("name", ""))]
        if kind == "thinking":
            return [Open("thought")]
        if kind == "redacted_thinking":
            return [Open("sealed", data=block.get("data", ""))]
        opened: list[Event] = [Open("text")]
        if block.get("text"):
            opened.append(More(block["text"]))
        return opened

    def _delta(self, delta: dict[str, Any]) -> list[Event]:
        kind = delta.get("type")
        if kind == "signature_delta":
            self._signature += delta.get("signature", "")
            return []
        text = delta.get(
            {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}.get(
                kind or "", ""
            ),
            "",
        )
        if kind == "input_json_delta" and text:
            self._input = None
        return [More(text)] if text else []

    def _close(self) -> list[Event]:
        out: list[Event] = []
        if self._input:  # the whole input came with the block's start
            out.append(More(msgspec.json.encode(self._input).decode()))
            self._input = None
        out.append(Close(self._signature or None))
        return out


class Writer:
    """From neutral events to Anthropic's."""

    def __init__(self, model: str, request_id: str = "") -> None:
        self._model = model
        self._request_id = request_id
        self._index = -1
        self._kind = ""
        self._got_arguments = False

    def write(self, event: Event) -> bytes:
        """Bytes for the caller."""
        if isinstance(event, Begin):
            return self._begin(event)
        if isinstance(event, Open):
            return self._open(event)
        if isinstance(event, More):
            return self._more(event.text)
        if isinstance(event, Close):
            return self._close(event)
        if isinstance(event, Finish):
            return self._finish(event)
        assert isinstance(event, Fail)
        failure = event.failure
        return error_event("anthropic", failure.status, failure.message, code=failure.code, request_id=self._request_id)

    def _begin(self, event: Begin) -> bytes:
        message: dict[str, Any] = {
            "id": event.id or "msg_llmops",
            "type": "message",
            "role": "assistant",
            "model": event.model or self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": as_anthropic(event.usage) | {"output_tokens": max(1, event.usage.output_tokens)},
        }
        return _event("message_start", {"message": message})

    def _open(self, event: Open) -> bytes:
        out = b""
        if event.kind == "call" and event.signature:
            sealed = pack_signatures([ToolCall(event.id, event.name, "", event.signature)])
            assert sealed is not None
            out = self._block({"type": "redacted_thinking", "data": sealed.data}) + self._stop()
        self._kind, self._got_arguments = event.kind, False
        block: dict[str, Any] = {"type": "text", "text": ""}
        if event.kind == "call":
            block = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
        elif event.kind == "thought":
            block = {"type": "thinking", "thinking": "", "signature": ""}
        elif event.kind == "sealed":
            block = {"type": "redacted_thinking", "data": event.data}
        return out + self._block(block)

    def _more(self, text: str) -> bytes:
        if self._kind == "call":
            self._got_arguments = True
            return self._delta({"type": "input_json_delta", "partial_json": text})
        if self._kind == "thought":
            return self._delta({"type": "thinking_delta", "thinking": text})
        return self._delta({"type": "text_delta", "text": text})

    def _close(self, event: Close) -> bytes:
        out = b""
        if self._kind == "thought":
            out = self._delta({"type": "signature_delta", "signature": event.signature or ""})
        elif self._kind == "call" and not self._got_arguments:
            out = self._delta({"type": "input_json_delta", "partial_json": ""})
        self._kind = ""
        return out + self._stop()

    def _finish(self, event: Finish) -> bytes:
        delta = {"stop_reason": FINISH[event.stop], "stop_sequence": event.stop_sequence}
        usage = as_anthropic(event.usage or Usage())
        return _event("message_delta", {"delta": delta, "usage": usage}) + _event("message_stop", {})

    def _block(self, block: dict[str, Any]) -> bytes:
        self._index += 1
        return _event("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _stop(self) -> bytes:
        return _event("content_block_stop", {"index": self._index})


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode({"type": name, **fields}))
