"""OpenAI Responses read, stateless: requests of callers, into the neutral form."""

from __future__ import annotations

from typing import Any, Final

from llmops.gateway.dialects.ir import Chat, File, Message, Part, Refused, Text, Tool, ToolCall, ToolResult
from llmops.gateway.dialects.openai_read import image_from_url, read_format, read_tool_choice
from llmops.gateway.dialects.responses_sealed import unpack
from llmops.gateway.refusal import Refusal

_KNOWN: Final = frozenset(
    {
        "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens",
        "temperature", "top_p", "text", "reasoning", "user", "stream", "store", "stream_options",
    }
)  # fmt: skip
_STATEFUL: Final = ("previous_response_id", "conversation", "background", "prompt")


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
    signatures: dict[str, str] = {}
    for index, item in enumerate(items):
        _read_item(chat, item, f"input[{index}]", signatures)
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


def _read_item(chat: Chat, item: Any, where: str, signatures: dict[str, str]) -> None:
    if not isinstance(item, dict):
        raise Refusal(400, f"{where} must be an object", param=where)
    kind = item.get("type") or "message"
    if kind == "message":
        _read_message(chat, item, where)
    elif kind == "function_call":
        call = ToolCall(item.get("call_id", ""), item.get("name", ""), item.get("arguments") or "{}")
        call.signature = signatures.get(call.id)
        _add(chat, "assistant", [call])
    elif kind == "function_call_output":
        output = item.get("output", "")
        parts = _read_content(output, f"{where}.output")
        _add(chat, "user", [ToolResult(item.get("call_id", ""), parts)])
    elif kind == "reasoning":
        _read_reasoning(chat, item, where, signatures)
    else:
        raise Refusal(400, f"{where}.type {kind!r} cannot be sent to this model", param=f"{where}.type")


def _read_reasoning(chat: Chat, item: dict[str, Any], where: str, signatures: dict[str, str]) -> None:
    """What this gateway sealed goes back to the provider that signed it; the rest is for another provider alone."""
    part, call_id, signature = unpack(item.get("encrypted_content"))
    if part is not None:
        _add(chat, "assistant", [part])
    elif call_id:
        signatures[call_id] = signature
    else:
        chat.notes.append(f"{where} (reasoning)")


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
