"""Serve models: decide, launch an engine, wait until it really answers, leave nothing behind."""

from llmops.serve.detached import list_servers, logs, serve_detached, status, stop
from llmops.serve.fleet import serve_fleet
from llmops.serve.running import RunningServer, start
from llmops.serve.serve import ServeReport, serve
from llmops.serve.spec import ServeSpec, spec_from
from llmops.serve.view import view, view_fleet, view_log, view_servers, view_started, view_stopped

__all__ = [
    "RunningServer",
    "ServeReport",
    "ServeSpec",
    "list_servers",
    "logs",
    "serve",
    "serve_detached",
    "serve_fleet",
    "spec_from",
    "start",
    "status",
    "stop",
    "view",
    "view_fleet",
    "view_log",
    "view_servers",
    "view_started",
    "view_stopped",
]
