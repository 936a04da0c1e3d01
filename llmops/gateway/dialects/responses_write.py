"""OpenAI Responses written: answers and streams for callers, from the neutral form."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from llmops.gateway.dialects.ir import (
    Answer,
    Begin,
    Close,
    Event,
    Finish,
    More,
    Open,
    Part,
    Refused,
    Sealed,
    StopReason,
    Text,
    Thought,
    ToolCall,
)
from llmops.gateway.dialects.responses_sealed import pack, pack_signature
from llmops.gateway.dialects.usage import as_responses
from llmops.gateway.refusal import error_type
from llmops.masking import mask

_INCOMPLETE: Final[dict[StopReason, str]] = {
    "length": "max_output_tokens",
    "context": "max_output_tokens",
    "filter": "content_filter",
    "refusal": "content_filter",
}
# What a response repeats of its request, and what stands there when the request does not say it.
_REPEATED: Final[dict[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
}


def write_response(answer: Answer, asked: dict[str, Any]) -> dict[str, Any]:
    """A whole response object to the request ``asked``."""
    output: list[dict[str, Any]] = []
    for index, part in enumerate(answer.parts):
        if isinstance(part, (Text, Refused)) and output and output[-1]["type"] == "message":
            output[-1]["content"].append(_content_part(part))
            continue
        if isinstance(part, ToolCall) and part.signature:
            output.append(_proof(part.id, part.signature, f"{answer.id}_{index}_proof"))
        output.append(_item(part, f"{answer.id}_{index}"))
    return _response(answer.id, answer.model, output, answer.stop, answer, asked=asked)


def _response(
    response_id: str,
    model: str,
    output: list[dict[str, Any]],
    stop: StopReason | None,
    final: Answer | Finish | None,
    *,
    asked: dict[str, Any],
) -> dict[str, Any]:
    incomplete = _INCOMPLETE.get(stop) if stop is not None else None
    usage = final.usage if final is not None else None
    return {
        **{name: asked.get(name, default) for name, default in _REPEATED.items()},
        "id": f"resp_{response_id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress" if stop is None else "incomplete" if incomplete else "completed",
        "error": None,
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "model": model,
        "output": output,
        "usage": as_responses(usage) if usage is not None else None,
    }


def _content_part(part: Text | Refused) -> dict[str, Any]:
    if isinstance(part, Refused):
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": []}


def _item(part: Part, item_id: str) -> dict[str, Any]:
    if isinstance(part, ToolCall):
        call = {"call_id": part.id, "name": part.name, "arguments": part.arguments}
        return {"type": "function_call", "id": f"fc_{item_id}", "status": "completed", **call}
    if isinstance(part, (Thought, Sealed)):
        summary = [{"type": "summary_text", "text": part.text}] if isinstance(part, Thought) else []
        sealed = pack(part)
        more = {"encrypted_content": sealed} if sealed is not None else {}
        return {"type": "reasoning", "id": f"rs_{item_id}", "summary": summary, **more}
    content = [_content_part(part)] if isinstance(part, (Text, Refused)) else []
    return {"type": "message", "id": f"msg_{item_id}", "status": "completed", "role": "assistant", "content": content}


def _proof(call_id: str, signature: str, item_id: str) -> dict[str, Any]:
    """An item that carries the signature of the call after it, for clients that send the whole output back."""
    sealed = pack_signature(call_id, signature)
    return {"type": "reasoning", "id": f"rs_{item_id}", "summary": [], "encrypted_content": sealed}


class Writer:
    """From neutral events to the events of a Responses stream."""

    def __init__(self, model: str, asked: dict[str, Any]) -> None:
        self._model = model
        self._asked = asked
        self._id = ""
        self._number = -1
        self._output: list[dict[str, Any]] = []
        self._open: Open | None = None
        self._text = ""

    def write(self, event: Event) -> bytes:
        """Bytes for the caller."""
        if isinstance(event, Begin):
            self._id, self._model = event.id or "llmops", event.model or self._model
            response = _response(self._id, self._model, [], None, None, asked=self._asked)
            return self._event("created", response=response) + self._event("in_progress", response=response)
        if isinstance(event, Open):
            return self._begin_item(event)
        if isinstance(event, More):
            return self._more(event.text)
        if isinstance(event, Close):
            return self._end_item(event.signature)
        if isinstance(event, Finish):
            response = _response(self._id, self._model, self._output, event.stop, event, asked=self._asked)
            return self._event("incomplete" if response["status"] == "incomplete" else "completed", response=response)
        failure = event.failure
        self._number += 1
        body = {
            "type": "error",
            "sequence_number": self._number,
            "code": failure.code or error_type(failure.status, "openai"),
            "message": mask(failure.message),
            "param": None,
        }
        return b"event: error\ndata: " + msgspec.json.encode(body) + b"\n\n"

    def _begin_item(self, event: Open) -> bytes:
        out = b""
        if event.kind == "call" and event.signature:
            proof = _proof(event.id, event.signature, f"{self._id}_{len(self._output)}")
            for name in ("added", "done"):
                out += self._event(f"output_item.{name}", output_index=len(self._output), item=proof)
            self._output.append(proof)
        self._open, self._text = event, ""
        item = self._present("in_progress")
        if item["type"] == "message":
            item["content"] = []
        out += self._event("output_item.added", output_index=len(self._output), item=item)
        if event.kind in ("text", "refusal"):
            out += self._part_event("content_part.added", part=_content_part(self._part()))
        return out

    def _more(self, text: str) -> bytes:
        self._text += text
        assert self._open is not None
        kind = self._open.kind
        if kind == "call":
            return self._item_event("function_call_arguments.delta", delta=text)
        if kind == "thought":
            return self._item_event("reasoning_summary_text.delta", summary_index=0, delta=text)
        name = "refusal.delta" if kind == "refusal" else "output_text.delta"
        return self._part_event(name, delta=text, **({} if kind == "refusal" else {"logprobs": []}))

    def _end_item(self, signature: str | None) -> bytes:
        assert self._open is not None
        kind, out = self._open.kind, b""
        if kind == "call":
            out = self._item_event("function_call_arguments.done", name=self._open.name, arguments=self._text)
        elif kind == "thought":
            out = self._item_event("reasoning_summary_text.done", summary_index=0, text=self._text)
        elif kind in ("text", "refusal"):
            done = {"text": self._text, "logprobs": []} if kind == "text" else {"refusal": self._text}
            out = self._part_event("output_text.done" if kind == "text" else "refusal.done", **done)
            out += self._part_event("content_part.done", part=_content_part(self._part()))
        item = self._present("completed", signature)
        out += self._event("output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None
        return out

    def _part(self) -> Text | Refused:
        return Refused(self._text) if self._open is not None and self._open.kind == "refusal" else Text(self._text)

    def _present(self, status: str, signature: str | None = None) -> dict[str, Any]:
        """The open item as it stands."""
        assert self._open is not None
        part: Part = self._part()
        if self._open.kind == "call":
            part = ToolCall(self._open.id, self._open.name, self._text)
        elif self._open.kind in ("thought", "sealed"):
            part = Thought(self._text, signature) if self._open.kind == "thought" else Sealed(self._open.data)
        item = _item(part, f"{self._id}_{len(self._output)}")
        if "status" in item:
            item["status"] = status
        return item

    def _item_event(self, name: str, /, **fields: Any) -> bytes:
        return self._event(name, item_id=self._present("")["id"], output_index=len(self._output), **fields)

    def _part_event(self, name: str, /, **fields: Any) -> bytes:
        return self._item_event(name, content_index=0, **fields)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        self._number += 1
        body = msgspec.json.encode({"type": f"response.{name}", "sequence_number": self._number, **fields})
        return b"event: response.%b\ndata: %b\n\n" % (name.encode(), body)
