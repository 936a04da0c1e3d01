"""Secrets in the events of a stream, in each dialect that a caller speaks, though they be split over many events.

Every text of a stream (a choice's content, a block, the arguments of a tool call) has a scanner of its own. What a
scanner holds back goes out with the event that ends its text, or in one event more before that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from llmops.gateway.guard.secret_rules import find, redact
from llmops.gateway.guard.secret_stream import SecretStream
from llmops.http1 import event_data, event_type

Key = tuple[Any, ...]
_CHAT_TEXTS: Final = ("content", "reasoning_content", "reasoning", "refusal")
_BLOCK_TEXTS: Final = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
_PLACE: Final = ("item_id", "output_index", "content_index", "summary_index")
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.encode


class StreamEvents:
    """Takes whole events of a caller's stream and returns what may be sent on.

    Args:
        scanner: Makes a scanner for one text.
        dialect: ``chat`` (and classic completions), ``messages`` or ``responses``.

    Attributes:
        found: Names of the rules that matched so far, in order, repetitions too.
        news: Whether ``take_news`` has any.
        blocked: The stream must end here; nothing more is let through.
    """

    def __init__(self, scanner: Callable[[], SecretStream], dialect: str) -> None:
        self._scanner = scanner
        self._action = scanner().action
        self._read = {"messages": self._messages, "responses": self._responses}.get(dialect, self._chat)
        self._texts: dict[Key, SecretStream] = {}
        self._newest: dict[object, Key] = {}
        self._head: dict[str, Any] = {}
        self._inserted = 0
        self._told = 0
        self.found: list[str] = []
        self.blocked = False

    @property
    def news(self) -> bool:
        """See the class."""
        return len(self.found) > self._told

    def take_news(self) -> list[str]:
        """Rules that matched since the last time."""
        fresh = self.found[self._told :]
        self._told = len(self.found)
        return fresh

    def feed(self, events: bytes) -> bytes:
        """Look at whole events; returns those to send, some of them changed."""
        return b"".join(self._event(block) for block in events.split(b"\n\n") if block and not self.blocked)

    def _event(self, block: bytes) -> bytes:
        data = event_data(block)
        if data is None:
            return block + b"\n\n"
        if data == b"[DONE]":
            return self._rest_of_chat() + block + b"\n\n"
        try:
            event = _decode(data)
        except (msgspec.DecodeError, RecursionError):
            return block + b"\n\n"
        if not isinstance(event, dict):
            return block + b"\n\n"
        before, changed = self._read(event)
        if self.blocked:
            return before
        return before + (_written(block, event) if changed else block + b"\n\n")

    # ---- one text ----

    def _scan(self, key: Key, holder: Any, name: str) -> bool:
        """Replace one delta by what may be sent of it; whether that changed it."""
        text = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(text, str) or not text:
            return False
        stream = self._texts.get(key)
        if stream is None:
            stream = self._texts[key] = self._scanner()
        sent = stream.feed(text)
        if stream.found:
            self._note(stream)
        if sent == text:
            return False
        holder[name] = sent
        return True

    def _rest(self, key: Key) -> str:
        """What is held back of a text that is over."""
        stream = self._texts.get(key)
        if stream is None:
            return ""
        rest = stream.finish()
        if stream.found:
            self._note(stream)
        return rest

    def _note(self, stream: SecretStream) -> None:
        self.found += stream.found
        stream.found.clear()
        self.blocked = self.blocked or stream.blocked

    def _scan_whole(self, event: dict[str, Any]) -> bool:
        """An event that repeats a whole text, or brings one at once."""
        raw = _encode(event)
        hits = find(raw)
        if not hits:
            return False
        self.found += [hit.rule for hit in hits]
        if self._action == "block":
            self.blocked = True
        if self._action != "redact":
            return False
        fresh = _decode(redact(raw, hits))
        event.clear()
        event.update(fresh)
        return True

    # ---- OpenAI's chat and completions ----

    def _chat(self, event: dict[str, Any]) -> tuple[bytes, bool]:
        changed = False
        self._head = {name: event[name] for name in ("id", "object", "created", "model") if name in event}
        for choice in event.get("choices") or ():
            if isinstance(choice, dict) and self._choice(choice):
                changed = True
                if choice.get("logprobs"):
                    choice["logprobs"] = None  # they spell the text once more
        return b"", changed

    def _choice(self, choice: dict[str, Any]) -> bool:
        number = choice.get("index", 0)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            changed = self._scan((number, "text"), choice, "text")
            if choice.get("finish_reason") is not None:
                rest = self._rest((number, "text"))
                choice["text"] = (choice.get("text") or "") + rest
                changed = changed or bool(rest)
            return changed
        changed = False
        pieces: list[tuple[Key, Any, str]] = [((number, name), delta, name) for name in _CHAT_TEXTS if delta.get(name)]
        pieces += [
            ((number, "call", call.get("index", 0)), call.get("function"), "arguments")
            for call in delta.get("tool_calls") or ()
            if isinstance(call, dict)
        ]
        for key, holder, name in pieces:
            newest = self._newest.get(number)
            if newest not in (None, key):  # the text before is over: what was held of it comes first
                changed = self._append(delta, newest) or changed
            self._newest[number] = key
            changed = self._scan(key, holder, name) or changed
        if choice.get("finish_reason") is not None and number in self._newest:
            changed = self._append(delta, self._newest[number]) or changed
        return changed

    def _append(self, delta: dict[str, Any], key: Key | None) -> bool:
        """Add what is held of a text to a delta."""
        rest = self._rest(key) if key is not None else ""
        if not rest or key is None:
            return False
        if key[1] == "call":
            calls = delta["tool_calls"] = list(delta.get("tool_calls") or ())
            same = next((each for each in calls if each.get("index", 0) == key[2]), None)
            if same is None:
                calls.insert(0, {"index": key[2], "function": {"arguments": rest}})
            else:
                function = same.setdefault("function", {})
                function["arguments"] = (function.get("arguments") or "") + rest
        else:
            delta[key[1]] = (delta.get(key[1]) or "") + rest
        return True

    def _rest_of_chat(self) -> bytes:
        """A stream that ends without a finish reason: what is held, as one chunk more."""
        out = b""
        for number, key in self._newest.items():
            delta: dict[str, Any] = {}
            if self._append(delta, key):
                row = {**self._head, "choices": [{"index": number, "delta": delta, "finish_reason": None}]}
                out += b"data: " + _encode(row) + b"\n\n"
        return out

    # ---- Anthropic's messages ----

    def _messages(self, event: dict[str, Any]) -> tuple[bytes, bool]:
        kind, index = event.get("type"), event.get("index")
        if kind == "content_block_delta":
            delta = event.get("delta")
            name = _BLOCK_TEXTS.get(delta.get("type", "")) if isinstance(delta, dict) else None
            if name is None:
                return b"", False
            self._newest[index] = (index, name)
            return b"", self._scan((index, name), delta, name)
        if kind == "content_block_stop":
            key = self._newest.get(index)
            rest = self._rest(key) if key is not None else ""
            if rest and key is not None:
                kind_of = next(kind for kind, name in _BLOCK_TEXTS.items() if name == key[1])
                more = {"type": "content_block_delta", "index": index, "delta": {"type": kind_of, key[1]: rest}}
                return b"event: content_block_delta\ndata: " + _encode(more) + b"\n\n", False
            return b"", False
        return b"", kind == "content_block_start" and self._scan_whole(event)

    # ---- OpenAI's responses ----

    def _responses(self, event: dict[str, Any]) -> tuple[bytes, bool]:
        kind = str(event.get("type", ""))
        before = b""
        if kind.endswith(".delta"):
            changed = self._scan((kind, *(event.get(name) for name in _PLACE)), event, "delta")
            if changed and event.get("logprobs"):
                event["logprobs"] = []
        else:
            place: dict[str, Any] = {name: event[name] for name in _PLACE if name in event}
            of = kind.removesuffix(".done") + ".delta"
            rest = self._rest((of, *(event.get(name) for name in _PLACE))) if kind.endswith(".done") else ""
            if rest:
                number = event.get("sequence_number", 0) + self._inserted
                more = {"type": of, "sequence_number": number, **place, "delta": rest}
                before = b"event: %b\ndata: %b\n\n" % (of.encode(), _encode(more))
                self._inserted += 1
            changed = self._action != "log" and self._scan_whole(event)  # it repeats what came in pieces
        if self._inserted and isinstance(event.get("sequence_number"), int):
            event["sequence_number"] += self._inserted
            changed = True
        return before, changed


def _written(block: bytes, event: dict[str, Any]) -> bytes:
    """An event with its name, as it was, and new data."""
    name = event_type(block)
    return (b"event: %b\n" % name if name else b"") + b"data: " + _encode(event) + b"\n\n"
