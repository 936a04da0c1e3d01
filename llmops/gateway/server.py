"""Run a gateway: sockets, workers, signals, draining and reloading."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from llmops.errors import LlmopsError, MachineError
from llmops.findings import Finding
from llmops.gateway.app import App
from llmops.gateway.config import Gateway
from llmops.gateway.fastlane import Lane, fits
from llmops.gateway.scoreboard import Scoreboard
from llmops.gateway.site import Site

if TYPE_CHECKING:
    from llmops.progress import Progress

_log = logging.getLogger("llmops.gateway")
_BACKLOG: Final = 2048
_KEEP_ALIVE_S: Final = 75
# After SIGTERM connections that were already on their way in are still taken for so long.
_GRACE_S: Final = 0.3


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


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket. ``shared``: several processes listen on the same port (SO_REUSEPORT).

    Raises:
        MachineError: The port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host.strip("[]"), port))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise MachineError(
            f"cannot listen on {host}:{port}: {error.strerror}", f"another port: --port {port + 1}"
        ) from error
    made.setblocking(False)
    return made


class _Server(uvicorn.Server):
    """uvicorn with our signals: SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reloads."""

    def __init__(self, config: uvicorn.Config, app: App, reload: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._app = app
        self._reload = reload

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

    def drain(self) -> None:
        """Say "not ready", close each connection after its answer, take what is already on its way, then shut down."""
        if self._app.draining:
            self.should_exit = self.force_exit = True
            return
        self._app.draining = True
        asyncio.get_running_loop().call_later(_GRACE_S, setattr, self, "should_exit", True)


def run_gateway(
    config: Gateway,
    progress: Progress,
    *,
    source: Path | None = None,
    sock: socket.socket | None = None,
    scoreboard: Scoreboard | None = None,
) -> ServedReport:
    """Serve until a signal; returns when every accepted request has been answered.

    Args:
        config: What to run.
        progress: Told when it is ready.
        source: The config's file, read again on SIGHUP.
        sock: A listening socket, when the caller has made it.
        scoreboard: Where workers put their counters.

    Raises:
        MachineError: The port is taken.
        AccessError: A key that the config names is not there.
    """
    sock = sock or listen(config.listen.host, config.listen.port)
    import uvloop

    served: ServedReport = uvloop.run(_serve(config, progress, source, sock, scoreboard))
    return served


async def _serve(
    config: Gateway, progress: Progress, source: Path | None, sock: socket.socket, scoreboard: Scoreboard | None
) -> ServedReport:
    app = App(Site(config), scoreboard)
    began = time.monotonic()
    await app.site.start()
    tasks = await _side_tasks(app)
    server = _Server(_uvicorn_config(app), app, _reloader(app, source) if source else None)
    url = _url(sock)
    progress.phase(f"gateway ready on {url}")
    gc.freeze()  # what is alive now stays: the collector need not walk it
    tasks.append(asyncio.get_running_loop().create_task(_close_idle(server)))
    try:
        await server.serve(sockets=[sock])
    finally:
        for task in tasks:
            task.cancel()
        await app.site.stop()
        if scoreboard is not None:
            scoreboard.write(app.site.metrics.snapshot())
    requests = sum(sum(stats.statuses.values()) for stats in app.site.metrics.models.values())
    return ServedReport(url, requests, time.monotonic() - began)


async def _side_tasks(app: App) -> list[asyncio.Task[Any]]:
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Any]] = []
    if app.scoreboard is not None:
        tasks.append(
            loop.create_task(app.scoreboard.keep_writing(lambda: app.site.metrics.snapshot(app.site.gauges())))
        )
    return tasks


async def _close_idle(server: uvicorn.Server) -> None:
    """One timer for all connections."""
    while True:
        await asyncio.sleep(5)
        before = time.monotonic() - _KEEP_ALIVE_S
        for connection in list(server.server_state.connections):
            if isinstance(connection, Lane):
                connection.close_if_idle(before)


def _uvicorn_config(app: App) -> uvicorn.Config:
    lane = type("BoundLane", (Lane,), {"gateway": app}) if fits() else "httptools"
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
            fresh = Site(load(source), app.site.metrics)
        except LlmopsError as error:
            _log.error("the config was not reloaded: %s", error.message)
            return
        old, app.site = app.site, fresh
        loop = asyncio.get_running_loop()
        app.reloads = [loop.create_task(fresh.start()), loop.create_task(old.stop())]
        _log.warning("the config was reloaded")

    return reload


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
