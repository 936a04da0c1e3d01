"""Triton's generate extension for text, and KServe v2 infer for embeddings."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from llmops.gateway.dialects.ir import (
    Answer,
    Begin,
    Chat,
    Close,
    Event,
    Fail,
    Finish,
    More,
    Open,
    Part,
    StopReason,
    Text,
)
from llmops.gateway.dialects.wire import error_in_200
from llmops.prices import Usage

_ASKED: Final = {
    "exclude_input_in_output": True,
    "return_finish_reason": True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
}


def write_request(
    chat: Chat, text_input: str = "text_input", messages_input: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A generate request, and what it cannot say.

    Triton knows no roles: turns are written out as plain text, except where a model has an input that takes them as JSON.
    """
    lost: dict[str, Any] = {}
    for turn in chat.messages:
        for part in turn.parts:
            if not isinstance(part, Text):
                lost[type(part).__name__.lower()] = True
    unsayable: dict[str, Any] = {
        "tools": chat.tools or None,
        "response_format": chat.format,
        "reasoning_effort": chat.effort,
    }
    unsayable |= {"thinking": chat.thinking, "logprobs": chat.logprobs, "user": chat.user}
    lost.update({name: True for name, value in unsayable.items() if value is not None})
    body: dict[str, Any] = {
        **({messages_input: turns_of(chat)} if messages_input else {text_input: prompt_of(chat)}),
        "stream": chat.stream,
        "max_tokens": chat.max_tokens,
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "top_k": chat.top_k,
        "stop": chat.stop or None,
        "random_seed": chat.seed,
        "presence_penalty": chat.presence,
        "frequency_penalty": chat.frequency,
        # Inputs of the vLLM backend, which repeats the prompt and counts nothing unless it is asked; others pass over them.
        **_ASKED,
    }
    return {name: value for name, value in body.items() if value is not None}, lost


def prompt_of(chat: Chat) -> str:
    """One user turn is the prompt itself; more are written with their roles, and the assistant's turn is opened."""
    texts = [(turn.role, _text_of(turn.parts)) for turn in chat.messages]
    system = "\n".join(part.text for part in chat.system)
    if len(texts) == 1 and not system:
        return texts[0][1]
    lines = [f"System: {system}"] if system else []
    lines += [f"{role.capitalize()}: {text}" for role, text in texts]
    return "\n".join([*lines, "Assistant:"])


def turns_of(chat: Chat) -> str:
    """The conversation as JSON, in the form that chat templates take."""
    turns = [{"role": turn.role, "content": _text_of(turn.parts)} for turn in chat.messages]
    system = "\n".join(part.text for part in chat.system)
    first = [{"role": "system", "content": system}] if system else []
    return msgspec.json.encode([*first, *turns]).decode()


def _text_of(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Text))


def read_response(body: dict[str, Any], text_output: str = "text_output") -> Answer:
    """A generate answer. The reason and the counts are there where the model gives them, as ours and vLLM's do."""
    text = body.get(text_output, "")
    parts: list[Part] = [Text("".join(text) if isinstance(text, list) else str(text))]
    tally = Tally()
    tally.add(body)
    return Answer(f"triton-{body.get('id') or '0'}", body.get("model_name", ""), parts, tally.stop, tally.usage)


class Tally:
    """Why a text ended, and its tokens: told at the end, or for each piece, which then are summed up."""

    def __init__(self) -> None:
        self.stop: StopReason = "stop"
        self._input: int | None = None
        self._output: int | None = None

    def add(self, body: dict[str, Any]) -> None:
        """What one response says of it."""
        if _first(body.get("finish_reason")) == "length":
            self.stop = "length"
        counted = _first(body.get("num_input_tokens"))
        if isinstance(counted, int):
            self._input = counted
        written = _first(body.get("num_output_tokens"))
        if isinstance(written, int):
            self._output = (self._output or 0) + written

    @property
    def usage(self) -> Usage | None:
        """None where the model does not count."""
        if self._input is None or self._output is None:
            return None
        return Usage(self._input, self._output)


def _first(value: Any) -> Any:
    """Tensors of one element come as themselves or as a list."""
    return value[0] if isinstance(value, list) and value else value


class Reader:
    """From generate_stream events to neutral ones."""

    def __init__(self, estimate: Usage, text_output: str = "text_output") -> None:
        self._estimate = estimate
        self._output = text_output
        self._begun = False
        self._tally = Tally()
        self.done = False

    def read(self, _name: bytes | None, data: bytes) -> list[Event]:
        """One event of the upstream."""
        body = msgspec.json.decode(data)
        if body.get("error") is not None:
            return [Fail(error_in_200(body["error"]))]
        out: list[Event] = []
        if not self._begun:
            self._begun = True
            out += [Begin(f"triton-{body.get('id') or '0'}", body.get("model_name", ""), self._estimate), Open("text")]
        self._tally.add(body)
        text = body.get(self._output)
        if text:
            out.append(More("".join(text) if isinstance(text, list) else str(text)))
        return out

    def end(self) -> list[Event]:
        """Triton ends a stream by ending it."""
        if not self._begun or self.done:
            return []
        self.done = True
        return [Close(), Finish(self._tally.stop, self._tally.usage)]


def write_embeddings(inputs: list[str], text_input: str = "text_input") -> dict[str, Any]:
    """A v2 infer request for texts."""
    row = {"name": text_input, "shape": [len(inputs), 1], "datatype": "BYTES", "data": inputs}
    return {"inputs": [row]}


def read_embeddings(body: dict[str, Any], text_output: str) -> list[list[float]]:
    """Vectors from a v2 infer answer: the named output, or the only one."""
    outputs = body.get("outputs") or []
    output = next((each for each in outputs if each.get("name") == text_output), outputs[0] if outputs else {})
    data, shape = output.get("data") or [], output.get("shape") or [0]
    width = len(data) // shape[0] if shape[0] else 0
    return [data[i * width : (i + 1) * width] for i in range(shape[0])]
