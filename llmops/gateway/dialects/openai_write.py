"""OpenAI Chat Completions written: requests for servers and answers for callers, from the neutral form."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from llmops.gateway.dialects.ir import (
    Answer,
    Audio,
    Chat,
    File,
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
from llmops.gateway.dialects.usage import as_openai

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


@dataclass(frozen=True, slots=True)
class Manner:
    """What kind of server speaks this dialect.

    Attributes:
        own: It is OpenAI's own: its new models refuse ``max_tokens``, and it knows no ``top_k``. Other servers know both,
            and some of them pass over ``max_completion_tokens`` without a word.
        stream_usage: It takes ``stream_options``.
    """

    own: bool = True
    stream_usage: bool = True


def write_request(chat: Chat, model: str, manner: Manner) -> tuple[dict[str, Any], dict[str, Any]]:
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
        if manner.stream_usage:
            body["stream_options"] = {"include_usage": True}
    _write_options(chat, body, manner)
    if chat.thinking is not None and chat.effort is None:
        _write_thinking(chat.thinking, body, lost)
    if chat.top_k is not None:
        (lost if manner.own else body)["top_k"] = chat.top_k
    return body, lost


def _write_options(chat: Chat, body: dict[str, Any], manner: Manner) -> None:
    simple = {
        "max_completion_tokens" if manner.own else "max_tokens": chat.max_tokens,
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
