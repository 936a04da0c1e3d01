"""What is read of providers' messages, as msgspec decodes it.

Apart from the code that reads them: msgspec goes by a class's annotations and defaults, which a compiled module's classes
do not keep.
"""

from __future__ import annotations

from typing import Any

import msgspec


class InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    audio_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class OpenAICounts(msgspec.Struct):
    """A ``usage`` object of OpenAI's APIs."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    # the Responses API's names
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


class CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: int | None = None


class ServerTools(msgspec.Struct):
    web_search_requests: int | None = None


class AnthropicCounts(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    server_tool_use: ServerTools | None = None
    service_tier: str | None = None


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
