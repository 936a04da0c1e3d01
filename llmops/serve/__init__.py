"""Serve models: decide, launch an engine, wait until it really answers, leave nothing behind."""

from llmops.serve.detached import list_servers, logs, serve_detached, status, stop
from llmops.serve.running import RunningServer, start
from llmops.serve.serve import ServeReport, serve
from llmops.serve.spec import ServeSpec, spec_from
from llmops.serve.view import view, view_log, view_servers, view_started, view_stopped

__all__ = [
    "RunningServer",
    "ServeReport",
    "ServeSpec",
    "list_servers",
    "logs",
    "serve",
    "serve_detached",
    "spec_from",
    "start",
    "status",
    "stop",
    "view",
    "view_log",
    "view_servers",
    "view_started",
    "view_stopped",
]
