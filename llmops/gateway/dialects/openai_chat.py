"""OpenAI Chat Completions: requests and answers, read and written."""

from __future__ import annotations

import time
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
from llmops.gateway.dialects.usage import as_openai, openai_usage
from llmops.gateway.refusal import Refusal

FINISH: Final[dict[StopReason, str]] = {
    "stop": "stop",
    "length": "length",
    "tool": "tool_calls",
    "sequence": "stop",
    "refusal": "content_filter",
    "filter": "content_filter",
    "pause": "stop",
    "context": "length",
}
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


# ---- writing requests ----


def write_request(chat: Chat, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request in this dialect, and what it cannot say."""
    lost: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
    if chat.system:
        content = [_text_part(part) for part in chat.system]
        plain = len(content) == 1 and set(content[0]) == {"type", "text"}
        messages.append({"role": "system", "content": content[0]["text"] if plain else content})
    for message in chat.messages:
        messages += _write_message(message, lost)
    body: dict[str, Any] = {"model": model, "messages": messages}
    if chat.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    _write_options(chat, body)
    if chat.thinking is not None and chat.effort is None:
        _write_thinking(chat.thinking, body, lost)
    if chat.top_k is not None:
        lost["top_k"] = chat.top_k
    return body, lost


def _write_options(chat: Chat, body: dict[str, Any]) -> None:
    simple = {
        "max_completion_tokens": chat.max_tokens,
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "stop": chat.stop or None,
        "seed": chat.seed,
        "presence_penalty": chat.presence,
        "frequency_penalty": chat.frequency,
        "reasoning_effort": chat.effort,
        "user": chat.user,
        "parallel_tool_calls": chat.parallel if chat.tools else None,
    }
    body.update({name: value for name, value in simple.items() if value is not None})
    if chat.logprobs is not None:
        body["logprobs"], body["top_logprobs"] = True, chat.logprobs
    if chat.tools:
        body["tools"] = [{"type": "function", "function": _write_tool(tool)} for tool in chat.tools]
    if chat.tool_choice is not None:
        kind, _, name = chat.tool_choice.partition(":")
        named = {"type": "function", "function": {"name": name}}
        body["tool_choice"] = named if kind == "tool" else {"any": "required"}.get(kind, kind)
    if chat.format is not None:
        form = chat.format
        schema = {"name": form.name, "schema": form.schema, **({} if form.strict is None else {"strict": form.strict})}
        body["response_format"] = (
            {"type": "json_object"} if form.schema is None else {"type": "json_schema", "json_schema": schema}
        )


def _write_thinking(thinking: dict[str, Any], body: dict[str, Any], lost: dict[str, Any]) -> None:
    """A thinking budget becomes the nearest effort; that is a change, so it is said."""
    if thinking.get("type") == "disabled":
        return
    budget = thinking.get("budget_tokens")
    if isinstance(budget, int):
        body["reasoning_effort"] = "low" if budget <= 4096 else "medium" if budget <= 16384 else "high"
    else:
        lost["thinking"] = thinking


def _write_tool(tool: Tool) -> dict[str, Any]:
    made: dict[str, Any] = {"name": tool.name, "parameters": tool.schema}
    if tool.description is not None:
        made["description"] = tool.description
    if tool.strict is not None:
        made["strict"] = tool.strict
    return made


def _write_message(message: Message, lost: dict[str, Any]) -> list[dict[str, Any]]:
    if message.role == "assistant":
        return [_write_assistant(message.parts)]
    rows: list[dict[str, Any]] = []
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, ToolResult):
            rows.append(_write_result(part, content))
        else:
            content.append(_write_user_part(part, lost))
    if content:
        plain = len(content) == 1 and set(content[0]) == {"type", "text"}
        rows.append({"role": "user", "content": content[0]["text"] if plain else content})
    return rows


def _write_result(part: ToolResult, following: list[dict[str, Any]]) -> dict[str, Any]:
    """A tool message holds text only; pictures from a tool follow as the user's."""
    texts = [each.text for each in part.parts if isinstance(each, Text)]
    following += [_write_user_part(each, {}) for each in part.parts if not isinstance(each, Text)]
    text = "\n".join(texts)
    return {"role": "tool", "tool_call_id": part.call_id, "content": f"Error: {text}" if part.error else text}


def _text_part(part: Text) -> dict[str, Any]:
    return {"type": "text", "text": part.text}


def _write_user_part(part: Part, lost: dict[str, Any]) -> dict[str, Any]:
    if isinstance(part, Text):
        return _text_part(part)
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": part.url or f"data:{part.media};base64,{part.data}"}}
    if isinstance(part, File):
        if part.data is None:
            lost["document (by URL)"] = part.url
        data = f"data:{part.media};base64,{part.data}"
        return {"type": "file", "file": {"filename": part.name or "document.pdf", "file_data": data}}
    if isinstance(part, Audio):
        return {"type": "input_audio", "input_audio": {"format": part.format, "data": part.data}}
    lost[type(part).__name__.lower()] = True
    return {"type": "text", "text": ""}


def _write_assistant(parts: list[Part]) -> dict[str, Any]:
    text = "".join(part.text for part in parts if isinstance(part, Text))
    row: dict[str, Any] = {"role": "assistant", "content": text or None}
    refusals = [part.text for part in parts if isinstance(part, Refused)]
    if refusals:
        row["refusal"] = "".join(refusals)
    calls = [write_call(part) for part in parts if isinstance(part, ToolCall)]
    if calls:
        row["tool_calls"] = calls
    return row


def write_call(part: ToolCall) -> dict[str, Any]:
    """A ``tool_calls`` row, with Gemini's signature where Google's own OpenAI surface has it."""
    row: dict[str, Any] = {
        "id": part.id,
        "type": "function",
        "function": {"name": part.name, "arguments": part.arguments},
    }
    if part.signature:
        row["extra_content"] = {"google": {"thought_signature": part.signature}}
    return row


# ---- answers ----


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


def write_response(answer: Answer) -> dict[str, Any]:
    """A whole chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    text = [part.text for part in answer.parts if isinstance(part, Text)]
    if text:
        message["content"] = "".join(text)
    refusal = [part.text for part in answer.parts if isinstance(part, Refused)]
    if refusal:
        message["refusal"] = "".join(refusal)
    thoughts = [part for part in answer.parts if isinstance(part, (Thought, Sealed))]
    if thoughts:
        message["reasoning_content"] = "".join(part.text for part in thoughts if isinstance(part, Thought))
        message["thinking_blocks"] = [thinking_block(part) for part in thoughts]
    calls = [write_call(part) for part in answer.parts if isinstance(part, ToolCall)]
    if calls:
        message["tool_calls"] = calls
    logprobs = {"content": answer.logprobs, "refusal": None} if answer.logprobs is not None else None
    made: dict[str, Any] = {
        "id": answer.id or "chatcmpl-llmops",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": FINISH[answer.stop]}],
    }
    if answer.usage is not None:
        made["usage"] = as_openai(answer.usage)
    return made


def thinking_block(part: Thought | Sealed) -> dict[str, Any]:
    """A thinking block that the caller can send back as it is."""
    if isinstance(part, Sealed):
        return {"type": "redacted_thinking", "data": part.data}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}
