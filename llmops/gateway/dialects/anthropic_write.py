"""Anthropic Messages written: requests for servers and answers for callers, from the neutral form."""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec

from llmops.gateway.dialects.ir import (
    Answer,
    Audio,
    Chat,
    File,
    Image,
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
from llmops.gateway.dialects.usage import as_anthropic
from llmops.gateway.refusal import Refusal
from llmops.prices import Usage

# Used where the other dialect needs no limit and Anthropic does; said in a header.
DEFAULT_MAX_TOKENS: Final = 4096
SIGNATURES: Final = "llmops.gemini."
FINISH: Final[dict[StopReason, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool": "tool_use",
    "sequence": "stop_sequence",
    "refusal": "refusal",
    "filter": "refusal",
    "pause": "pause_turn",
    "context": "model_context_window_exceeded",
}
_EFFORTS: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}


def write_request(chat: Chat, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request in this dialect, and what it cannot say."""
    lost: dict[str, Any] = {}
    messages = [{"role": each.role, "content": _write_blocks(each.parts, lost)} for each in chat.messages]
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": chat.max_tokens or DEFAULT_MAX_TOKENS,
        "messages": [message for message in messages if message["content"]],
    }
    if chat.max_tokens is None:
        chat.notes.append(f"max_tokens (set to {DEFAULT_MAX_TOKENS})")
    if chat.system:
        plain = len(chat.system) == 1 and chat.system[0].cache is None
        body["system"] = chat.system[0].text if plain else [_write_block(part, lost) for part in chat.system]
    simple = {
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "top_k": chat.top_k,
        "stop_sequences": chat.stop or None,
        "thinking": chat.thinking,
        "metadata": {"user_id": chat.user} if chat.user else None,
        "stream": True if chat.stream else None,
    }
    if chat.temperature is not None and chat.temperature > 1:
        del simple["temperature"]
        lost["temperature"] = chat.temperature
    body.update({name: value for name, value in simple.items() if value is not None})
    _write_tools(chat, body)
    _write_output(chat, body, lost)
    unsayable = {"seed": chat.seed, "presence_penalty": chat.presence, "frequency_penalty": chat.frequency}
    lost.update({name: value for name, value in unsayable.items() if value is not None})
    if chat.logprobs is not None:
        lost["logprobs"] = True
    return body, lost


def _write_tools(chat: Chat, body: dict[str, Any]) -> None:
    if chat.tools:
        body["tools"] = [_write_tool(tool) for tool in chat.tools]
    if chat.tool_choice is None and (chat.parallel is not False or not chat.tools):
        return
    kind, _, name = (chat.tool_choice or "auto").partition(":")
    choice: dict[str, Any] = {"type": kind}
    if name:
        choice["name"] = name
    if chat.parallel is False and kind != "none":
        choice["disable_parallel_tool_use"] = True
    if chat.tools:
        body["tool_choice"] = choice


def _write_tool(tool: Tool) -> dict[str, Any]:
    schema = tool.schema if tool.schema.get("type") else {**tool.schema, "type": "object"}
    made: dict[str, Any] = {"name": tool.name, "input_schema": schema}
    if tool.description is not None:
        made["description"] = tool.description
    if tool.strict is not None:
        made["strict"] = tool.strict
    if tool.cache is not None:
        made["cache_control"] = tool.cache
    return made


def _write_output(chat: Chat, body: dict[str, Any], lost: dict[str, Any]) -> None:
    output: dict[str, Any] = {}
    if chat.effort == "none":
        body.setdefault("thinking", {"type": "disabled"})
    elif chat.effort is not None:
        output["effort"] = _EFFORTS.get(chat.effort, chat.effort)
    if chat.format is not None:
        if chat.format.schema is None:
            lost["response_format (json_object)"] = True
        else:
            output["format"] = {"type": "json_schema", "schema": chat.format.schema}
    if output:
        body["output_config"] = output


def _write_blocks(parts: list[Part], lost: dict[str, Any]) -> list[dict[str, Any]]:
    """Blocks of one turn. Tool results come first, as Anthropic demands; empty text is not allowed there."""
    ordered = sorted(parts, key=lambda part: not isinstance(part, ToolResult))
    blocks = [_write_block(part, lost) for part in ordered if not (isinstance(part, Text) and not part.text)]
    return [block for block in blocks if block]


def _write_block(part: Part, lost: dict[str, Any]) -> dict[str, Any]:  # noqa: C901 - one branch for each kind of block
    made: dict[str, Any]
    if isinstance(part, (Text, Refused)):
        made = {"type": "text", "text": part.text}
    elif isinstance(part, Image):
        made = {"type": "image", "source": _source(part.url, part.media, part.data)}
    elif isinstance(part, File):
        made = {"type": "document", "source": _source(part.url, part.media, part.data)}
        if part.name:
            made["title"] = part.name
    elif isinstance(part, ToolCall):
        made = {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments_of(part)}
    elif isinstance(part, ToolResult):
        made = {"type": "tool_result", "tool_use_id": part.call_id, "content": _write_blocks(part.parts, lost)}
        if part.error:
            made["is_error"] = True
    elif isinstance(part, Thought):
        if not part.signature:  # thoughts of another provider: Anthropic takes only its own, signed
            return {}
        made = {"type": "thinking", "thinking": part.text, "signature": part.signature}
    elif isinstance(part, Sealed):
        made = {"type": "redacted_thinking", "data": part.data}
    else:
        assert isinstance(part, Audio)
        lost["input_audio"] = True
        return {}
    if getattr(part, "cache", None) is not None and not isinstance(part, (Thought, Sealed)):
        made["cache_control"] = part.cache  # type: ignore[union-attr]  # seen in the line before
    return made


def _source(url: str | None, media: str | None, data: str | None) -> dict[str, Any]:
    return {"type": "url", "url": url} if url else {"type": "base64", "media_type": media, "data": data}


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """A call's arguments as an object.

    Raises:
        Refusal: 400: the caller sent arguments that are no JSON object.
    """
    try:
        arguments = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise Refusal(400, f"the arguments of the call to {call.name!r} are no JSON object", param="messages")
    return arguments


def pack_signatures(calls: list[ToolCall]) -> Sealed | None:
    """Gemini's signatures in the one place where an Anthropic client keeps opaque data for the next turn."""
    signatures = {call.id: call.signature for call in calls if call.signature}
    if not signatures:
        return None
    return Sealed(SIGNATURES + base64.urlsafe_b64encode(msgspec.json.encode(signatures)).decode())


def write_response(answer: Answer) -> dict[str, Any]:
    """A whole message."""
    parts = list(answer.parts)
    sealed = pack_signatures([part for part in parts if isinstance(part, ToolCall)])
    if sealed is not None:
        parts.insert(0, sealed)
    blocks = [_answer_block(part) for part in parts if not (isinstance(part, Text) and not part.text)]
    return {
        "id": answer.id or "msg_llmops",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": blocks,
        "stop_reason": FINISH[answer.stop],
        "stop_sequence": answer.stop_sequence,
        "usage": as_anthropic(answer.usage or Usage()),
    }


def _answer_block(part: Part) -> dict[str, Any]:
    """A block of an answer; a thought without a signature has an empty one, which clients expect to be there."""
    if isinstance(part, Thought):
        return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
    return _write_block(part, {})
