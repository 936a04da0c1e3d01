"""Same dialect on both sides: bytes pass as they are, apart from the model's name and the request for usage."""

from __future__ import annotations

from typing import Final

import msgspec

from llmops.gateway.dialects.native_stream import AnthropicLens, OpenAILens, ResponsesLens
from llmops.gateway.dialects.shapes import Envelope, UsualAnswer
from llmops.gateway.dialects.usage import anthropic_usage, of_tier, openai_counts, openai_usage
from llmops.gateway.dialects.wire import UNREADABLE, Ask, Lens, encode, raw_error_in_200
from llmops.gateway.resilience import Failure
from llmops.gateway.surfaces import Surface
from llmops.prices import Usage

_usual: Final = msgspec.json.Decoder(UsualAnswer).decode
_envelope: Final = msgspec.json.Decoder(Envelope)
_NULL: Final = b"null"
_MAX_NAMES: Final = 512
_WITH_USAGE: Final = msgspec.Raw(b'{"include_usage":true}')


class NativeCodec:
    """An upstream of the caller's own dialect."""

    native = True

    def __init__(self, surface: Surface, *, ask_usage: bool) -> None:
        self._surface = surface
        self._ask_usage = ask_usage and surface.name in ("chat", "completions")
        self._openai = surface.dialect == "openai"
        self._usage_of = openai_usage if self._openai else anthropic_usage
        self._named: dict[str, msgspec.Raw] = {}  # names of models as JSON

    def path(self, model: str, *, stream: bool) -> str:  # noqa: ARG002 - the interface of every codec
        """See ``Codec``."""
        return self._surface.path

    def encode(self, ask: Ask, model: str, *, drop: bool) -> tuple[bytes, list[str]]:  # noqa: ARG002 - the same
        """The caller's fields; doubled keys are gone, so that the server reads what was checked here."""
        fields = dict(ask.fields)
        if model != ask.model:
            fields["model"] = self._named.get(model) or self._name(model)
        if ask.stream and self._ask_usage and not asked_usage(ask):
            options = ask.value("stream_options")
            fields["stream_options"] = (
                msgspec.Raw(encode({**options, "include_usage": True})) if isinstance(options, dict) else _WITH_USAGE
            )
        return encode(fields), []

    def _name(self, model: str) -> msgspec.Raw:
        if len(self._named) >= _MAX_NAMES:
            self._named.clear()
        made = self._named[model] = msgspec.Raw(encode(model))
        return made

    def decode(self, ask: Ask, body: bytes) -> tuple[bytes, Usage | None]:
        """See ``Codec``."""
        if self._openai:
            try:
                usual = _usual(body)
            except UNREADABLE:
                return self._decode(ask, body)
            if usual.usage is not None and usual.error is None and usual.type != "error":
                usage = openai_counts(usual.usage)
                return body, usage if usual.service_tier is None else of_tier(usage, usual.service_tier)
        return self._decode(ask, body)

    def _decode(self, ask: Ask, body: bytes) -> tuple[bytes, Usage | None]:  # noqa: ARG002 - the interface's
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
