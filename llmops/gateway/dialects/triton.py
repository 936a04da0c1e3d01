"""Triton's generate extension for text, and KServe v2 infer for embeddings."""

from __future__ import annotations

from typing import Any

import msgspec

from llmops.gateway.dialects.ir import Answer, Begin, Chat, Close, Event, Fail, Finish, More, Open, Part, Text
from llmops.gateway.dialects.wire import error_in_200
from llmops.prices import Usage


def write_request(chat: Chat, text_input: str = "text_input") -> tuple[dict[str, Any], dict[str, Any]]:
    """A generate request, and what it cannot say. Triton knows no roles: turns are written out as plain text."""
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
        text_input: prompt_of(chat),
        "stream": chat.stream,
        "max_tokens": chat.max_tokens,
        "temperature": chat.temperature,
        "top_p": chat.top_p,
        "top_k": chat.top_k,
        "stop": chat.stop or None,
        "random_seed": chat.seed,
        "presence_penalty": chat.presence,
        "frequency_penalty": chat.frequency,
    }
    return {name: value for name, value in body.items() if value is not None}, lost


def prompt_of(chat: Chat) -> str:
    """One user turn is the prompt itself; more are written with their roles, and the assistant's turn is opened."""
    texts = [(turn.role, "".join(part.text for part in turn.parts if isinstance(part, Text))) for turn in chat.messages]
    system = "\n".join(part.text for part in chat.system)
    if len(texts) == 1 and not system:
        return texts[0][1]
    lines = [f"System: {system}"] if system else []
    lines += [f"{role.capitalize()}: {text}" for role, text in texts]
    return "\n".join([*lines, "Assistant:"])


def read_response(body: dict[str, Any], text_output: str = "text_output") -> Answer:
    """A generate answer. Triton counts no tokens."""
    text = body.get(text_output, "")
    parts: list[Part] = [Text("".join(text) if isinstance(text, list) else str(text))]
    return Answer(f"triton-{body.get('id') or '0'}", body.get("model_name", ""), parts, "stop", None)


class Reader:
    """From generate_stream events to neutral ones."""

    def __init__(self, estimate: Usage, text_output: str = "text_output") -> None:
        self._estimate = estimate
        self._output = text_output
        self._begun = False
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
        text = body.get(self._output)
        if text:
            out.append(More("".join(text) if isinstance(text, list) else str(text)))
        return out

    def end(self) -> list[Event]:
        """Triton ends a stream by ending it."""
        if not self._begun or self.done:
            return []
        self.done = True
        return [Close(), Finish("stop", None)]


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
