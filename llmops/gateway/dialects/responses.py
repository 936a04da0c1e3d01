"""OpenAI Responses, stateless: requests read, answers and streams written."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from llmops.gateway.dialects.ir import (
    Answer,
    Begin,
    Chat,
    Close,
    Event,
    File,
    Finish,
    Message,
    More,
    Open,
    Part,
    Refused,
    Sealed,
    StopReason,
    Text,
    Thought,
    Tool,
    ToolCall,
    ToolResult,
)
from llmops.gateway.dialects.openai_read import image_from_url, read_format, read_tool_choice
from llmops.gateway.dialects.usage import as_responses
from llmops.gateway.refusal import Refusal, error_type
from llmops.masking import mask

_KNOWN: Final = frozenset(
    {
        "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens",
        "temperature", "top_p", "text", "reasoning", "user", "stream", "store", "stream_options",
    }
)  # fmt: skip
_STATEFUL: Final = ("previous_response_id", "conversation", "background", "prompt")
_INCOMPLETE: Final[dict[StopReason, str]] = {
    "length": "max_output_tokens",
    "context": "max_output_tokens",
    "filter": "content_filter",
    "refusal": "content_filter",
}


def read_request(body: dict[str, Any]) -> Chat:
    """A Responses request.

    Raises:
        Refusal: 400: it is malformed, or needs state that a gateway does not keep.
    """
    for name in _STATEFUL:
        if body.get(name):
            raise Refusal(
                400, f"{name!r} needs stored responses, which this model's provider does not keep; send the whole input",
                code="stateless", param=name,
            )  # fmt: skip
    chat = Chat(model=body.get("model", ""), stream=bool(body.get("stream")))
    if body.get("instructions"):
        chat.system.append(Text(body["instructions"]))
    source = body.get("input")
    items = [{"role": "user", "content": source}] if isinstance(source, str) else source
    if not isinstance(items, list) or not items:
        raise Refusal(400, "'input' must be text or a list of items", param="input")
    for index, item in enumerate(items):
        _read_item(chat, item, f"input[{index}]")
    for index, tool in enumerate(body.get("tools") or ()):
        if tool.get("type") != "function":
            raise Refusal(400, f"tools[{index}]: only functions can be sent to this model", param=f"tools[{index}]")
        schema = tool.get("parameters") or {"type": "object", "properties": {}}
        chat.tools.append(Tool(tool.get("name", ""), tool.get("description"), schema, tool.get("strict")))
    chat.tool_choice = read_tool_choice(body.get("tool_choice"))
    chat.parallel = body.get("parallel_tool_calls")
    chat.max_tokens, chat.user = body.get("max_output_tokens"), body.get("user")
    chat.temperature, chat.top_p = body.get("temperature"), body.get("top_p")
    chat.format = read_format((body.get("text") or {}).get("format"))
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    chat.effort = reasoning.get("effort")
    chat.notes += [f"reasoning.{name}" for name in reasoning if name != "effort" and reasoning[name] is not None]
    chat.notes += [f"text.{name}" for name in text if name != "format" and text[name] is not None]
    chat.extra = {name: value for name, value in body.items() if name not in _KNOWN}
    return chat


def _read_item(chat: Chat, item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise Refusal(400, f"{where} must be an object", param=where)
    kind = item.get("type") or "message"
    if kind == "message":
        _read_message(chat, item, where)
    elif kind == "function_call":
        call = ToolCall(item.get("call_id", ""), item.get("name", ""), item.get("arguments") or "{}")
        _add(chat, "assistant", [call])
    elif kind == "function_call_output":
        output = item.get("output", "")
        parts = _read_content(output, f"{where}.output")
        _add(chat, "user", [ToolResult(item.get("call_id", ""), parts)])
    elif kind == "reasoning":
        return  # another provider's reasoning, sealed for it alone
    else:
        raise Refusal(400, f"{where}.type {kind!r} cannot be sent to this model", param=f"{where}.type")


def _read_message(chat: Chat, item: dict[str, Any], where: str) -> None:
    role = item.get("role")
    parts = _read_content(item.get("content"), f"{where}.content")
    if role in ("system", "developer"):
        chat.system += [part for part in parts if isinstance(part, Text)]
    elif role in ("user", "assistant"):
        _add(chat, role, parts)
    else:
        raise Refusal(400, f"{where}.role must be system, developer, user or assistant", param=f"{where}.role")


def _read_content(content: Any, where: str) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)]
    parts: list[Part] = []
    for index, part in enumerate(content or ()):
        kind = part.get("type")
        if kind in ("input_text", "output_text", "text"):
            parts.append(Text(part.get("text", "")))
        elif kind == "refusal":
            parts.append(Refused(part.get("refusal", "")))
        elif kind == "input_image" and part.get("image_url"):
            parts.append(image_from_url(part["image_url"], f"{where}[{index}]"))
        elif kind == "input_file" and part.get("file_data"):
            media, _, data = part["file_data"].removeprefix("data:").partition(";base64,")
            parts.append(File(media, data, name=part.get("filename")))
        else:
            raise Refusal(400, f"{where}[{index}].type {kind!r} cannot be sent to this model", param=where)
    return parts


def _add(chat: Chat, role: Any, parts: list[Part]) -> None:
    if chat.messages and chat.messages[-1].role == role:
        chat.messages[-1].parts += parts
    else:
        chat.messages.append(Message(role, parts))


# ---- answers ----


def write_response(answer: Answer) -> dict[str, Any]:
    """A whole response object."""
    output: list[dict[str, Any]] = []
    for index, part in enumerate(answer.parts):
        if isinstance(part, (Text, Refused)) and output and output[-1]["type"] == "message":
            output[-1]["content"].append(_content_part(part))
        else:
            output.append(_item(part, f"{answer.id}_{index}"))
    return _response(answer.id, answer.model, output, answer.stop, answer)


def _response(
    response_id: str, model: str, output: list[dict[str, Any]], stop: StopReason | None, final: Answer | Finish | None
) -> dict[str, Any]:
    incomplete = _INCOMPLETE.get(stop) if stop is not None else None
    usage = final.usage if final is not None else None
    return {
        "id": f"resp_{response_id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress" if stop is None else "incomplete" if incomplete else "completed",
        "error": None,
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
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
        return {"type": "reasoning", "id": f"rs_{item_id}", "summary": summary}
    content = [_content_part(part)] if isinstance(part, (Text, Refused)) else []
    return {"type": "message", "id": f"msg_{item_id}", "status": "completed", "role": "assistant", "content": content}


class Writer:
    """From neutral events to the events of a Responses stream."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._id = ""
        self._number = -1
        self._output: list[dict[str, Any]] = []
        self._open: Open | None = None
        self._text = ""

    def write(self, event: Event) -> bytes:
        """Bytes for the caller."""
        if isinstance(event, Begin):
            self._id, self._model = event.id or "llmops", event.model or self._model
            response = _response(self._id, self._model, [], None, None)
            return self._event("created", response=response) + self._event("in_progress", response=response)
        if isinstance(event, Open):
            return self._begin_item(event)
        if isinstance(event, More):
            return self._more(event.text)
        if isinstance(event, Close):
            return self._end_item()
        if isinstance(event, Finish):
            response = _response(self._id, self._model, self._output, event.stop, event)
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
        self._open, self._text = event, ""
        item = self._present("in_progress")
        if item["type"] == "message":
            item["content"] = []
        out = self._event("output_item.added", output_index=len(self._output), item=item)
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

    def _end_item(self) -> bytes:
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
        item = self._present("completed")
        out += self._event("output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None
        return out

    def _part(self) -> Text | Refused:
        return Refused(self._text) if self._open is not None and self._open.kind == "refusal" else Text(self._text)

    def _present(self, status: str) -> dict[str, Any]:
        """The open item as it stands."""
        assert self._open is not None
        part: Part = self._part()
        if self._open.kind == "call":
            part = ToolCall(self._open.id, self._open.name, self._text)
        elif self._open.kind in ("thought", "sealed"):
            part = Thought(self._text) if self._open.kind == "thought" else Sealed("")
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
