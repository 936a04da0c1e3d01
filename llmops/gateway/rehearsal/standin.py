"""Stand-ins of providers: one server that answers in each provider's own wire format, below a path of its own.

They say what they are, and how many tokens that took; they understand nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from llmops.gateway.config import Provider

INPUT_TOKENS: Final = 1000
OUTPUT_TOKENS: Final = 200
_DOWN: Final = {"error": {"message": "this stand-in is down, as it was asked to be", "type": "overloaded_error"}}
Event = tuple[str, Any]  # (its name or "", its data)


class StandIns:
    """An ASGI application: ``/NAME/…`` is the provider called NAME. ``down`` are those that fail now."""

    def __init__(self, forms: Mapping[str, Provider]) -> None:
        from starlette.applications import Starlette
        from starlette.routing import Route

        self.down: set[str] = set()
        self._forms = forms
        self.app = Starlette(routes=[Route("/{name}/{path:path}", self._answer, methods=["GET", "POST"])])

    async def _answer(self, request: Request) -> Response:
        from starlette.responses import JSONResponse, StreamingResponse

        name, path = request.path_params["name"], request.path_params["path"]
        if name in self.down:
            return JSONResponse(_DOWN, 503)
        if request.method == "GET":
            return JSONResponse({"object": "list", "data": []})
        body = await request.json()
        form, text = self._forms[name], f"This is the stand-in for {name}."
        if form.dialect == "triton":
            whole = _triton(path, body, text, form.triton_output)
        else:
            whole = _WHOLE[form.dialect](path, body, text)
        if isinstance(whole, dict):
            return JSONResponse(whole)
        return StreamingResponse(_sent(whole), media_type="text/event-stream")


async def _sent(events: Iterator[Event]) -> AsyncIterator[bytes]:
    for name, data in events:
        text = data if isinstance(data, str) else json.dumps(data)
        yield f"event: {name}\ndata: {text}\n\n".encode() if name else f"data: {text}\n\n".encode()


Whole = dict[str, Any] | Iterator[Event]


def _openai(path: str, body: dict[str, Any], text: str) -> Whole:
    head = {"id": "stand-in", "created": 1, "model": body.get("model", "")}
    usage = {
        "prompt_tokens": INPUT_TOKENS,
        "completion_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }
    if path.endswith("embeddings"):
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        rows = [{"object": "embedding", "index": n, "embedding": [0.6, 0.8]} for n in range(len(inputs))]
        used = {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS}
        return {"object": "list", "model": head["model"], "data": rows, "usage": used}
    if path.endswith("responses"):
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": [part]}
        used = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
        whole = {**head, "object": "response", "status": "completed", "output": [item], "usage": used}
        return (
            iter([("response.completed", {"type": "response.completed", "response": whole})])
            if body.get("stream")
            else whole
        )
    classic = path.endswith("/completions") and not path.endswith("chat/completions")
    if body.get("stream"):
        return _openai_stream(head, text, usage, classic=classic)
    said: dict[str, Any] = {"text": text} if classic else {"message": {"role": "assistant", "content": text}}
    kind = "text_completion" if classic else "chat.completion"
    return {**head, "object": kind, "choices": [{"index": 0, "finish_reason": "stop", **said}], "usage": usage}


def _openai_stream(head: dict[str, Any], text: str, usage: dict[str, int], *, classic: bool) -> Iterator[Event]:
    row = {**head, "object": "text_completion" if classic else "chat.completion.chunk"}
    for word in text.split(" "):
        said: dict[str, Any] = {"text": word + " "} if classic else {"delta": {"content": word + " "}}
        yield "", {**row, "choices": [{"index": 0, "finish_reason": None, **said}]}
    end: dict[str, Any] = {"text": ""} if classic else {"delta": {}}
    yield "", {**row, "choices": [{"index": 0, "finish_reason": "stop", **end}]}
    yield "", {**row, "choices": [], "usage": usage}
    yield "", "[DONE]"


def _anthropic(path: str, body: dict[str, Any], text: str) -> Whole:
    if path.endswith("count_tokens"):
        return {"input_tokens": INPUT_TOKENS}
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    message = {"id": "msg_stand_in", "type": "message", "role": "assistant", "model": body.get("model", "")}
    if not body.get("stream"):
        content = [{"type": "text", "text": text}]
        return {**message, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}
    delta = {"type": "text_delta", "text": text}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    events: list[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": OUTPUT_TOKENS}},
        {"type": "message_stop"},
    ]
    return ((event["type"], event) for event in events)


def _gemini(path: str, body: dict[str, Any], text: str) -> Whole:
    if path.endswith(":batchEmbedContents"):
        return {"embeddings": [{"values": [0.6, 0.8]} for _ in body["requests"]]}
    if path.endswith(":countTokens"):
        return {"totalTokens": INPUT_TOKENS}
    usage = {
        "promptTokenCount": INPUT_TOKENS,
        "candidatesTokenCount": OUTPUT_TOKENS,
        "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS,
    }
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, "finishReason": "STOP"}
    whole = {"responseId": "stand-in", "candidates": [candidate], "usageMetadata": usage}
    return iter([("", whole)]) if ":streamGenerateContent" in path else whole


def _triton(path: str, body: dict[str, Any], text: str, name: str) -> Whole:
    head = {"model_name": "stand-in", "model_version": "1"}
    if path.endswith("/infer"):
        texts = body["inputs"][0]["data"]
        output = {"name": name, "datatype": "FP32", "shape": [len(texts), 2], "data": [0.6, 0.8] * len(texts)}
        return {**head, "outputs": [output]}
    whole = {**head, name: text}
    return iter([("", whole)]) if path.endswith("generate_stream") else whole


_WHOLE: Final[dict[str, Callable[[str, dict[str, Any], str], Whole]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "gemini": _gemini,
}
