"""A conversation in neutral form: what every dialect is read into and written from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from llmops.gateway.resilience import Failure
from llmops.prices import Usage

StopReason = Literal["stop", "length", "tool", "sequence", "refusal", "filter", "pause", "context"]


@dataclass(slots=True)
class Text:
    """Words. ``cache``: an Anthropic ``cache_control`` mark, kept where the other side has one."""

    text: str
    cache: Any = None


@dataclass(slots=True)
class Image:
    """A picture, by URL or as base64 with its media type."""

    url: str | None = None
    media: str | None = None
    data: str | None = None
    cache: Any = None


@dataclass(slots=True)
class File:
    """A document as base64 or URL."""

    media: str | None = None
    data: str | None = None
    url: str | None = None
    name: str | None = None
    cache: Any = None


@dataclass(slots=True)
class Audio:
    """Sound as base64."""

    format: str
    data: str


@dataclass(slots=True)
class ToolCall:
    """The model asks for a tool. ``arguments`` is JSON text; ``signature`` is Gemini's proof of the thought behind it."""

    id: str
    name: str
    arguments: str
    signature: str | None = None
    cache: Any = None


@dataclass(slots=True)
class ToolResult:
    """What a tool answered."""

    call_id: str
    parts: list[Part]
    error: bool = False
    cache: Any = None


@dataclass(slots=True)
class Thought:
    """Reasoning shown, with the signature that proves it."""

    text: str
    signature: str | None = None


@dataclass(slots=True)
class Sealed:
    """Reasoning that only its provider can read."""

    data: str


@dataclass(slots=True)
class Refused:
    """The model declines."""

    text: str


Part = Text | Image | File | Audio | ToolCall | ToolResult | Thought | Sealed | Refused


@dataclass(slots=True)
class Message:
    """One turn."""

    role: Literal["user", "assistant"]
    parts: list[Part]


@dataclass(slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str | None
    schema: dict[str, Any]
    strict: bool | None = None
    cache: Any = None


@dataclass(slots=True)
class Format:
    """Structured output: any JSON object, or one that fits a schema."""

    schema: dict[str, Any] | None = None
    name: str = "answer"
    strict: bool | None = None


@dataclass(slots=True)
class Chat:
    """A request.

    Attributes:
        tool_choice: ``auto``, ``none``, ``any``, or ``tool:NAME``.
        extra: Fields that only the caller's dialect has, by name; what is still here when a request is written in another
            dialect is refused or dropped, and said.
        notes: What was changed on the way and should be said.
    """

    model: str = ""
    system: list[Text] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    tool_choice: str | None = None
    parallel: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = field(default_factory=list)
    seed: int | None = None
    presence: float | None = None
    frequency: float | None = None
    format: Format | None = None
    effort: str | None = None
    thinking: dict[str, Any] | None = None
    user: str | None = None
    logprobs: int | None = None
    stream: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    id: str
    model: str
    parts: list[Part]
    stop: StopReason
    usage: Usage | None
    stop_sequence: str | None = None
    logprobs: list[dict[str, Any]] | None = None


# ---- events of a stream ----


@dataclass(slots=True)
class Begin:
    """The stream has begun. ``usage`` is what is known so far, an estimate where nothing is."""

    id: str
    model: str
    usage: Usage


@dataclass(slots=True)
class Open:
    """A block begins: text, thought, sealed, call or refusal. One block is open at a time."""

    kind: Literal["text", "thought", "sealed", "call", "refusal"]
    id: str = ""
    name: str = ""
    data: str = ""
    signature: str | None = None


@dataclass(slots=True)
class More:
    """More of the open block: words, thoughts, or a piece of a call's JSON arguments."""

    text: str
    logprobs: list[dict[str, Any]] | None = None


@dataclass(slots=True)
class Close:
    """The open block is whole."""

    signature: str | None = None


@dataclass(slots=True)
class Finish:
    """The answer is whole."""

    stop: StopReason
    usage: Usage | None
    stop_sequence: str | None = None


@dataclass(slots=True)
class Fail:
    """The upstream failed inside the stream."""

    failure: Failure


Event = Begin | Open | More | Close | Finish | Fail
