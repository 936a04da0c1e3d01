"""What cannot be said in another dialect: refused with its name, or dropped and said so; never silently."""

from __future__ import annotations

from typing import Any, Final

from llmops.gateway.dialects.ir import Chat, Part, Sealed, Thought, ToolResult
from llmops.gateway.refusal import Refusal

# Fields that do not change the answer: dropped (and named in a header) even where the rest is refused.
HARMLESS: Final = frozenset(
    {
        "metadata",
        "user",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "container",
        "include",
        "truncation",
        "inference_geo",
        "speed",
        "stream_options",
    }
)
# A header holds so many names; more than that is no news to anyone.
_MOST_NAMES: Final = 24
_LONGEST: Final = 80
# Values that say what would happen anyway.
_DEFAULTS: Final[dict[str, tuple[Any, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "modalities": (["text"],),
    "store": (False,),
    "background": (False,),
    "best_of": (1,),
    "echo": (False,),
    "parallel_tool_calls": (True,),
    "truncation": ("disabled",),
    "service_tier": ("auto", "default"),
    "betas": ([],),
}


def settle(chat: Chat, lost: dict[str, Any], *, drop: bool, to: str) -> list[str]:
    """Names of what is dropped.

    Args:
        chat: The request; its ``extra`` is lost too.
        lost: Fields that the writer could not express, name -> value.
        drop: Drop instead of refusing.
        to: The dialect that lacks them, for the message.

    Raises:
        Refusal: 400, naming the first field that changes the answer.
    """
    everything = {name: value for name, value in {**chat.extra, **lost}.items() if value is not None}
    named = [name for name, value in everything.items() if value not in _DEFAULTS.get(name, ())]
    serious = [name for name in named if name not in HARMLESS]
    if serious and not drop:
        raise Refusal(
            400,
            f"{serious[0]!r} cannot be sent to this model: its provider ({to}) has nothing like it; leave it out, "
            "or set 'untranslatable: drop' for the route",
            code="untranslatable",
            param=serious[0],
        )
    return list(dict.fromkeys(map(_shown, (*chat.notes, *named))))[:_MOST_NAMES]


def _shown(name: str) -> str:
    """A caller's own word in a header: one short line of plain characters, whatever it was, without our comma."""
    return "".join(char if " " <= char <= "~" and char != "," else "?" for char in name[:_LONGEST])


def note_unsaid(chat: Chat, to: str) -> None:
    """Marks inside messages and tools that a dialect has no place for: they change no answer, and are named."""
    parts = [part for message in chat.messages for part in _all(message.parts)]
    if to != "anthropic" and any(
        getattr(each, "cache", None) is not None for each in (*parts, *chat.system, *chat.tools)
    ):
        chat.notes.append("cache_control")
    thoughts = [part for part in parts if isinstance(part, (Thought, Sealed))]
    if to == "anthropic":
        thoughts = [part for part in thoughts if isinstance(part, Thought) and not part.signature]
    if thoughts:
        chat.notes.append("thinking of earlier turns")
    if to in ("gemini", "triton") and any(tool.strict for tool in chat.tools):
        chat.notes.append("tools.strict")


def _all(parts: list[Part]) -> list[Part]:
    """Parts, and those inside tool results."""
    return [each for part in parts for each in ((part, *part.parts) if isinstance(part, ToolResult) else (part,))]
