"""Anthropic Messages read: requests of callers and answers of servers, into the neutral form."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from llmops.gateway.dialects.anthropic_write import FINISH, SIGNATURES
from llmops.gateway.dialects.ir import (
    Answer,
    Chat,
    File,
    Format,
    Image,
    Message,
    Part,
    Sealed,
    StopReason,
    Text,
    Thought,
    Tool,
    ToolCall,
    ToolResult,
)
from llmops.gateway.dialects.usage import anthropic_usage
from llmops.gateway.refusal import Refusal

STOP: Final[dict[str, StopReason]] = {word: reason for reason, word in FINISH.items() if reason != "filter"}
_KNOWN: Final = frozenset(
    {
        "model", "messages", "system", "tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k",
        "stop_sequences", "thinking", "metadata", "stream", "output_config",
    }
)  # fmt: skip


_TOOL: Final = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})


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
    metadata = body.get("metadata") or {}
    chat.user = metadata.get("user_id")
    chat.notes += [f"metadata.{name}" for name in metadata if name != "user_id"]
    chat.extra = {name: value for name, value in body.items() if name not in _KNOWN}
    return chat


def _read_tool(chat: Chat, tool: Any, index: int) -> None:
    if not isinstance(tool, dict) or not tool.get("name"):
        raise Refusal(400, f"tools.{index}: a tool needs a name", param=f"tools.{index}")
    if "input_schema" not in tool:  # a tool that Anthropic itself runs or defines
        chat.extra[f"tools.{index} ({tool.get('type')})"] = tool
        return
    chat.notes += [f"tools.{index}.{name}" for name in tool if name not in _TOOL and tool[name]]
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


def read_response(body: dict[str, Any]) -> Answer:
    """A whole message."""
    blocks = [block for block in body.get("content") or () if isinstance(block, dict)]
    known = ("text", "tool_use", "thinking", "redacted_thinking")
    parts = [_read_block(block, "content") for block in blocks if block.get("type") in known]
    stop = STOP.get(body.get("stop_reason") or "end_turn", "stop")
    usage = anthropic_usage(msgspec.json.encode(body.get("usage") or {}))
    return Answer(body.get("id", ""), body.get("model", ""), parts, stop, usage, body.get("stop_sequence"))
