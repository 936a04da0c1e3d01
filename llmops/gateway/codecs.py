"""Which codec speaks a surface to a provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmops.gateway.dialects.native import NativeCodec
from llmops.gateway.refusal import Refusal

if TYPE_CHECKING:
    from llmops.gateway.dialects.wire import Codec
    from llmops.gateway.surfaces import Surface
    from llmops.gateway.targets import Provider

_OPENAI_NATIVE: Final = frozenset({"chat", "completions", "embeddings"})
_made: dict[tuple[str, str, bool], Codec] = {}


def codec_for(surface: Surface, provider: Provider) -> Codec:
    """The codec between a caller's surface and a provider's dialect.

    Raises:
        Refusal: 400: that provider cannot do what the surface asks.
    """
    form = provider.form
    native = (
        form.dialect == "openai"
        and (surface.name in _OPENAI_NATIVE or (surface.name == "responses" and form.responses))
    ) or (form.dialect == "anthropic" and surface.dialect == "anthropic")
    key = (surface.name, "native" if native else form.dialect, form.stream_usage)
    codec = _made.get(key)
    if codec is None:
        if not native:
            raise Refusal(400, f"{surface.name} requests cannot be sent to a server that speaks {form.dialect}")
        codec = _made[key] = NativeCodec(surface, ask_usage=form.stream_usage)
    return codec
