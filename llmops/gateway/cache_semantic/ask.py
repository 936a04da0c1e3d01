"""What is compared: everything but the last user turn exactly, that turn by meaning."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import msgspec

from llmops.gateway.cache_semantic.config import SemanticCacheConfig
from llmops.gateway.cache_semantic.lexical import Signature, signature

# Members that do not change what is answered.
_SILENT: Final = frozenset({"stream", "stream_options", "user", "metadata", "store", "safety_identifier", "messages"})
_EXCLUDED: Final = (
    "tools",
    "functions",
    "tool_choice",
    "response_format",
    "logprobs",
    "audio",
    "modalities",
    "logit_bias",
)
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decode: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that may be answered from the cache.

    Attributes:
        context: Digest of tenant and of everything but the last user turn.
        text: The last user turn.
        signature: What must agree exactly.
    """

    context: bytes
    text: str
    signature: Signature


def ask_of(tenant: str, body: bytes, config: SemanticCacheConfig) -> Ask | None:
    """The ask of a chat request (OpenAI or Anthropic), or None where it must not be answered from here.

    Tools, images, structured output, several answers, high temperature, long texts and long conversations are excluded.
    """
    try:
        request = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(request, dict) or any(request.get(name) for name in _EXCLUDED):
        return None
    turns = request.get("messages")
    if not isinstance(turns, list) or not turns or len(turns) > config.max_turns or request.get("n", 1) != 1:
        return None
    temperature = request.get("temperature", 1)  # both providers' default
    cool = isinstance(temperature, (int, float)) and temperature <= config.max_temperature
    text = _only_text(turns[-1])
    fits = text is not None and len(text) <= config.max_chars and text.strip()
    if not cool or text is None or not fits or any(_has_media_or_tools(turn) for turn in turns[:-1]):
        return None
    rest = {name: value for name, value in request.items() if name not in _SILENT}
    context = blake2b(_encode((tenant, rest, turns[:-1])), digest_size=16).digest()
    return Ask(context, text, signature(text))


def _only_text(turn: Any) -> str | None:
    """The text of a user turn that has nothing else."""
    if not isinstance(turn, dict) or turn.get("role") != "user":
        return None
    content = turn.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        block = content[0]
        if block.get("type") == "text" and set(block) <= {"type", "text"} and isinstance(block.get("text"), str):
            return str(block["text"])
    return None


def _has_media_or_tools(turn: Any) -> bool:
    if not isinstance(turn, dict) or turn.get("role") not in ("system", "developer", "user", "assistant"):
        return True
    content = turn.get("content")
    if turn.get("tool_calls") or turn.get("function_call"):
        return True
    return isinstance(content, list) and any(
        not isinstance(block, dict) or block.get("type") != "text" for block in content
    )
