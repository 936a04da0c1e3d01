"""The ASGI application: hot requests to ``request.serve``, the rest (models, health, metrics) to Starlette routes."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from llmops.gateway import asgi
from llmops.gateway.access import safe_text
from llmops.gateway.access.keyform import Digester
from llmops.gateway.keys import Caller
from llmops.gateway.refusal import Refusal
from llmops.gateway.request import serve
from llmops.gateway.surfaces import HOT, named

if TYPE_CHECKING:
    from starlette.requests import Request as WebRequest
    from starlette.responses import Response

    from llmops.gateway.reply import Reply, Request
    from llmops.gateway.scoreboard import Scoreboard
    from llmops.gateway.site import Site

_log = logging.getLogger("llmops.gateway")


class App:
    """What uvicorn runs. ``site`` is replaced by a reload; requests under way keep the one they began with."""

    def __init__(self, site: Site, scoreboard: Scoreboard | None = None) -> None:
        self.site = site
        self.scoreboard = scoreboard
        self.draining = False
        self.reloads: list[Any] = []
        self.max_body = int(site.config.listen.max_body_mib * 1024 * 1024)
        self.metrics_port = site.config.listen.metrics_port
        self._web = _web(self)

    def metrics_app(self) -> Any:
        """``/metrics`` and health for a port of their own, where no key is asked for."""
        return _web(self, own_port=True)

    async def serve(self, request: Request, reply: Reply) -> None:
        """Answer a hot request, from either road."""
        await serve(self.site, request, reply)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """ASGI 3."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["raw_path"].partition(b"?")[0]
            surface, model = HOT.get(path), None
            if surface is None and (found := named(path)) is not None:
                surface, model = found
            if surface is not None:
                await asgi.answer(self, surface, scope, receive, send, model=model)
                return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        await self._web(scope, receive, send)

    def snapshots(self) -> list[dict[str, Any]]:
        """Counters of this worker and of its siblings."""
        own = self.site.metrics.snapshot(self.site.gauges())
        return [own] if self.scoreboard is None else self.scoreboard.together(own)


def _web(app: App, *, own_port: bool = False) -> Any:
    """Everything that is not hot."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from llmops.gateway.metrics_text import render

    async def live(_request: WebRequest) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_request: WebRequest) -> Response:
        if app.draining:
            return PlainTextResponse("draining\n", 503)
        now = time.monotonic()
        targets = list(app.site.targets.values())
        if targets and all(target.blocked_s(now) > 0 for target in targets):
            return PlainTextResponse("no target answers\n", 503)
        return PlainTextResponse("ok\n")

    async def metrics(request: WebRequest) -> Response:
        if app.site.config.listen.metrics_port is not None and not own_port:
            raise HTTPException(404)
        refused = None if own_port else _not_admin(app, request)
        return refused or PlainTextResponse(render(app.snapshots()), media_type="text/plain; version=0.0.4")

    async def models(request: WebRequest) -> Response:
        return _models(app, request)

    async def model(request: WebRequest) -> Response:
        return _models(app, request, request.path_params["name"])

    async def missing(request: WebRequest, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        dialect = "anthropic" if request.headers.get("anthropic-version") else "openai"
        _log.warning("%s", safe_text(f"denied {status} not_found: {request.method} {request.url.path}"))
        refusal = Refusal(status, f"there is no {request.method} {request.url.path} here", code="not_found")
        return _json(status, refusal.body(dialect, ""))

    return Starlette(
        routes=[
            Route("/health", live),
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", metrics),
            Route("/v1/models", models),
            Route("/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/models/{name:path}", model),
        ],
        exception_handlers={HTTPException: missing},
    )


def _models(app: App, request: WebRequest, one: str | None = None) -> Response:
    """The models that this caller may use, in the form of the API that asks."""
    anthropic = request.headers.get("anthropic-version") is not None
    dialect = "anthropic" if anthropic else "openai"
    try:
        caller = _caller(app, request)
    except Refusal as refusal:
        return _json(refusal.status, refusal.body(dialect, ""))
    names = [name for name in app.site.table.names() if caller.may_use(name)]
    if one is not None and not (caller.may_use(one) and app.site.table.resolve(one)):
        missing = Refusal(404, f"the model {one!r} does not exist here", code="model_not_found", param="model")
        return _json(404, missing.body(dialect, ""))
    row = _anthropic_model if anthropic else _openai_model
    if one is not None:
        return _json(200, msgspec.json.encode(row(one)))
    rows = [row(name) for name in names]
    listing: dict[str, Any] = {"object": "list", "data": rows}
    if anthropic:
        ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        listing = {"data": rows, "has_more": False, **ends}
    return _json(200, msgspec.json.encode(listing))


def _openai_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llmops"}


def _anthropic_model(name: str) -> dict[str, Any]:
    return {"id": name, "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


def _caller(app: App, request: WebRequest) -> Caller:
    headers = request.headers
    authorization, api_key = headers.get("authorization"), headers.get("x-api-key")
    caller = app.site.keyring.identify(
        authorization.encode("latin-1") if authorization else None,
        api_key.encode("latin-1") if api_key else None,
        Digester(),
    )
    if caller is None:  # a token whose issuer's keys are not here yet; a chat request fetches them
        raise Refusal(503, "tokens cannot be checked at this moment", code="identity_unavailable", retry_after_s=1)
    return caller


def _not_admin(app: App, request: WebRequest) -> Response | None:
    try:
        if _caller(app, request).admin:
            return None
        refusal = Refusal(403, "this key may not read metrics; use a key with admin: true", code="not_admin")
    except Refusal as error:
        refusal = error
    return _json(refusal.status, refusal.body("openai", ""))


def _json(status: int, body: bytes) -> Response:
    from starlette.responses import Response as WebResponse

    return WebResponse(body, status, media_type="application/json")
