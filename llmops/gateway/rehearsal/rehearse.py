"""``llmops gateway rehearse``: run a config before stand-ins of its providers and ask every route.

The config is used as it is, apart from what would leave this process: addresses and keys of providers, the callers' keys,
the directory of the books, Redis, logs and spans.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmops.findings import Finding
from llmops.gateway.config import Gateway, Listen, Route, load
from llmops.gateway.rehearsal.standin import StandIns
from llmops.report.document import Document, Table, Text

if TYPE_CHECKING:
    import httpx

    from llmops.progress import Progress

_QUESTION: Final = [{"role": "user", "content": "Is everybody here?"}]
_CHAT: Final = {"messages": _QUESTION, "max_tokens": 300, "temperature": 0.7}
# (name, path, body): what each route is asked, in the words of both APIs.
_ASKS: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("chat", "/v1/chat/completions", _CHAT),
    ("stream", "/v1/chat/completions", {**_CHAT, "stream": True}),
    ("messages", "/v1/messages", _CHAT),
    ("embeddings", "/v1/embeddings", {"input": "Is everybody here?"}),
)
_WILD: Final = "*?["


@dataclass(frozen=True, slots=True)
class RehearseSpec:
    """``port`` other than None goes on serving there until a signal."""

    config: Path
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and what came: ``target`` and ``cost`` from the answer's headers, ``why`` where it was no answer."""

    ask: str
    status: int
    target: str
    cost: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """One route. ``stands_in``: who answered while the first choice was down; empty where there is only one target."""

    route: str
    model: str
    asked: tuple[Asked, ...]
    first: str = ""
    stands_in: str = ""

    @property
    def answers(self) -> bool:
        """Whether it can be used at all: for chat in every form, or for embeddings."""
        good = {each.ask for each in self.asked if each.status == 200}
        return {"chat", "stream", "messages"} <= good or "embeddings" in good


@dataclass(frozen=True, slots=True)
class RehearseReport:
    """What was tried."""

    config: str
    routes: tuple[Rehearsed, ...]
    providers: int
    cost_usd: Decimal
    unpriced: int
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether every route answers, and does so too while its first choice is down."""
        return not any(finding.severity == "error" for finding in self.findings)


def rehearse(spec: RehearseSpec, progress: Progress) -> RehearseReport:
    """Try a config out.

    Raises:
        UsageError: The config is wrong.
        MachineError: The port is taken.
    """
    config = load(spec.config)
    with tempfile.TemporaryDirectory(prefix="llmops-rehearsal-") as scratch:
        return asyncio.run(_rehearse(config, spec, Path(scratch), progress))


async def _rehearse(config: Gateway, spec: RehearseSpec, scratch: Path, progress: Progress) -> RehearseReport:
    import httpx

    from llmops.gateway.sockets import listen

    standins = StandIns(config.providers)
    stage, door = listen("127.0.0.1", 0), listen("127.0.0.1", spec.port or 0)
    staged = _staged(config, stage.getsockname()[1], scratch)
    url = f"http://127.0.0.1:{door.getsockname()[1]}"
    async with _serving(standins, stage), _gateway(staged, door):
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            progress.phase(f"asking {len(config.routes)} routes before stand-ins of {len(config.providers)} providers")
            routes = [await _route(client, standins, route, config) for route in config.routes]
        if spec.port is not None:
            progress.phase(f"the rehearsal goes on at {url} until Ctrl-C; no key is needed")
            await _told_to_stop()
    return _report(str(spec.config), routes, len(config.providers))


def _staged(config: Gateway, port: int, scratch: Path) -> Gateway:
    """The config for the rehearsal."""
    from llmops.gateway.targets import prices_as_of

    providers = {}
    for name, form in config.providers.items():
        changes: dict[str, Any] = {"base_url": f"http://127.0.0.1:{port}/{name}", "local": bool(form.local)}
        changes |= {"prices_as": prices_as_of(form), "http": "pool", "health": None, "discover": False}
        changes |= {"key_env": None, "key_file": None, "key_vault": None}
        providers[name] = form.model_copy(update=changes)
    away: dict[str, Any] = dict.fromkeys(("access", "access_log", "replicas", "tracing"))
    cache = config.cache.model_copy(update={"redis": None})
    money = config.money
    if money is not None:
        changes = {"directory": scratch / "books", "postgres": None, "webhook": None}
        budgets = tuple(each.model_copy(update={"webhook": None}) for each in money.budgets)
        money = money.model_copy(update={**changes, "budgets": budgets})
    return config.model_copy(
        update={**away, "listen": Listen(), "keys": (), "providers": providers, "cache": cache, "money": money}
    )


# ---- asking ----


async def _route(client: httpx.AsyncClient, standins: StandIns, route: Route, config: Gateway) -> Rehearsed:
    model = _example(route, config)
    asked = tuple([await _ask(client, model, *each) for each in _ASKS])
    answered = next((each for each in asked if each.status == 200), None)
    if len(route.targets) < 2 or answered is None:
        return Rehearsed(route.match, model, asked)
    standins.down.add(answered.target.partition("/")[0])
    try:
        name, path, body = next(each for each in _ASKS if each[0] == answered.ask)
        instead = await _ask(client, model, name, path, {**body, "temperature": 0.8})
    finally:
        standins.down.clear()
    stands_in = instead.target if instead.status == 200 else f"nobody ({instead.status})"
    return Rehearsed(route.match, model, asked, answered.target, stands_in)


async def _ask(client: httpx.AsyncClient, model: str, name: str, path: str, body: dict[str, Any]) -> Asked:
    answer = await client.post(path, json={"model": model, **body})
    target, cost = (answer.headers.get(f"x-llmops-{each}", "") for each in ("target", "cost-usd"))
    if answer.status_code == 200:
        whole = name != "stream" or "[DONE]" in answer.text
        return Asked(name, 200 if whole else 0, target, cost, "" if whole else "the stream did not end")
    return Asked(name, answer.status_code, target, cost, _message(answer))


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


def _example(route: Route, config: Gateway) -> str:
    """A name that a route answers to: its own, or a real model's of its provider for a pattern."""
    names = [name for name in (route.match, *route.alias) if not any(char in name for char in _WILD)]
    if names:
        return names[0]
    from llmops.gateway.targets import prices_as_of
    from llmops.prices.library import models_of

    owner = prices_as_of(config.providers[route.targets[0].provider])
    known = [name for name in models_of(owner) if fnmatchcase(name, route.match)] if owner else []
    return known[0] if known else route.match.replace("*", "model").replace("?", "x")


# ---- servers ----


@contextlib.asynccontextmanager
async def _serving(standins: StandIns, sock: Any) -> AsyncIterator[None]:
    import uvicorn

    options: dict[str, Any] = {"loop": "none", "lifespan": "off", "log_config": None, "access_log": False, "ws": "none"}
    server = uvicorn.Server(uvicorn.Config(standins.app, **options))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # they are ours
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def _gateway(config: Gateway, sock: Any) -> AsyncIterator[None]:
    """A gateway in this loop, without signals of its own."""
    from llmops.gateway.app import App
    from llmops.gateway.server import make_server
    from llmops.gateway.site import Site

    app = App(Site(config))
    await app.site.start()
    server = make_server(app)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # as above
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
        await app.site.stop()
        if app.site.account is not None:
            app.site.account.close()


async def _told_to_stop() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop.set)
    try:
        await stop.wait()
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)


# ---- the report ----


def _report(config: str, routes: list[Rehearsed], providers: int) -> RehearseReport:
    costs = [each.cost for route in routes for each in route.asked if each.status == 200 and each.cost]
    amounts = [amount for cost in costs if (amount := _decimal(cost)) is not None]
    unpriced = sum(cost == "unknown" for cost in costs)
    return RehearseReport(
        config, tuple(routes), providers, sum(amounts, Decimal(0)), unpriced, tuple(_findings(config, routes))
    )


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def _findings(config: str, routes: list[Rehearsed]) -> Iterator[Finding]:
    for route in routes:
        if not route.answers:
            why = next((each.why for each in route.asked if each.why), "no answer")
            yield Finding(
                "route-fails", "error", f"route {route.route!r} does not answer: {why}", "check its targets", config
            )
        if route.stands_in.startswith("nobody"):
            message = f"route {route.route!r}: while {route.first} is down {route.stands_in} answers"
            yield Finding("no-fallback", "error", message, "check the other targets and their `when`", config)


def view(report: RehearseReport) -> Document:
    """A row a route."""
    columns = ("Route", "Target", "Answers", "Costs", "While that is down")
    rows = tuple(_row(route) for route in report.routes)
    blocks: list[Any] = [Table(columns, rows, right=frozenset(("Costs",)))]
    blocks += [Text(finding.message, "bad") for finding in report.findings]
    if report.unpriced:
        blocks.append(
            Text(f"{report.unpriced} answers have no known price: add their models to the prices file.", "warn")
        )
    said = f"routes {len(report.routes)}, providers {report.providers}"
    if report.ok:
        verdict = Text(
            f"every route answers: {said}; the same at the real ones would cost ${report.cost_usd:.4f}", "good"
        )
    else:
        verdict = Text(f"not every route answers: {said}", "bad")
    return Document(f"Rehearsal of {report.config}", tuple(blocks), verdict)


def _row(route: Rehearsed) -> tuple[str, ...]:
    good = [each for each in route.asked if each.status == 200]
    name = route.route if route.route == route.model else f"{route.route} ({route.model})"
    if not good:
        return (name, "-", "nothing", "-", "-")
    amount = _decimal(good[0].cost)
    cost = good[0].cost if amount is None else f"${amount:.6f}"
    forms = "everything" if len(good) == len(_ASKS) else ", ".join(each.ask for each in good)
    targets = ", ".join(dict.fromkeys(each.target for each in good))
    return (name, targets, forms, cost, route.stands_in or "nobody")
