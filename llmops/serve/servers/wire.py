"""The OpenAI wire format as this server speaks it: requests checked, answers and errors shaped."""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec

Kind = Literal["chat", "text"]
MAX_CHOICES = 16


class ApiError(Exception):
    """A refusal in OpenAI's shape.

    Args:
        status: HTTP status.
        message: What is wrong, for the developer of the client.
        code: Machine-readable, such as ``context_length_exceeded``.
        param: The field it is about.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kinds = {400: "invalid_request_error", 404: "invalid_request_error", 422: "invalid_request_error"}
        kind = kinds.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class StreamOptions(msgspec.Struct):
    """``stream_options``."""

    include_usage: bool = False


class Body(msgspec.Struct, kw_only=True):
    """Fields of both endpoints. Unknown fields are accepted and ignored, as OpenAI-compatible servers do."""

    model: str
    messages: list[dict[str, Any]] | None = None
    prompt: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    n: int | None = 1
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | int | None = None
    echo: bool | None = False
    suffix: str | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt as text or token ids, from the four forms that the format allows.

        Raises:
            ApiError: It has another form.
        """
        given = self.prompt
        if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
            given = [given]
        try:
            return msgspec.convert(given, list[str | list[int]])
        except msgspec.ValidationError as error:
            text = "'prompt' must be a string, a list of strings, or token ids"
            raise ApiError(400, text, "invalid_value", "prompt") from error

    @property
    def limit(self) -> int | None:
        """Tokens to generate at most, under its new name or its old one."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage


def parse(raw: bytes, kind: Kind, model: str) -> Body:
    """Read and check a request body.

    Raises:
        ApiError: It is no JSON, a value is out of range, a feature is asked for that is not there, or the model has
            another name.
    """
    try:
        body = msgspec.json.decode(raw, type=Body)
    except msgspec.ValidationError as error:
        raise ApiError(400, str(error), "invalid_value") from error
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}", "invalid_json") from error
    if body.model != model:
        raise ApiError(404, f"the model {body.model!r} does not exist here; {model!r} does", "model_not_found", "model")
    if kind == "chat" and not body.messages:
        raise ApiError(400, "'messages' must not be empty", "missing_field", "messages")
    if kind == "text" and not body.prompt:
        raise ApiError(400, "'prompt' must not be empty", "missing_field", "prompt")
    _check_ranges(body)
    _refuse_missing_features(body)
    return body


def _check_ranges(body: Body) -> None:
    for name, value, low, high in (
        ("max_tokens", body.limit, 1, None),
        ("temperature", body.temperature, 0, 100),
        ("top_p", body.top_p, 0, 1),
        ("n", body.n, 1, MAX_CHOICES),
        ("presence_penalty", body.presence_penalty, -2, 2),
        ("frequency_penalty", body.frequency_penalty, -2, 2),
    ):
        if value is not None and (value < low or (high is not None and value > high)):
            span = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ApiError(400, f"{name!r} is {value}; it must be {span}", "invalid_value", name)


def _refuse_missing_features(body: Body) -> None:
    asked = {
        "logprobs": body.logprobs,
        "echo": body.echo,
        "suffix": body.suffix,
        "tools": body.tools,
        "response_format": body.response_format and body.response_format.get("type") != "text",
    }
    for name, value in asked.items():
        if value:
            raise ApiError(400, f"{name!r} is not supported by this engine", "unsupported_parameter", name)


class Shape:
    """Answers of one request: the envelope that all of its chunks or its one body share."""

    def __init__(self, kind: Kind, request_id: str, model: str) -> None:
        self._kind = kind
        prefix = "chatcmpl" if kind == "chat" else "cmpl"
        self._base = {"id": f"{prefix}-{request_id}", "created": int(time.time()), "model": model}

    def chunk(self, index: int, text: str | None, finish: str | None, *, first: bool = False) -> dict[str, Any]:
        """One streamed piece."""
        if self._kind == "text":
            choice: dict[str, Any] = {"index": index, "text": text or "", "logprobs": None, "finish_reason": finish}
            return self._envelope("text_completion", [choice])
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if text is not None:
            delta["content"] = text
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._envelope("chat.completion.chunk", [choice])

    def usage_chunk(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        """The last chunk of a stream whose client asked for usage."""
        name = "chat.completion.chunk" if self._kind == "chat" else "text_completion"
        return self._envelope(name, []) | {"usage": usage(prompt_tokens, completion_tokens)}

    def whole(self, choices: list[tuple[str, str]], prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        """The body of an answer that is not streamed; ``choices`` are (text, finish_reason)."""
        listed: list[dict[str, Any]] = []
        for index, (text, finish) in enumerate(choices):
            choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": finish}
            if self._kind == "chat":
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            listed.append(choice)
        name = "chat.completion" if self._kind == "chat" else "text_completion"
        return self._envelope(name, listed) | {"usage": usage(prompt_tokens, completion_tokens)}

    def _envelope(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._base, "object": name, "choices": choices}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
