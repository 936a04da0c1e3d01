"""OpenAI Chat Completions read: requests of callers and answers of servers, into the neutral form."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from llmops.gateway.dialects.ir import (
    Answer,
    Audio,
    Chat,
    File,
    Format,
    Image,
    Message,
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
from llmops.gateway.dialects.usage import openai_usage
from llmops.gateway.refusal import Refusal

STOP: Final[dict[str, StopReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool",
    "function_call": "tool",
    "content_filter": "filter",
}
_KNOWN: Final = frozenset(
    {
        "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "max_tokens", "max_completion_tokens",
        "temperature", "top_p", "top_k", "stop", "seed", "presence_penalty", "frequency_penalty", "response_format",
        "reasoning_effort", "user", "logprobs", "top_logprobs", "stream", "stream_options", "thinking",
    }
)  # fmt: skip


def read_request(body: dict[str, Any]) -> Chat:
    """A Chat Completions request.

    Raises:
        Refusal: 400: it is malformed, naming the field.
    """
    chat = Chat(model=body.get("model", ""), stream=bool(body.get("stream")))
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "'messages' must be a list with at least one message", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise Refusal(400, f"messages[{index}] must be an object", param=f"messages[{index}]")
        _read_message(chat, message, f"messages[{index}]")
    for index, tool in enumerate(body.get("tools") or ()):
        chat.tools.append(_read_tool(tool, f"tools[{index}]"))
    chat.tool_choice = read_tool_choice(body.get("tool_choice"))
    chat.parallel = body.get("parallel_tool_calls")
    limit = body.get("max_completion_tokens")
    chat.max_tokens = body.get("max_tokens") if limit is None else limit
    chat.temperature, chat.top_p, chat.top_k = body.get("temperature"), body.get("top_p"), body.get("top_k")
    stop = body.get("stop")
    chat.stop = [stop] if isinstance(stop, str) else list(stop or ())
    chat.seed, chat.presence, chat.frequency = (
        body.get("seed"),
        body.get("presence_penalty"),
        body.get("frequency_penalty"),
    )
    chat.format = read_format(body.get("response_format"))
    chat.effort, chat.user, chat.thinking = body.get("reasoning_effort"), body.get("user"), body.get("thinking")
    if body.get("logprobs"):
        chat.logprobs = body.get("top_logprobs") or 0
    chat.extra = {name: value for name, value in body.items() if name not in _KNOWN}
    return chat


def _read_message(chat: Chat, message: dict[str, Any], where: str) -> None:
    role, content = message.get("role"), message.get("content")
    if message.get("name") and role != "function":
        chat.notes.append(f"{where}.name")
    if isinstance(content, list) and any(_wants_detail(part) for part in content):
        chat.notes.append(f"{where} (image detail)")
    if role in ("system", "developer"):
        if chat.messages:
            chat.notes.append(f"{where}.role (moved to the top)")
        chat.system += [part for part in _read_parts(content, where) if isinstance(part, Text)]
    elif role == "user":
        _add(chat, "user", _read_parts(content, where))
    elif role in ("tool", "function"):
        call_id = message.get("tool_call_id") or message.get("name") or ""
        result = ToolResult(call_id, _read_parts(content, where), cache=message.get("cache_control"))
        _add(chat, "user", [result])
    elif role == "assistant":
        _add(chat, "assistant", _read_assistant(message, where))
    else:
        raise Refusal(400, f"{where}.role must be system, developer, user, assistant or tool", param=f"{where}.role")


def _wants_detail(part: Any) -> bool:
    url = part.get("image_url") if isinstance(part, dict) else None
    return isinstance(url, dict) and url.get("detail") not in (None, "auto")


def _add(chat: Chat, role: Any, parts: list[Part]) -> None:
    """Results of parallel tools are one turn, as the other dialects want it."""
    if chat.messages and chat.messages[-1].role == role:
        chat.messages[-1].parts += parts
    else:
        chat.messages.append(Message(role, parts))


def _read_assistant(message: dict[str, Any], where: str) -> list[Part]:
    parts: list[Part] = []
    for block in message.get("thinking_blocks") or ():
        if block.get("type") == "redacted_thinking":
            parts.append(Sealed(block.get("data", "")))
        else:
            parts.append(Thought(block.get("thinking", ""), block.get("signature")))
    parts += _read_parts(message.get("content"), where)
    if message.get("refusal"):
        parts.append(Refused(message["refusal"]))
    calls = message.get("tool_calls") or ()
    old = message.get("function_call")
    if old:
        calls = [{"id": old.get("name", ""), "function": old}]
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise Refusal(400, f"{where}.tool_calls[{index}] must be a function call", param=f"{where}.tool_calls")
        google = (call.get("extra_content") or {}).get("google") or {}
        parts.append(
            ToolCall(
                call.get("id") or function.get("name", ""),
                function.get("name", ""),
                function.get("arguments") or "{}",
                google.get("thought_signature"),
                call.get("cache_control"),
            )
        )
    return parts


def _read_parts(content: Any, where: str) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    if not isinstance(content, list):
        raise Refusal(400, f"{where}.content must be text or a list of parts", param=f"{where}.content")
    return [_read_part(part, f"{where}.content[{index}]") for index, part in enumerate(content)]


def _read_part(part: Any, where: str) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    cache = part.get("cache_control") if isinstance(part, dict) else None
    if kind == "text":
        return Text(part.get("text", ""), cache)
    if kind == "refusal":
        return Refused(part.get("refusal", ""))
    if kind == "image_url":
        url = part.get("image_url")
        return image_from_url(url.get("url", "") if isinstance(url, dict) else str(url), where, cache)
    if kind == "input_audio":
        audio = part.get("input_audio") or {}
        return Audio(audio.get("format", "wav"), audio.get("data", ""))
    if kind == "file":
        return _read_file(part.get("file") or {}, where, cache)
    raise Refusal(400, f"{where}.type {kind!r} is not known", param=f"{where}.type")


def _read_file(file: dict[str, Any], where: str, cache: Any) -> Part:
    data = file.get("file_data")
    if not isinstance(data, str):
        raise Refusal(400, f"{where}: only files with file_data can be sent on", param=f"{where}.file")
    media, _, encoded = data.removeprefix("data:").partition(";base64,")
    if not encoded:
        media, encoded = "application/pdf", data
    return File(media, encoded, name=file.get("filename"), cache=cache)


def image_from_url(url: str, where: str, cache: Any = None) -> Image:
    """An image part from a URL or a data URL."""
    if not url.startswith("data:"):
        return Image(url=url, cache=cache)
    media, _, data = url[5:].partition(";base64,")
    if not data:
        raise Refusal(400, f"{where}: a data URL must be base64", param=where)
    return Image(media=media, data=data, cache=cache)


def _read_tool(tool: Any, where: str) -> Tool:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not function.get("name"):
        raise Refusal(400, f"{where} must be a function with a name", param=where)
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return Tool(
        function["name"], function.get("description"), schema, function.get("strict"), tool.get("cache_control")
    )


def read_tool_choice(choice: Any) -> str | None:
    """OpenAI's ``tool_choice`` in neutral form."""
    if isinstance(choice, dict):
        name = (choice.get("function") or choice).get("name", "")
        return f"tool:{name}"
    return {"auto": "auto", "none": "none", "required": "any"}.get(choice) if isinstance(choice, str) else None


def read_format(form: Any) -> Format | None:
    """``response_format``, or the ``text.format`` of the Responses API."""
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_object":
        return Format()
    if kind == "json_schema":
        inner = form.get("json_schema") or form
        return Format(inner.get("schema") or {}, inner.get("name", "answer"), inner.get("strict"))
    return None


def read_response(body: dict[str, Any]) -> Answer:
    """A whole chat completion; its first choice."""
    choice = (body.get("choices") or [{}])[0]
    message = choice.get("message") or {}
    parts: list[Part] = []
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought:
        parts.append(Thought(thought))
    if message.get("content"):
        parts.append(Text(message["content"]))
    if message.get("refusal"):
        parts.append(Refused(message["refusal"]))
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        google = (call.get("extra_content") or {}).get("google") or {}
        parts.append(
            ToolCall(
                call.get("id") or "",
                function.get("name", ""),
                function.get("arguments") or "{}",
                google.get("thought_signature"),
            )
        )
    stop = STOP.get(choice.get("finish_reason") or "stop", "stop")
    if stop == "stop" and any(isinstance(part, ToolCall) for part in parts):
        stop = "tool"
    usage = body.get("usage")
    counted = openai_usage(msgspec.json.encode(usage)) if usage else None
    logprobs = (choice.get("logprobs") or {}).get("content")
    return Answer(body.get("id", ""), body.get("model", ""), parts, stop, counted, logprobs=logprobs)
