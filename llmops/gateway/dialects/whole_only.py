"""Codecs of what is never streamed: embeddings from Triton and Gemini, and Gemini's count of tokens."""

from __future__ import annotations

from typing import Any

import msgspec

from llmops.gateway.dialects import anthropic_read, completions, gemini, lost, triton
from llmops.gateway.dialects.ir import Chat
from llmops.gateway.dialects.wire import UNREADABLE, Ask, Lens, encode, error_in_200, in_path
from llmops.gateway.refusal import Refusal
from llmops.gateway.resilience import Failure
from llmops.prices import Usage


class EmbeddingsCodec:
    """Embeddings from a Triton model (v2 infer) or Gemini."""

    native = False

    def __init__(self, dialect: str, text_input: str, text_output: str) -> None:
        self._dialect = dialect
        self._text = (text_input, text_output)

    def path(self, model: str, *, stream: bool) -> str:  # noqa: ARG002 - the interface of every codec
        """See ``Codec``."""
        name = in_path(model)
        return f"/v2/models/{name}/infer" if self._dialect == "triton" else f"/models/{name}:batchEmbedContents"

    def encode(self, ask: Ask, model: str, *, drop: bool) -> tuple[bytes, list[str]]:
        """See ``Codec``."""
        body = ask.deep()
        texts = completions.embedding_inputs(body)
        known = ("model", "input", "encoding_format", "dimensions", "stream")
        chat = Chat(extra={name: value for name, value in body.items() if name not in known})
        unsaid: dict[str, Any] = {}
        if self._dialect == "triton":
            unsaid["dimensions"] = body.get("dimensions")
            made: dict[str, Any] = triton.write_embeddings(texts, self._text[0])
        else:
            size = {"outputDimensionality": body["dimensions"]} if body.get("dimensions") else {}
            row = {"model": f"models/{model}", **size}
            made = {"requests": [{**row, "content": {"parts": [{"text": text}]}} for text in texts]}
        return encode(made), lost.settle(chat, unsaid, drop=drop, to=self._dialect)

    def decode(self, ask: Ask, body: bytes) -> tuple[bytes, Usage | None]:
        """See ``Codec``. Neither counts tokens, so the caller's count is an estimate and no usage is claimed."""
        try:
            raw = msgspec.json.decode(body)
            if raw.get("error") is not None:
                raise error_in_200(raw["error"])
            if self._dialect == "triton":
                vectors = triton.read_embeddings(raw, self._text[1])
            else:
                vectors = [row["values"] for row in raw["embeddings"]]
        except (*UNREADABLE, AttributeError, TypeError, KeyError, IndexError, ValueError):
            raise Failure("protocol", 502, "the upstream's answer has not the form it should have") from None
        texts = completions.embedding_inputs(ask.deep())
        if len(vectors) != len(texts):
            raise Failure("protocol", 502, f"the upstream gave {len(vectors)} vectors for {len(texts)} texts")
        tokens = sum(max(1, len(text.encode()) // 4) for text in texts)
        base64 = ask.deep().get("encoding_format") == "base64"
        return encode(completions.embedding_answer(vectors, ask.model, tokens, base64=base64)), None

    def lens(self, ask: Ask) -> Lens:
        """See ``Codec``; ``read_ask`` takes no stream on this surface."""
        raise Refusal(400, f"embeddings of {ask.model!r} are not streamed", param="stream")


class CountingCodec:
    """Anthropic's ``count_tokens`` answered by Gemini's ``countTokens``, over the same translated conversation."""

    native = False

    def path(self, model: str, *, stream: bool) -> str:  # noqa: ARG002 - the interface of every codec
        """See ``Codec``."""
        return f"/models/{in_path(model)}:countTokens"

    def encode(self, ask: Ask, model: str, *, drop: bool) -> tuple[bytes, list[str]]:
        """See ``Codec``."""
        try:
            chat = anthropic_read.read_request({"max_tokens": 1, **ask.deep()})
            chat.max_tokens = None
            body, unsaid = gemini.write_request(chat, model)
        except (*UNREADABLE, AttributeError, TypeError, KeyError, ValueError) as error:
            raise Refusal(400, f"the request is malformed: {error}", code="invalid_request") from None
        whole = {"model": f"models/{model}", **body}
        return encode({"generateContentRequest": whole}), lost.settle(chat, unsaid, drop=drop, to="gemini")

    def decode(self, ask: Ask, body: bytes) -> tuple[bytes, Usage | None]:  # noqa: ARG002 - the same
        """See ``Codec``."""
        try:
            raw = msgspec.json.decode(body)
            if raw.get("error") is not None:
                raise error_in_200(raw["error"])
            count = int(raw["totalTokens"])
        except (*UNREADABLE, AttributeError, TypeError, KeyError, ValueError):
            raise Failure("protocol", 502, "the upstream's answer has not the form it should have") from None
        return encode({"input_tokens": count}), Usage()

    def lens(self, ask: Ask) -> Lens:
        """See ``Codec``; ``read_ask`` takes no stream on this surface."""
        raise Refusal(400, f"counts for {ask.model!r} are not streamed", param="stream")
