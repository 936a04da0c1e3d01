"""OpenAI Chat Completions streams, read and written."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from llmops.gateway.dialects.ir import Begin, Close, Event, Fail, Finish, More, Open, StopReason
from llmops.gateway.dialects.openai_read import STOP
from llmops.gateway.dialects.openai_write import FINISH
from llmops.gateway.dialects.usage import as_openai, openai_usage
from llmops.gateway.dialects.wire import error_in_200
from llmops.gateway.refusal import error_event
from llmops.gateway.resilience import Failure
from llmops.prices import Usage


class Reader:
    """From chunks to neutral events."""

    def __init__(self, estimate: Usage) -> None:
        self._estimate = estimate
        self._begun = False
        self._kind = ""
        self._calls_seen: list[int] = []
        self._arguments = ""  # of the open call
        self._waiting: dict[int, tuple[Open, list[str]]] = {}
        self._stop: StopReason | None = None
        self._usage: Usage | None = None
        self.done = False

    def read(self, _name: bytes | None, data: bytes) -> list[Event]:
        """One event of the upstream."""
        if data == b"[DONE]":
            return self._finish()
        chunk = msgspec.json.decode(data)
        if chunk.get("error") is not None:
            return [Fail(error_in_200(chunk["error"]))]
        out: list[Event] = []
        if not self._begun:
            self._begun = True
            out.append(Begin(chunk.get("id") or "", chunk.get("model") or "", self._estimate))
        if chunk.get("usage"):
            self._usage = openai_usage(msgspec.json.encode(chunk["usage"]))
        for choice in (chunk.get("choices") or ())[:1]:
            self._delta(choice.get("delta") or {}, (choice.get("logprobs") or {}).get("content"), out)
            if choice.get("finish_reason"):
                self._stop = STOP.get(choice["finish_reason"], "stop")
        return out

    def end(self) -> list[Event]:
        """The stream is over: good when a finish reason came, though without [DONE]."""
        return self._finish() if self._stop is not None and not self.done else []

    def _finish(self) -> list[Event]:
        self.done = True
        out: list[Event] = []
        self._close(out)
        self._flush(out)
        stop = self._stop or "stop"
        out.append(Finish("tool" if stop == "stop" and self._calls_seen else stop, self._usage))
        return out

    def _delta(self, delta: dict[str, Any], logprobs: list[dict[str, Any]] | None, out: list[Event]) -> None:
        for kind, text in (
            ("thought", delta.get("reasoning_content") or delta.get("reasoning")),
            ("text", delta.get("content")),
            ("refusal", delta.get("refusal")),
        ):
            if text:
                if self._kind != kind:
                    self._close(out)
                    self._kind = kind
                    out.append(Open(kind))  # type: ignore[arg-type]  # one of the three words above
                out.append(More(text, logprobs))
        for call in delta.get("tool_calls") or ():
            self._call(call, out)

    def _call(self, call: dict[str, Any], out: list[Event]) -> None:
        """A piece of a tool call. One is open at a time: others that come before it is whole wait for the end."""
        index = call.get("index", len(self._calls_seen))
        function = call.get("function") or {}
        arguments = function.get("arguments") or ""
        if index not in self._calls_seen:
            self._calls_seen.append(index)
            google = (call.get("extra_content") or {}).get("google") or {}
            opened = Open(
                "call",
                id=call.get("id") or f"call_{index}",
                name=function.get("name") or "",
                signature=google.get("thought_signature"),
            )
            if self._kind.startswith("call ") and not _is_whole(self._arguments):
                self._waiting[index] = (opened, [arguments])
                return
            self._close(out)
            self._kind, self._arguments = f"call {index}", ""
            out.append(opened)
        elif index in self._waiting:
            self._waiting[index][1].append(arguments)
            return
        if arguments:
            if self._kind != f"call {index}":
                message = "the upstream sent more of a tool call that was whole"
                out.append(Fail(Failure("protocol", 502, message)))
                return
            self._arguments += arguments
            out.append(More(arguments))

    def _close(self, out: list[Event]) -> None:
        if self._kind:
            out.append(Close())
            self._kind = ""

    def _flush(self, out: list[Event]) -> None:
        """Calls that waited, one after the other."""
        for opened, pieces in self._waiting.values():
            out += [opened, More("".join(pieces)), Close()]
        self._waiting.clear()


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False


class Writer:
    """From neutral events to chunks."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._head: dict[str, Any] = {"id": "", "object": "chat.completion.chunk", "created": 0, "model": model}
        self._kind = ""
        self._calls = -1
        self._thought = ""

    def write(self, event: Event) -> bytes:
        """Bytes for the caller."""
        if isinstance(event, Begin):
            self._head["id"] = event.id or "chatcmpl-llmops"
            self._head["model"] = event.model or self._head["model"]
            self._head["created"] = int(time.time())
            return self._chunk({"role": "assistant", "content": ""})
        if isinstance(event, Open):
            return self._open(event)
        if isinstance(event, More):
            return self._more(event)
        if isinstance(event, Close):
            return self._close(event)
        if isinstance(event, Finish):
            return self._finish(event)
        failure = event.failure
        return error_event("openai", failure.status, failure.message, code=failure.code)

    def _open(self, event: Open) -> bytes:
        self._kind = event.kind
        if event.kind == "call":
            self._calls += 1
            call: dict[str, Any] = {
                "index": self._calls,
                "id": event.id,
                "type": "function",
                "function": {"name": event.name, "arguments": ""},
            }
            if event.signature:
                call["extra_content"] = {"google": {"thought_signature": event.signature}}
            return self._chunk({"tool_calls": [call]})
        if event.kind == "sealed":
            return self._chunk({"thinking_blocks": [{"type": "redacted_thinking", "data": event.data}]})
        self._thought = ""
        return b""

    def _more(self, event: More) -> bytes:
        if self._kind == "call":
            call = {"index": self._calls, "function": {"arguments": event.text}}
            return self._chunk({"tool_calls": [call]})
        if self._kind == "thought":
            self._thought += event.text
            return self._chunk({"reasoning_content": event.text})
        name = "refusal" if self._kind == "refusal" else "content"
        logprobs = {"content": event.logprobs, "refusal": None} if event.logprobs is not None else None
        return self._chunk({name: event.text}, logprobs=logprobs)

    def _close(self, event: Close) -> bytes:
        kind, self._kind = self._kind, ""
        if kind == "thought" and event.signature:
            block = {"type": "thinking", "thinking": self._thought, "signature": event.signature}
            return self._chunk({"thinking_blocks": [block]})
        return b""

    def _finish(self, event: Finish) -> bytes:
        out = self._chunk({}, finish=FINISH[event.stop])
        if self._include_usage and event.usage is not None:
            out += self._row({"choices": [], "usage": as_openai(event.usage)})
        return out + b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
        return self._row({"choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]})

    def _row(self, more: dict[str, Any]) -> bytes:
        return b"data: " + msgspec.json.encode({**self._head, **more}) + b"\n\n"
