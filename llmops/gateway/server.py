"""Run a gateway: sockets, workers, signals, draining and reloading."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import uvicorn
import uvloop

from llmops.errors import LlmopsError, MachineError
from llmops.findings import Finding
from llmops.gateway.app import App
from llmops.gateway.awake import keep_awake
from llmops.gateway.config import Gateway
from llmops.gateway.fastlane import Lane, fits
from llmops.gateway.scoreboard import Scoreboard
from llmops.gateway.site import Site
from llmops.gateway.sockets import listen, stop_handshakes
from llmops.gateway.state.shared_limits import SharedState

if TYPE_CHECKING:
    from llmops.progress import Progress

_log = logging.getLogger("llmops.gateway")
_BACKLOG: Final = 2048
_KEEP_ALIVE_S: Final = 75
# A request leaves no rings, so looking for them after each ten requests (700 objects) finds nothing.
_GC: Final = (20_000, 10, 10)
# After SIGTERM new connections are still taken for so long (who routes to us has to hear of it first) ...
_GRACE_S: Final = 0.2
# ... and then those whose handshake has begun: a few round trips.
_HANDSHAKES_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class ServedReport:
    """A gateway that has ended in good order."""

    url: str
    requests: int
    seconds: float
    ok: bool = True
    findings: tuple[Finding, ...] = ()

    def data(self) -> dict[str, object]:
        """For the JSON document."""
        return {"url": self.url, "requests": self.requests, "seconds": round(self.seconds, 3)}


class _Server(uvicorn.Server):
    """uvicorn with our signals: SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reloads."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: App,
        reload: Callable[[], None] | None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._app = app
        self._reload = reload
        self._on_ready = on_ready
        self._listening: list[socket.socket] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; a port that another process began to listen on in this moment is named."""
        self._listening = sockets or []
        try:
            await super().startup(sockets)
        except OSError as error:
            raise MachineError(f"cannot listen: {error.strerror}", "another port: --port") from error
        if self._on_ready is not None:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self.drain)
        if self._reload is not None:
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            yield
        finally:
            for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(each)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but connections that the kernel has taken and nobody accepted yet are accepted first.

        Closing a listening socket resets them, although their callers may have sent a whole request.
        """
        loop = asyncio.get_running_loop()
        for sock in sockets or []:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                while True:
                    await loop.connect_accepted_socket(self._protocol, sock.accept()[0])
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn's own factory
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def drain(self) -> None:
        """Say "not ready", close each connection after its answer, take what is already on its way, then shut down."""
        if self._app.draining:
            self.should_exit = self.force_exit = True
            return
        self._app.draining = True
        asyncio.get_running_loop().call_later(_GRACE_S, self._last_call)

    def _last_call(self) -> None:
        for sock in self._listening:
            stop_handshakes(sock)
        asyncio.get_running_loop().call_later(_HANDSHAKES_S, setattr, self, "should_exit", True)


def run_gateway(config: Gateway, progress: Progress, source: Path | None = None) -> ServedReport:
    """Serve in this process until a signal; returns when every accepted request has been answered.

    Args:
        config: What to run.
        progress: Told when it is ready.
        source: The config's file, read again on SIGHUP.

    Raises:
        MachineError: The port is taken.
        AccessError: A key that the config names is not there.
    """
    sock = listen(config.listen.host, config.listen.port)
    served: ServedReport = uvloop.run(_serve(App(Site(config)), progress, source, sock))
    return served


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Which worker this is, counted over restarts too, and the directory that the workers share."""

    index: int
    generation: int
    directory: Path


def run_worker(config: Gateway, progress: Progress, source: Path | None, place: WorkerPlace) -> ServedReport:
    """Serve as one of several workers, which share a port, their counters and their limits."""
    sock = listen(config.listen.host, config.listen.port, shared=True)
    site = Site(config, shared=SharedState(place.directory / "limits.map", place.index))
    app = App(site, Scoreboard(place.directory, f"{place.index}-{place.generation}"))
    if place.index:  # the first one answers on the metrics port, for all
        app.metrics_port = None
    served: ServedReport = uvloop.run(_serve(app, progress, source, sock))
    return served


async def _serve(app: App, progress: Progress, source: Path | None, sock: socket.socket) -> ServedReport:
    began = time.monotonic()
    await app.site.start()
    reload = _reloader(app, source) if source else None
    url = _url(sock)
    server = _Server(_uvicorn_config(app), app, reload, lambda: progress.phase(f"gateway ready on {url}"))
    tasks = [asyncio.create_task(each) for each in _side_work(app, server, reload)]
    gc.collect()
    gc.freeze()  # what is alive now stays: the collector need not walk it
    gc.set_threshold(*_GC)
    try:
        await server.serve(sockets=[sock])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await app.site.stop()
        if app.scoreboard is not None:
            app.scoreboard.write(app.site.metrics.snapshot())
        if app.site.account is not None:
            app.site.account.close()
    requests = sum(sum(stats.statuses.values()) for stats in app.site.metrics.models.values())
    return ServedReport(url, requests, time.monotonic() - began)


def make_server(app: App) -> uvicorn.Server:
    """A server in this process, for who runs the loop."""
    return _Server(_uvicorn_config(app), app, None)


def _side_work(
    app: App, server: uvicorn.Server, reload: Callable[[], None] | None
) -> Iterator[Coroutine[Any, Any, None]]:
    """What runs beside the requests."""
    yield _close_idle(server)
    if most_ms := app.site.config.listen.busy_poll_ms:
        yield keep_awake(lambda: server.server_state.total_requests + app.site.metrics.in_flight, most_ms / 1000)
    if app.metrics_port is not None:
        yield _serve_metrics(app, listen(app.site.config.listen.metrics_host, app.metrics_port))
    if app.scoreboard is not None:
        yield app.scoreboard.keep_writing(lambda: app.site.metrics.snapshot(app.site.gauges()))
        if reload is not None:
            yield app.scoreboard.watch_reload(reload)


async def _serve_metrics(app: App, sock: socket.socket) -> None:
    """``/metrics`` and health on a port of their own."""
    config = uvicorn.Config(
        app.metrics_app(), loop="none", lifespan="off", log_config=None, access_log=False, ws="none", http="httptools"
    )
    server = _Server(config, app, None)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # the main server has the signals
    await server.serve(sockets=[sock])


async def _close_idle(server: uvicorn.Server) -> None:
    """One timer for all connections."""
    while True:
        await asyncio.sleep(5)
        before = time.monotonic() - _KEEP_ALIVE_S
        for connection in list(server.server_state.connections):
            if isinstance(connection, Lane):
                connection.close_if_idle(before)


def _uvicorn_config(app: App) -> uvicorn.Config:
    lane = cast("type[asyncio.Protocol]", partial(Lane, app)) if fits() else "httptools"  # uvicorn calls it, no more
    return uvicorn.Config(
        app,
        http=lane,
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(app.site.config.listen.drain_s) or 1,
        backlog=_BACKLOG,
    )


def _reloader(app: App, source: Path) -> Callable[[], None]:
    """SIGHUP: a new site from the file, or the old one where the file is wrong."""

    def reload() -> None:
        from llmops.gateway.config import load

        try:
            fresh = Site(load(source), app.site.metrics, app.site.shared, app.site)
        except LlmopsError as error:
            _log.error("the config was not reloaded: %s", error.message)
            return
        old, app.site = app.site, fresh
        old.successor = fresh
        loop = asyncio.get_running_loop()
        app.reloads = [loop.create_task(each) for each in (fresh.start(), fresh.take_budgets(), old.stop())]
        _log.warning("the config was reloaded")

    return reload


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
