"""Anthropic Messages: requests and answers, read and written."""

from __future__ import annotations

import base64
import binascii
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
from llmops.gateway.dialects.usage import anthropic_usage, as_anthropic
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
STOP: Final[dict[str, StopReason]] = {word: reason for reason, word in FINISH.items() if reason != "filter"}
_EFFORTS: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_KNOWN: Final = frozenset(
    {
        "model", "messages", "system", "tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k",
        "stop_sequences", "thinking", "metadata", "stream", "output_config",
    }
)  # fmt: skip


def read_request(body: dict[str, Any]) -> Chat:
    """A Messages request.

    Raises:
        Refusal: 400: it is malformed, naming the field.
    """
    chat = Chat(model=body.get("model", ""), stream=bool(body.get("stream")))
    if not isinstance(body.get("max_tokens"), int):
        raise Refusal(400, "max_tokens: Field required", param="max_tokens")
    chat.max_tokens = body["max_tokens"]
    system = body.get("system")
    chat.system = [part for part in _read_blocks(system, "system") if isinstance(part, Text)]
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages: at least one message is required", param="messages")
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("user", "assistant"):
            raise Refusal(400, f"messages.{index}.role: must be 'user' or 'assistant'", param=f"messages.{index}.role")
        chat.messages.append(Message(role, _with_signatures(_read_blocks(message.get("content"), f"messages.{index}"))))
    for index, tool in enumerate(body.get("tools") or ()):
        _read_tool(chat, tool, index)
    _read_choice(chat, body.get("tool_choice"))
    chat.temperature, chat.top_p, chat.top_k = body.get("temperature"), body.get("top_p"), body.get("top_k")
    chat.stop = list(body.get("stop_sequences") or ())
    chat.thinking = body.get("thinking")
    output = body.get("output_config") or {}
    chat.effort = output.get("effort")
    form = output.get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        chat.format = Format(form.get("schema") or {}, strict=True)
    chat.user = (body.get("metadata") or {}).get("user_id")
    chat.extra = {name: value for name, value in body.items() if name not in _KNOWN}
    return chat


def _read_tool(chat: Chat, tool: Any, index: int) -> None:
    if not isinstance(tool, dict) or not tool.get("name"):
        raise Refusal(400, f"tools.{index}: a tool needs a name", param=f"tools.{index}")
    if "input_schema" not in tool:  # a tool that Anthropic itself runs or defines
        chat.extra[f"tools.{index} ({tool.get('type')})"] = tool
        return
    schema = tool["input_schema"]
    chat.tools.append(
        Tool(tool["name"], tool.get("description"), schema, tool.get("strict"), tool.get("cache_control"))
    )


def _read_choice(chat: Chat, choice: Any) -> None:
    if not isinstance(choice, dict):
        return
    kind = choice.get("type")
    chat.tool_choice = f"tool:{choice.get('name', '')}" if kind == "tool" else kind
    if choice.get("disable_parallel_tool_use"):
        chat.parallel = False


def _read_blocks(content: Any, where: str) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    if not isinstance(content, list):
        raise Refusal(400, f"{where}.content: must be text or a list of blocks", param=f"{where}.content")
    return [_read_block(block, f"{where}.content.{index}") for index, block in enumerate(content)]


def _read_block(block: Any, where: str) -> Part:  # noqa: PLR0911 - one for each kind of block
    kind = block.get("type") if isinstance(block, dict) else None
    cache = block.get("cache_control") if isinstance(block, dict) else None
    if kind == "text":
        return Text(block.get("text", ""), cache)
    if kind == "image":
        source = block.get("source") or {}
        return Image(source.get("url"), source.get("media_type"), source.get("data"), cache)
    if kind == "document":
        return _read_document(block, cache)
    if kind == "tool_use":
        arguments = msgspec.json.encode(block.get("input") or {}).decode()
        return ToolCall(block.get("id", ""), block.get("name", ""), arguments, cache=cache)
    if kind == "tool_result":
        parts = _read_blocks(block.get("content"), where)
        return ToolResult(block.get("tool_use_id", ""), parts, bool(block.get("is_error")), cache)
    if kind == "thinking":
        return Thought(block.get("thinking", ""), block.get("signature"))
    if kind == "redacted_thinking":
        return Sealed(block.get("data", ""))
    raise Refusal(400, f"{where}.type: {kind!r} cannot be sent to this model", param=f"{where}.type")


def _read_document(block: dict[str, Any], cache: Any) -> Part:
    source = block.get("source") or {}
    if source.get("type") == "text":
        return Text(source.get("data", ""), cache)
    return File(source.get("media_type"), source.get("data"), source.get("url"), block.get("title"), cache)


def pack_signatures(calls: list[ToolCall]) -> Sealed | None:
    """Gemini's signatures in the one place where an Anthropic client keeps opaque data for the next turn."""
    signatures = {call.id: call.signature for call in calls if call.signature}
    if not signatures:
        return None
    return Sealed(SIGNATURES + base64.urlsafe_b64encode(msgspec.json.encode(signatures)).decode())


def _with_signatures(parts: list[Part]) -> list[Part]:
    """Put back on the calls what ``pack_signatures`` took from them."""
    signatures: dict[str, str] = {}
    kept: list[Part] = []
    for part in parts:
        if isinstance(part, Sealed) and part.data.startswith(SIGNATURES):
            try:
                signatures |= msgspec.json.decode(
                    base64.urlsafe_b64decode(part.data[len(SIGNATURES) :]), type=dict[str, str]
                )
            except (binascii.Error, ValueError):
                raise Refusal(400, "a redacted_thinking block was altered; send it back as it came") from None
        else:
            kept.append(part)
    for part in kept:
        if isinstance(part, ToolCall):
            part.signature = signatures.get(part.id)
    return kept


# ---- writing requests ----


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
    except msgspec.MsgspecError:
        arguments = None
    if not isinstance(arguments, dict):
        raise Refusal(400, f"the arguments of the call to {call.name!r} are no JSON object", param="messages")
    return arguments


# ---- answers ----


def read_response(body: dict[str, Any]) -> Answer:
    """A whole message."""
    blocks = [block for block in body.get("content") or () if isinstance(block, dict)]
    known = ("text", "tool_use", "thinking", "redacted_thinking")
    parts = [_read_block(block, "content") for block in blocks if block.get("type") in known]
    stop = STOP.get(body.get("stop_reason") or "end_turn", "stop")
    usage = anthropic_usage(msgspec.json.encode(body.get("usage") or {}))
    return Answer(body.get("id", ""), body.get("model", ""), parts, stop, usage, body.get("stop_sequence"))


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
