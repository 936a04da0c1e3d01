"""Real chat requests to the served model, shown as they were answered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from llmops.errors import OutsideError
from llmops.pipeline.spec import ChatStep


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer. Tokens are the server's own count; None where it gave none."""

    question: str
    answer: str
    seconds: float
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None


def ask(url: str, model: str, step: ChatStep, timeout_s: float = 120) -> tuple[Exchange, ...]:
    """Ask every question, one after another.

    Args:
        url: The server's base address, without ``/v1``.
        model: Its name of the model.
        step: Questions and sampling.
        timeout_s: For each answer.

    Raises:
        OutsideError: The server refused or did not answer.
    """
    import httpx

    with httpx.Client(base_url=url, timeout=timeout_s, trust_env=False) as client:
        return tuple(_ask_one(client, model, question, step) for question in step.questions)


def _ask_one(client: Any, model: str, question: str, step: ChatStep) -> Exchange:
    import httpx

    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": step.max_tokens,
        "temperature": step.temperature,
    }
    if step.stop:
        body["stop"] = list(step.stop)
    began = time.monotonic()
    try:
        response = client.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        answer = response.json()
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
    except httpx.HTTPStatusError as error:
        said = " ".join(error.response.text.split())[:200]
        raise OutsideError(
            f"the server answered {error.response.status_code}: {said}", "its log is in the run's directory"
        ) from error
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise OutsideError(
            f"no usable answer from the server: {error!r}", "its log is in the run's directory"
        ) from error
    usage = answer.get("usage") or {}
    return Exchange(
        question,
        text.strip(),
        time.monotonic() - began,
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        choice.get("finish_reason"),
    )
