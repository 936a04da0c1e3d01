"""The HTTP side of the transformers server: OpenAI's endpoints, health, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llmops.serve.servers.batching import Batch
from llmops.serve.servers.metrics import Metrics
from llmops.serve.servers.sampling import Sampling
from llmops.serve.servers.text_stream import TextStream
from llmops.serve.servers.wire import ApiError, Body, Kind, Shape, parse

_encode = msgspec.json.Encoder().encode
MAX_BODY_BYTES = 32 * 1024**2


@dataclass(slots=True)
class Job:
    """One choice of one request: a prompt on its way to text."""

    index: int
    prompt: list[int]
    limit: int
    sampling: Sampling
    stream: TextStream
    finish: str = "length"
    count: int = 0
    text: list[str] = field(default_factory=list)


class Server:
    """The endpoints over one batch."""

    def __init__(self, batch: Batch, model: str, api_key: str | None = None) -> None:
        self._batch = batch
        self._api_key = api_key
        self._model = model
        self._metrics = Metrics(model)
        self._created = int(time.time())

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/metrics", self._expose),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._text, methods=["POST"]),
            ],
            exception_handlers={404: _not_found, 405: _not_allowed, ApiError: _refuse, Exception: _broken},
        )

    async def _health(self, _request: Request) -> Response:
        failure = self._batch.failure
        return Response(status_code=200) if failure is None else PlainTextResponse(failure, 503)

    async def _models(self, request: Request) -> Response:
        self._authorise(request)
        card = {"id": self._model, "object": "model", "created": self._created, "owned_by": "llmops"}
        card["max_model_len"] = self._batch.limits.context
        return _json({"object": "list", "data": [card]})

    async def _expose(self, _request: Request) -> Response:
        metrics = self._metrics
        metrics.running, metrics.waiting, metrics.cache_usage = self._batch.load
        return PlainTextResponse(metrics.render(), media_type="text/plain; version=0.0.4")

    def _authorise(self, request: Request) -> None:
        if self._api_key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._api_key.encode()):
            raise ApiError(401, "the API key is missing or wrong", "invalid_api_key")

    async def _chat(self, request: Request) -> Response:
        return await self._complete(request, "chat")

    async def _text(self, request: Request) -> Response:
        return await self._complete(request, "text")

    async def _complete(self, request: Request, kind: Kind) -> Response:
        self._authorise(request)
        raw = await request.body()
        if len(raw) > MAX_BODY_BYTES:
            raise ApiError(413, "the body is larger than 32 MiB", "body_too_large")
        body = parse(raw, kind, self._model)
        if self._batch.failure is not None:
            raise ApiError(503, f"the engine has stopped: {self._batch.failure}", "engine_dead")
        # Tokenising a long prompt takes a while; the other requests' streams go on meanwhile.
        prompts = await asyncio.to_thread(self._prompts, body, kind)
        jobs = self._jobs(body, prompts)
        request_id = secrets.token_hex(12)
        shape = Shape(kind, request_id, self._model)
        if body.stream:
            chunks = self._streamed(body, shape, jobs, request_id)
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)
        return await self._whole(request, body, shape, jobs, request_id)

    def _prompts(self, body: Body, kind: Kind) -> list[list[int]]:
        if kind == "chat":
            return [self._batch.chat_prompt(body.messages or [], body.chat_template_kwargs or {})]
        tokenize = self._batch.tokenizer
        return [list(tokenize(each)["input_ids"]) if isinstance(each, str) else each for each in body.prompts]

    def _jobs(self, body: Body, prompts: list[list[int]]) -> list[Job]:
        jobs: list[Job] = []
        for prompt in prompts:
            limit = self._limit(body, len(prompt))
            for _ in range(body.n or 1):
                sampling = self._sampling(body, len(jobs))
                stream = TextStream(self._batch.decode, body.stops)
                jobs.append(Job(len(jobs), prompt, limit, sampling, stream))
        return jobs

    def _limit(self, body: Body, prompt_tokens: int) -> int:
        context = self._batch.limits.context
        if prompt_tokens == 0:
            raise ApiError(400, "the prompt has no tokens", "invalid_value", "prompt")
        wanted = body.limit if body.limit is not None else max(1, context - prompt_tokens)
        if prompt_tokens + wanted > context:
            text = (
                f"this model's maximum context length is {context} tokens; you requested {prompt_tokens + wanted} "
                f"({prompt_tokens} in the prompt, {wanted} for the answer)"
            )
            raise ApiError(400, text, "context_length_exceeded", "messages" if body.messages else "prompt")
        return wanted

    def _sampling(self, body: Body, index: int) -> Sampling:
        """The request's own values, else the model's generation settings, else OpenAI's defaults."""
        defaults = self._batch.defaults
        seed = secrets.randbits(48) if body.seed is None else body.seed
        try:
            bias = {int(token): float(value) for token, value in (body.logit_bias or {}).items()}
        except ValueError as error:
            raise ApiError(400, "keys of 'logit_bias' must be token ids", "invalid_value", "logit_bias") from error
        return Sampling(
            temperature=_first(body.temperature, defaults.temperature, 1.0),
            top_p=_first(body.top_p, defaults.top_p, 1.0),
            top_k=max(0, int(_first(body.top_k, defaults.top_k, 0))),
            seed=(seed + index) % 2**48,
            presence=body.presence_penalty or 0.0,
            frequency=body.frequency_penalty or 0.0,
            repetition=_first(body.repetition_penalty, defaults.repetition_penalty, 1.0),
            bias=bias,
            banned=tuple(self._batch.ends) if body.min_tokens else (),
            banned_until=body.min_tokens,
        )

    async def _run(self, job: Job, request_id: str, *, ignore_end: bool) -> AsyncGenerator[str, None]:
        """The text of one job, piece by piece, while counting."""
        metrics, began, last = self._metrics, time.monotonic(), 0.0
        reason = "abort"
        steps = self._batch.generate(
            f"{request_id}-{job.index}", job.prompt, job.limit, job.sampling, ignore_end=ignore_end
        )
        try:
            async with contextlib.aclosing(steps):
                async for step in steps:
                    if step.error is not None:
                        reason = "error"
                        raise ApiError(500, f"the engine failed on this request: {step.error}", "engine_error")
                    fresh = step.tokens[job.count :]
                    now = time.monotonic()
                    if fresh:
                        metrics.arrived(len(fresh), now - (last or began), first=not last)
                        last = now
                    job.count += len(fresh)
                    text = job.stream.push(fresh)
                    if step.done and not job.stream.stopped:
                        text += job.stream.finish()
                        ended = bool(fresh) and fresh[-1] in self._batch.ends and not ignore_end
                        job.finish = "stop" if ended else "length"
                    if job.stream.stopped:
                        job.finish = "stop"
                    if text:
                        yield text
                    if step.done or job.stream.stopped:
                        reason = job.finish
                        return
        finally:
            metrics.finished[reason] += 1
            metrics.prompt_tokens += len(job.prompt)
            metrics.whole_s.observe(time.monotonic() - began)
            metrics.prompt_size.observe(len(job.prompt))
            metrics.answer_size.observe(job.count)

    async def _whole(self, request: Request, body: Body, shape: Shape, jobs: list[Job], request_id: str) -> Response:
        async def collect(job: Job) -> None:
            async with contextlib.aclosing(self._run(job, request_id, ignore_end=body.ignore_eos)) as pieces:
                job.text = [piece async for piece in pieces]

        async def collect_all() -> None:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(collect(job))

        work = asyncio.ensure_future(collect_all())
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return Response(status_code=499)  # nobody reads it
            await work
        except* ApiError as errors:
            raise errors.exceptions[0] from None
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        choices = [("".join(job.text), job.finish) for job in jobs]
        prompt_tokens = sum(len(prompt) for prompt in {id(job.prompt): job.prompt for job in jobs}.values())
        return _json(shape.whole(choices, prompt_tokens, sum(job.count for job in jobs)))

    async def _streamed(
        self, body: Body, shape: Shape, jobs: list[Job], request_id: str
    ) -> AsyncGenerator[bytes, None]:
        news: asyncio.Queue[tuple[Job, str | None] | ApiError] = asyncio.Queue()

        async def feed(job: Job) -> None:
            try:
                async with contextlib.aclosing(self._run(job, request_id, ignore_end=body.ignore_eos)) as pieces:
                    async for piece in pieces:
                        news.put_nowait((job, piece))
                news.put_nowait((job, None))
            except ApiError as error:
                news.put_nowait(error)

        tasks = [asyncio.ensure_future(feed(job)) for job in jobs]
        started: set[int] = set()
        open_jobs = len(jobs)
        try:
            while open_jobs:
                item = await news.get()
                if isinstance(item, ApiError):
                    yield _event(item.body())
                    return
                job, text = item
                finish = job.finish if text is None else None
                open_jobs -= text is None
                yield _event(shape.chunk(job.index, text, finish, first=job.index not in started))
                started.add(job.index)
            if body.wants_usage:
                prompt_tokens = sum(len(prompt) for prompt in {id(job.prompt): job.prompt for job in jobs}.values())
                yield _event(shape.usage_chunk(prompt_tokens, sum(job.count for job in jobs)))
            yield b"data: [DONE]\n\n"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _first(*values: float | None) -> float:
    return next(float(value) for value in values if value is not None)


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + _encode(body) + b"\n\n"


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(_encode(body), status, media_type="application/json")


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _json(error.body(), error.status)


async def _not_found(request: Request, _error: Exception) -> Response:
    return _json(ApiError(404, f"there is no {request.method} {request.url.path} here").body(), 404)


async def _not_allowed(request: Request, _error: Exception) -> Response:
    return _json(ApiError(405, f"{request.method} is not allowed for {request.url.path}").body(), 405)


async def _broken(_request: Request, error: Exception) -> Response:
    """A bug of this server; its traceback is in the log."""
    return _json(ApiError(500, f"internal error: {type(error).__name__}", "internal_error").body(), 500)
