"""The paths that are served, and what each speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

Name = Literal["chat", "completions", "responses", "embeddings", "messages", "count_tokens"]


@dataclass(frozen=True, slots=True)
class Surface:
    """One kind of request.

    Attributes:
        name: What it is.
        dialect: What its caller speaks.
        path: Its path below an upstream's base URL, where the upstream speaks the same dialect.
        streams: Whether it can be streamed.
        scope: What a caller must be allowed to do.
    """

    name: Name
    dialect: Literal["openai", "anthropic"]
    path: str
    streams: bool = True
    scope: str = "chat"


CHAT: Final = Surface("chat", "openai", "/chat/completions")
COMPLETIONS: Final = Surface("completions", "openai", "/completions")
RESPONSES: Final = Surface("responses", "openai", "/responses")
EMBEDDINGS: Final = Surface("embeddings", "openai", "/embeddings", streams=False, scope="embeddings")
MESSAGES: Final = Surface("messages", "anthropic", "/messages")
COUNT_TOKENS: Final = Surface("count_tokens", "anthropic", "/messages/count_tokens", streams=False)

# Both with and without /v1: an SDK's base_url may end in either.
HOT: Final[dict[bytes, Surface]] = {
    prefix + surface.path.encode(): surface
    for surface in (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS, MESSAGES, COUNT_TOKENS)
    for prefix in (b"/v1", b"")
}

# A path of its own for each model, as sites had them before: the model's name, or an alias of it, after the surface.
_NAMED: Final = tuple((path + b"/", HOT[path]) for path in HOT if HOT[path] in (CHAT, COMPLETIONS, EMBEDDINGS))


def named(path: bytes) -> tuple[Surface, str] | None:
    """The surface and the model of ``/v1/completions/llama-8b``; None for any other path."""
    for prefix, surface in _NAMED:
        name = path.removeprefix(prefix)
        if name and name != path:
            return surface, unquote_to_bytes(name).decode("utf-8", "replace")
    return None
