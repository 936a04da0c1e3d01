"""Which codec speaks a surface to a provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmops.gateway.dialects.native import NativeCodec
from llmops.gateway.dialects.openai_write import Manner
from llmops.gateway.dialects.translate import TranslatingCodec
from llmops.gateway.dialects.whole_only import CountingCodec, EmbeddingsCodec
from llmops.gateway.refusal import Refusal
from llmops.gateway.targets import prices_as_of
from llmops.http1 import Origin

if TYPE_CHECKING:
    from llmops.gateway.config import Provider as ProviderForm
    from llmops.gateway.dialects.wire import Codec
    from llmops.gateway.surfaces import Surface
    from llmops.gateway.targets import Provider

# Dialects whose servers count tokens when asked; for the others the gateway estimates.
COUNTING: Final = frozenset({"anthropic", "gemini"})
_OPENAI_NATIVE: Final = frozenset({"chat", "completions", "embeddings"})
_made: dict[tuple[object, ...], Codec] = {}


def codec_for(surface: Surface, provider: Provider) -> Codec:
    """The codec between a caller's surface and a provider's dialect.

    Raises:
        Refusal: 400: that provider cannot do what the surface asks.
    """
    codec = provider.codecs.get(surface.name)
    if codec is not None:
        return codec
    form = provider.form
    native = (
        form.dialect == "openai"
        and (surface.name in _OPENAI_NATIVE or (surface.name == "responses" and form.responses))
    ) or (form.dialect == "anthropic" and surface.dialect == "anthropic")
    texts = (form.triton_input, form.triton_output, form.triton_messages)
    manner = Manner(own=_is_openais(form), stream_usage=form.stream_usage)
    key = (surface.name, form.dialect, native, manner, *texts)
    codec = _made.get(key)
    if codec is None:
        codec = _made[key] = _make(surface, form, manner, native=native)
    provider.codecs[surface.name] = codec
    return codec


def _is_openais(form: ProviderForm) -> bool:
    """Whether a server is OpenAI's own, or runs its models for others."""
    return prices_as_of(form) == "openai" or Origin.of(form.base_url)[0].host.endswith(".openai.azure.com")


def _make(surface: Surface, form: ProviderForm, manner: Manner, *, native: bool) -> Codec:
    if native:
        return NativeCodec(surface, ask_usage=form.stream_usage)
    if surface.name == "count_tokens":
        return CountingCodec()
    if surface.name == "embeddings":
        if form.dialect == "anthropic":
            raise Refusal(
                400, "this model's provider (anthropic) has no embeddings", code="no_embeddings", param="model"
            )
        return EmbeddingsCodec(form.dialect, form.triton_input, form.triton_output)
    texts = (form.triton_input, form.triton_output, form.triton_messages)
    return TranslatingCodec(surface, form.dialect, *texts, manner=manner)
