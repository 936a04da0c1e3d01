"""Gather requests with equal parameters into one call, for upstreams that do not batch by themselves.

Nothing waits while the upstream is idle: the first request goes at once, and what comes while it is under way is gathered,
up to ``max_size`` inputs or ``max_wait_ms``. A call that the upstream refuses is made again request by request, so that one
bad request never fails its neighbours.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmops.gateway.dialects.wire import UNREADABLE, Ask, encode
from llmops.gateway.resilience import Failure
from llmops.prices import Usage

if TYPE_CHECKING:
    from llmops.gateway.config import Batching
    from llmops.gateway.metrics import Metrics

Got = tuple[bytes, Usage | None]
Send = Callable[[Ask], Awaitable[Got]]
_INPUT: Final = {"embeddings": "input", "completions": "prompt"}


@dataclass(slots=True, eq=False)
class _Waiting:
    ask: Ask
    texts: list[Any]
    send: Send
    result: asyncio.Future[Got]


@dataclass(slots=True, eq=False)
class _Group:
    """Requests with equal parameters: those that wait, and how many calls are under way."""

    waiting: list[_Waiting] = field(default_factory=list)
    size: int = 0
    running: int = 0
    timer: asyncio.TimerHandle | None = None


class Batcher:
    """All groups of one provider."""

    def __init__(self, name: str, form: Batching, metrics: Metrics) -> None:
        self._name = name
        self._form = form
        self._metrics = metrics
        self._groups: dict[tuple[Any, ...], _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, ask: Ask, target: str, send: Send) -> Got:
        """The answer to one request, alone or out of a batch.

        Raises:
            Failure: As ``send`` does, for this request.
        """
        texts = inputs_of(ask)
        if texts is None or len(texts) >= self._form.max_size:
            return await send(ask)
        key = _key(ask, target)
        group = self._groups.setdefault(key, _Group())
        waiting = _Waiting(ask, texts, send, asyncio.get_running_loop().create_future())
        if group.size + len(texts) > self._form.max_size:
            self._flush(key, group)
        group.waiting.append(waiting)
        group.size += len(texts)
        if not group.running or group.size >= self._form.max_size:
            self._flush(key, group)
        elif group.timer is None:
            loop = asyncio.get_running_loop()
            group.timer = loop.call_later(self._form.max_wait_ms / 1000, self._flush, key, group)
        return await waiting.result

    def _flush(self, key: tuple[Any, ...], group: _Group) -> None:
        if group.timer is not None:
            group.timer.cancel()
            group.timer = None
        batch = [each for each in group.waiting if not each.result.done()]
        group.waiting, group.size = [], 0
        if batch:
            group.running += 1
            # A task of its own: a caller that goes away must not take the others' answers with it.
            task = asyncio.get_running_loop().create_task(self._call(key, group, batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _call(self, key: tuple[Any, ...], group: _Group, batch: list[_Waiting]) -> None:
        try:
            if len(batch) == 1:
                await _alone(batch[0])
            else:
                self._metrics.count("llm_batches_total", self._name)
                await self._together(batch)
        finally:
            group.running -= 1
            if group.waiting:
                self._flush(key, group)
            elif not group.running:
                self._groups.pop(key, None)

    async def _together(self, batch: list[_Waiting]) -> None:
        try:
            body, usage = await batch[0].send(_joined(batch))
            answers = _split(batch, body, usage)
        except Failure as failure:
            if failure.kind not in ("caller", "server", "protocol"):
                for each in batch:
                    _set_error(each, failure)
                return
            # Some request in it is bad, or together they are too much: everyone for themselves.
            await asyncio.gather(*(_alone(each) for each in batch))
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            for each in batch:
                _set_error(each, error)
            return
        for each, answer in zip(batch, answers, strict=True):
            self._metrics.count("llm_batched_requests_total", self._name)
            if not each.result.done():
                each.result.set_result(answer)


async def _alone(waiting: _Waiting) -> None:
    try:
        got = await waiting.send(waiting.ask)
    except Exception as error:  # noqa: BLE001 - handed to the one who waits
        _set_error(waiting, error)
    else:
        if not waiting.result.done():
            waiting.result.set_result(got)


def _set_error(waiting: _Waiting, error: Exception) -> None:
    if not waiting.result.done():
        waiting.result.set_exception(error)


def inputs_of(ask: Ask) -> list[Any] | None:
    """The texts of a request that can be gathered, else None."""
    name = _INPUT.get(ask.surface.name)
    if name is None or ask.stream:
        return None
    value = ask.value(name)
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) and value and all(isinstance(each, str) for each in value) else None


def _key(ask: Ask, target: str) -> tuple[Any, ...]:
    name = _INPUT[ask.surface.name]
    rest = sorted((field_name, bytes(raw)) for field_name, raw in ask.fields.items() if field_name != name)
    return (ask.surface.name, target, tuple(rest))


def _joined(batch: list[_Waiting]) -> Ask:
    first = batch[0].ask
    texts = [text for each in batch for text in each.texts]
    fields = {**first.fields, _INPUT[first.surface.name]: msgspec.Raw(encode(texts))}
    return Ask(first.surface, fields, first.model, first.stream, sum(each.ask.size for each in batch))


def _split(batch: list[_Waiting], body: bytes, usage: Usage | None) -> list[Got]:
    """Each one's part of the answer, with indexes from 0, and of the tokens, by the length of its texts."""
    try:
        whole: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except UNREADABLE:
        raise Failure("protocol", 502, "the upstream's answer to a batch cannot be read") from None
    name = "data" if "data" in whole else "choices"
    rows = sorted(whole.get(name) or (), key=lambda row: row.get("index", 0))
    total = sum(len(each.texts) for each in batch)
    if not rows or len(rows) % total:
        raise Failure("protocol", 502, f"the upstream gave {len(rows)} answers for {total} inputs")
    each_has = len(rows) // total
    shares = _shares(usage, [sum(len(text) for text in each.texts) for each in batch])
    answers: list[Got] = []
    start = 0
    for waiting, share in zip(batch, shares, strict=True):
        count = len(waiting.texts) * each_has
        mine = [{**row, "index": index} for index, row in enumerate(rows[start : start + count])]
        start += count
        made = {**whole, name: mine}
        if share is not None and "usage" in whole:
            made["usage"] = _usage_row(whole["usage"], share)
        answers.append((encode(made), share))
    return answers


def _usage_row(row: dict[str, Any], share: Usage) -> dict[str, Any]:
    parts = {"prompt_tokens": share.input_tokens, "total_tokens": share.total_tokens}
    return parts | ({"completion_tokens": share.output_tokens} if "completion_tokens" in row else {})


def _shares(usage: Usage | None, sizes: list[int]) -> list[Usage | None]:
    """Split a call's tokens by size; the sum is exact, each part an estimate."""
    if usage is None:
        return [None for _ in sizes]
    total = sum(sizes) or 1

    def cut(tokens: int) -> list[int]:
        bounds = [tokens * sum(sizes[:index]) // total for index in range(len(sizes) + 1)]
        bounds[-1] = tokens
        return [high - low for low, high in itertools.pairwise(bounds)]

    pairs = zip(cut(usage.input_tokens), cut(usage.output_tokens), strict=True)
    return [Usage(into, out, estimated=True) for into, out in pairs]
