"""What is read of providers' messages, as msgspec decodes it.

Apart from the code that reads them: msgspec goes by a class's annotations and defaults, which a compiled module's classes
do not keep.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llmops.gateway.dialects.usage import OpenAICounts


class Envelope(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")
    type: str | None = None
    service_tier: str | None = None
    input_tokens: int | None = None


class UsualAnswer(msgspec.Struct, gc=False):
    """An answer as OpenAI's servers give it, its counts included: one look at it instead of two."""

    usage: OpenAICounts | None = None
    error: Any = None
    type: str | None = None
    service_tier: str | None = None


class Delta(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"null")
    tool_calls: msgspec.Raw = msgspec.Raw(b"null")
    reasoning_content: msgspec.Raw = msgspec.Raw(b"null")
    reasoning: msgspec.Raw = msgspec.Raw(b"null")
    refusal: msgspec.Raw = msgspec.Raw(b"null")
    function_call: msgspec.Raw = msgspec.Raw(b"null")
    audio: msgspec.Raw = msgspec.Raw(b"null")


class StreamChoice(msgspec.Struct):
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    choices: list[StreamChoice] | None = None
    service_tier: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class Message(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")


class AnthropicEvent(msgspec.Struct):
    type: str = ""
    message: Message | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class ResponseObject(msgspec.Struct):
    service_tier: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class ResponsesEvent(msgspec.Struct):
    type: str = ""
    response: ResponseObject | None = None


class ErrorBody(msgspec.Struct):
    error: Any = None
    message: Any = None
    detail: Any = None
