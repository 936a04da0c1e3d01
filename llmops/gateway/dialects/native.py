"""Same dialect on both sides: bytes pass as they are, apart from the model's name and the request for usage."""

from __future__ import annotations

from typing import Final

import msgspec

from llmops.gateway.dialects.native_stream import AnthropicLens, OpenAILens, ResponsesLens
from llmops.gateway.dialects.usage import anthropic_usage, of_tier, openai_usage
from llmops.gateway.dialects.wire import UNREADABLE, Ask, Lens, encode, raw_error_in_200
from llmops.gateway.resilience import Failure
from llmops.gateway.surfaces import Surface
from llmops.prices import Usage


class _Envelope(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")
    type: str | None = None
    service_tier: str | None = None
    input_tokens: int | None = None


_envelope: Final = msgspec.json.Decoder(_Envelope)
_NULL: Final = b"null"
_WITH_USAGE: Final = msgspec.Raw(b'{"include_usage":true}')


class NativeCodec:
    """An upstream of the caller's own dialect."""

    native = True

    def __init__(self, surface: Surface, *, ask_usage: bool) -> None:
        self._surface = surface
        self._ask_usage = ask_usage and surface.name in ("chat", "completions")
        self._usage_of = anthropic_usage if surface.dialect == "anthropic" else openai_usage

    def path(self, model: str, *, stream: bool) -> str:  # noqa: ARG002 - the interface of every codec
        """See ``Codec``."""
        return self._surface.path

    def encode(self, ask: Ask, model: str, *, drop: bool) -> tuple[bytes, list[str]]:  # noqa: ARG002 - the same
        """The caller's fields; doubled keys are gone, so that the server reads what was checked here."""
        fields = dict(ask.fields)
        if model != ask.model:
            fields["model"] = msgspec.Raw(encode(model))
        if ask.stream and self._ask_usage and not asked_usage(ask):
            options = ask.value("stream_options")
            fields["stream_options"] = (
                msgspec.Raw(encode({**options, "include_usage": True})) if isinstance(options, dict) else _WITH_USAGE
            )
        return encode(fields), []

    def decode(self, ask: Ask, body: bytes) -> tuple[bytes, Usage | None]:  # noqa: ARG002 - the same
        """See ``Codec``."""
        try:
            envelope = _envelope.decode(body)
        except UNREADABLE:
            raise Failure("protocol", 502, "the upstream's answer is not the JSON it should be") from None
        if envelope.type == "error" or bytes(envelope.error) != _NULL:
            raise raw_error_in_200(envelope.error)
        if self._surface.name == "count_tokens":
            return body, Usage()
        if bytes(envelope.usage) == _NULL:
            return body, None
        return body, of_tier(self._usage_of(envelope.usage), envelope.service_tier)

    def lens(self, ask: Ask) -> Lens:
        """See ``Codec``."""
        if self._surface.dialect == "anthropic":
            return AnthropicLens()
        if self._surface.name == "responses":
            return ResponsesLens()
        return OpenAILens(keep_usage=not self._ask_usage or asked_usage(ask))


def asked_usage(ask: Ask) -> bool:
    """Whether the caller itself asked for usage in the stream."""
    options = ask.value("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True
