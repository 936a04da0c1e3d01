"""The providers' own token counts, read into one convention: totals include their parts, an explicit zero stays zero."""

from __future__ import annotations

from typing import Any

import msgspec

from llmops.gateway.dialects.shapes import (
    AnthropicCounts,
    CacheCreation,
    InputDetails,
    OpenAICounts,
    OutputDetails,
    ServerTools,
)
from llmops.prices import BILLED_TIERS, Usage

_openai = msgspec.json.Decoder(OpenAICounts)
_anthropic = msgspec.json.Decoder(AnthropicCounts)
_NO_INPUT_DETAILS = InputDetails()
_NO_OUTPUT_DETAILS = OutputDetails()


def openai_usage(raw: bytes | msgspec.Raw) -> Usage | None:
    """From an OpenAI ``usage`` object of Chat, Completions, Embeddings or Responses; None when it has no counts."""
    try:
        return openai_counts(_openai.decode(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def openai_counts(usage: OpenAICounts) -> Usage | None:
    """``openai_usage`` of an object that has been read."""
    into = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
    out = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
    if into is None and out is None:
        return None
    into_details = usage.prompt_tokens_details or usage.input_tokens_details
    out_details = usage.completion_tokens_details or usage.output_tokens_details
    if into_details is None and out_details is None:
        return Usage(into or 0, out or 0, usage.prompt_cache_hit_tokens or 0)
    into_details, out_details = into_details or _NO_INPUT_DETAILS, out_details or _NO_OUTPUT_DETAILS
    cached = into_details.cached_tokens
    return Usage(
        input_tokens=into or 0,
        output_tokens=out or 0,
        cache_read_tokens=(usage.prompt_cache_hit_tokens if cached is None else cached) or 0,
        cache_write_tokens=into_details.cache_write_tokens or 0,
        reasoning_tokens=out_details.reasoning_tokens or 0,
        input_audio_tokens=into_details.audio_tokens or 0,
        output_audio_tokens=out_details.audio_tokens or 0,
    )


def anthropic_usage(*raws: bytes | msgspec.Raw) -> Usage | None:
    """From Anthropic ``usage`` objects; of a stream's two (start, delta) each later count replaces the earlier one."""
    merged: dict[str, Any] = {}
    for raw in raws:
        try:
            usage = _anthropic.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        for name in usage.__struct_fields__:
            value = getattr(usage, name)
            if value is not None:
                merged[name] = value
    if "input_tokens" not in merged and "output_tokens" not in merged:
        return None
    written = merged.get("cache_creation_input_tokens", 0)
    read = merged.get("cache_read_input_tokens", 0)
    creation: CacheCreation | None = merged.get("cache_creation")
    tools: ServerTools | None = merged.get("server_tool_use")
    return Usage(
        input_tokens=merged.get("input_tokens", 0) + written + read,
        output_tokens=merged.get("output_tokens", 0),
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=(creation.ephemeral_1h_input_tokens or 0) if creation else 0,
        web_searches=(tools.web_search_requests or 0) if tools else 0,
        service_tier=tier if (tier := merged.get("service_tier", "")) in BILLED_TIERS else "",
    )


def of_tier(usage: Usage | None, tier: str | None) -> Usage | None:
    """Usage with the service tier that an answer names beside it, where that is billed by other rates."""
    if usage is None or tier not in BILLED_TIERS:
        return usage
    return msgspec.structs.replace(usage, service_tier=tier)


def gemini_usage(meta: dict[str, Any]) -> Usage:
    """From Gemini's ``usageMetadata``: thoughts are output beside the candidates, tool prompts are input."""
    thoughts = meta.get("thoughtsTokenCount") or 0

    def audio(name: str) -> int:
        return sum(row.get("tokenCount") or 0 for row in meta.get(name) or () if row.get("modality") == "AUDIO")

    return Usage(
        input_tokens=(meta.get("promptTokenCount") or 0) + (meta.get("toolUsePromptTokenCount") or 0),
        output_tokens=(meta.get("candidatesTokenCount") or 0) + thoughts,
        cache_read_tokens=meta.get("cachedContentTokenCount") or 0,
        reasoning_tokens=thoughts,
        input_audio_tokens=audio("promptTokensDetails"),
        output_audio_tokens=audio("candidatesTokensDetails"),
    )


def as_openai(usage: Usage) -> dict[str, Any]:
    """An OpenAI Chat ``usage`` object."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "audio_tokens": usage.input_audio_tokens,
            **({"cache_write_tokens": usage.cache_write_tokens} if usage.cache_write_tokens else {}),
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.output_audio_tokens,
        },
    }


def as_responses(usage: Usage) -> dict[str, Any]:
    """An OpenAI Responses ``usage`` object."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def as_anthropic(usage: Usage) -> dict[str, Any]:
    """An Anthropic ``usage`` object, whose ``input_tokens`` exclude what was read from or written to the cache."""
    plain = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
    return {
        "input_tokens": max(0, plain),
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
    }
