"""One answer of the truth server: its tokens by a seeded schedule, with every quirk and fault of real servers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truth_wire import Wire


class Stream:
    """One answer."""

    def __init__(self, wire: Wire, entry: dict, asked: dict) -> None:
        self.wire, self.entry, self.asked = wire, entry, asked
        self.server, self.config = wire.server, wire.server.config
        self.total = self.config.tokens or asked.get("max_tokens") or asked.get("max_completion_tokens") or 16
        self.done = 0
        self.held: list[bytes] = []
        self.unsent: list[bool] = []  # token events not yet written, and whether each is visible
        self.number = len(self.server.requests)
        self.prompt_tokens = self._prompt_tokens()

    def _prompt_tokens(self) -> int:
        messages = self.asked.get("messages") or [{"content": self.asked.get("prompt", "")}]
        contents = [message["content"] for message in messages]
        parts = [
            part if isinstance(part, str) else part.get("text", "")
            for c in contents
            for part in ([c] if isinstance(c, str) else c)
        ]
        words = sum(len(part.split()) for part in parts)
        return round(self.config.prompt_fixed + self.config.prompt_per_word * words)

    @property
    def api(self) -> str:
        path = self.entry["path"]
        return "messages" if path.endswith("messages") else "chat" if "chat" in path else "completions"

    def begin(self) -> None:
        config = self.config
        fault = config.fault if config.fault and self.number % config.fault_every == 0 else ""
        if fault and self.fault(fault):
            return
        if not self.asked.get("stream"):
            wait = self.server.drawn(config.ttft_ms) + sum(
                self.server.drawn(config.gap_ms) for _ in range(self.total - 1)
            )
            self.server.at(self.entry["recv_ns"] + wait, self.whole)
            return
        close = b"Connection: close\r\n" if config.close == "header" else b""
        self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n" + close + b"\r\n"
        )
        if config.role == "receipt" and self.api == "chat":
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        if self.api == "messages":
            start = {
                "type": "message_start",
                "message": {"usage": {"input_tokens": self.prompt_tokens, "output_tokens": 1}},
            }
            self.event(start)
        if config.comments:
            self.packet(b": keep-alive" + self.blank)
        self.server.at(time.monotonic_ns() + self.server.drawn(config.ttft_ms), self.token)

    def fault(self, name: str) -> bool:
        """True when the answer is over with it."""
        if name == "reset":
            self.wire.reset()
        elif name == "close":
            self.wire.close()
        elif name.isdigit():
            self.wire.json({"error": {"message": f"truth says {name}"}}, b"%s Fault" % name.encode())
        elif name == "garbage":
            self.wire.write(b"SSH-2.0-nothing\r\n\r\n")
        elif name == "hang":
            pass
        else:
            self.total = (
                max(2, self.total // 2) if name in ("cut", "error-event", "error-string", "no-finish") else self.total
            )
            self.late_fault = name
            return False
        self.server.finished()
        return True

    late_fault = ""

    def token(self) -> None:
        config = self.config
        if self.wire.closed:
            self.server.finished()
            return
        if self.late_fault == "empty":
            self.end()
            return
        count = min(config.first_chunk if self.done == 0 else config.per_chunk, self.total - self.done)
        delta = self.delta(count)
        self.done += count
        last = self.done >= self.total
        chunk = self.chunk(delta, "length" if last and config.finish == "last" else None)
        if config.usage == "continuous":
            chunk["usage"] = self.usage(self.done)
        self.entry["tokens"].append(count)
        self.unsent.append("reasoning" not in json.dumps(delta))
        self.event(chunk, flush=last)
        if not last:
            self.server.at(time.monotonic_ns() + self.server.drawn(config.gap_ms), self.token)
        elif config.late_ms:
            self.server.at(time.monotonic_ns() + round(config.late_ms * 1e6), self.end)
        else:
            self.end()

    def delta(self, count: int) -> dict:
        if self.api == "messages":
            kind = ("thinking_delta", "thinking") if self.done < self.config.reasoning else ("text_delta", "text")
            return {"type": kind[0], kind[1]: self.config.text * count}
        if self.done < self.config.reasoning:
            return {self.config.reasoning_field: "hm " * count}
        if self.config.tool_call:
            return {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]}
        delta = {"content": self.config.text * count}
        if self.done == 0 and self.config.role == "first":
            delta["role"] = "assistant"
        return delta

    def chunk(self, delta: dict, finish: str | None) -> dict:
        if self.api == "messages":
            return {"type": "content_block_delta", "index": 0, "delta": delta}
        if self.api == "completions":
            return {"choices": [{"index": 0, "text": delta.get("content", ""), "finish_reason": finish}]}
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    def usage(self, tokens: int) -> dict:
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": tokens}

    def end(self) -> None:
        if self.wire.closed:
            self.server.finished()
            return
        config, fault = self.config, self.late_fault
        if fault == "cut":
            self.wire.close()
            self.server.finished()
            return
        if fault in ("error-event", "error-string"):
            words = (
                {"error": {"message": "engine died", "code": 500}}
                if fault == "error-event"
                else {"error": "engine died"}
            )
            self.event(words)
        elif fault != "no-finish":
            self.finish_events()
        self.packet(b"", last=True)
        self.entry["end_ns"] = time.monotonic_ns()
        self.wire.answered += 1
        if config.close == "header":
            self.wire.close()
        self.server.finished()

    def finish_events(self) -> None:
        config = self.config
        counted = self.total + (5 if config.usage == "wrong" else 0)
        if self.api == "messages":
            if config.finish != "none":
                self.event(
                    {
                        "type": "message_delta",
                        "delta": {"stop_reason": "max_tokens"},
                        "usage": {"output_tokens": counted},
                    }
                )
                self.event({"type": "message_stop"})
            return
        if config.finish == "chunk":
            self.event(self.chunk({}, "length"))
        if config.usage in ("final", "wrong", "continuous"):
            self.event({"choices": [], "usage": self.usage(counted)})
        if config.done:
            self.packet(b"data: [DONE]" + self.blank)

    def whole(self) -> None:
        text = self.config.text * self.total
        message = {
            "choices": [{"message": {"role": "assistant", "content": text}, "text": text, "finish_reason": "length"}]
        }
        if self.api == "messages":
            message = {"type": "message", "content": [{"type": "text", "text": text}], "stop_reason": "max_tokens"}
            message["usage"] = {"input_tokens": self.prompt_tokens, "output_tokens": self.total}
        else:
            message["usage"] = self.usage(self.total)
        body = json.dumps(message).encode()
        self.entry["end_ns"] = time.monotonic_ns()
        self.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.wire.answered += 1
        self.server.finished()

    # The wire

    @property
    def blank(self) -> bytes:
        return b"\r\n\r\n" if self.config.crlf else b"\n\n"

    def event(self, fields: dict, *, flush: bool = False) -> None:
        if "choices" in fields:
            kind = "chat.completion.chunk" if self.api == "chat" else "text_completion"
            fields = {"id": f"truth-{self.number}", "object": kind, "created": 1, "model": "truth", **fields}
        line = b"data: " + json.dumps(fields, ensure_ascii=False).encode()
        if self.api == "messages":
            line = b"event: %s%s" % (fields.get("type", "error").encode(), self.blank[: len(self.blank) // 2]) + line
        if self.config.comments:
            line = b": note" + self.blank[: len(self.blank) // 2] + line
        self.packet(line + self.blank, hold=not flush)

    def packet(self, data: bytes, *, hold: bool = False, last: bool = False) -> None:
        self.held.append(data)
        if hold and len(self.held) < self.config.pack:
            return
        data, self.held = b"".join(self.held), []
        framed = (b"%x\r\n%s\r\n" % (len(data), data) if data else b"") + (b"0\r\n\r\n" if last else b"")
        at_ns = self.write(framed)
        for visible in self.unsent:
            self.entry["sent_ns"].append(at_ns)
            if visible and self.entry["visible_ns"] is None:
                self.entry["visible_ns"] = at_ns
        self.unsent = []

    def write(self, data: bytes) -> int:
        size = self.config.split or len(data)
        now = time.monotonic_ns()
        for start in range(0, len(data), size):
            now = self.wire.write(data[start : start + size])
        return now
