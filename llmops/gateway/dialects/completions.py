"""OpenAI's classic Completions before servers that only chat, and texts for embeddings."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec

from llmops.gateway.dialects.ir import Answer, Begin, Chat, Event, Fail, Finish, Message, More, Text
from llmops.gateway.dialects.openai_write import FINISH
from llmops.gateway.dialects.usage import as_openai
from llmops.gateway.refusal import Refusal, error_event

_KNOWN: Final = frozenset(
    {
        "model", "prompt", "max_tokens", "temperature", "top_p", "stop", "seed", "presence_penalty",
        "frequency_penalty", "stream", "stream_options", "user",
    }
)  # fmt: skip


def read_request(body: dict[str, Any]) -> Chat:
    """A Completions request as a conversation of one turn.

    Raises:
        Refusal: 400: the prompt is no single text.
    """
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise Refusal(400, "'prompt' must be one text for this model", param="prompt")
    stop = body.get("stop")
    return Chat(
        model=body.get("model", ""),
        messages=[Message("user", [Text(prompt)])],
        max_tokens=body.get("max_tokens", 16),  # OpenAI's default
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        stop=[stop] if isinstance(stop, str) else list(stop or ()),
        seed=body.get("seed"),
        presence=body.get("presence_penalty"),
        frequency=body.get("frequency_penalty"),
        user=body.get("user"),
        stream=bool(body.get("stream")),
        extra={name: value for name, value in body.items() if name not in _KNOWN},
    )


def write_response(answer: Answer) -> dict[str, Any]:
    """A whole text completion."""
    text = "".join(part.text for part in answer.parts if isinstance(part, Text))
    made = _head(answer.id, answer.model, {"text": text, "finish_reason": FINISH[answer.stop]})
    if answer.usage is not None:
        made["usage"] = as_openai(answer.usage)
    return made


def _head(answer_id: str, model: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": answer_id or "cmpl-llmops",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "logprobs": None, "finish_reason": None, **choice}],
    }


class Writer:
    """From neutral events to text completion chunks."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._model = model
        self._id = ""
        self._include_usage = include_usage

    def write(self, event: Event) -> bytes:
        """Bytes for the caller."""
        if isinstance(event, Begin):
            self._id, self._model = event.id, event.model or self._model
        elif isinstance(event, More):
            return self._row(_head(self._id, self._model, {"text": event.text}))
        elif isinstance(event, Finish):
            out = self._row(_head(self._id, self._model, {"text": "", "finish_reason": FINISH[event.stop]}))
            if self._include_usage and event.usage is not None:
                out += self._row({**_head(self._id, self._model, {}), "choices": [], "usage": as_openai(event.usage)})
            return out + b"data: [DONE]\n\n"
        elif isinstance(event, Fail):
            return error_event("openai", event.failure.status, event.failure.message, code=event.failure.code)
        return b""

    def _row(self, row: dict[str, Any]) -> bytes:
        return b"data: " + msgspec.json.encode(row) + b"\n\n"


def embedding_inputs(body: dict[str, Any]) -> list[str]:
    """The texts of an Embeddings request.

    Raises:
        Refusal: 400: they are no texts.
    """
    source = body.get("input")
    texts = [source] if isinstance(source, str) else source
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "'input' must be a text or a list of texts for this model", param="input")
    return texts


def embedding_answer(vectors: list[list[float]], model: str, tokens: int, *, base64: bool) -> dict[str, Any]:
    """An Embeddings answer; ``base64`` is what OpenAI's own client asks for by default."""
    import base64 as codec
    from array import array

    def coded(vector: list[float]) -> Any:
        return codec.b64encode(array("f", vector).tobytes()).decode() if base64 else vector

    data = [{"object": "embedding", "index": index, "embedding": coded(row)} for index, row in enumerate(vectors)]
    return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
