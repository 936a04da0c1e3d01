"""Serve a model: decide, launch an engine, wait until it really answers, leave nothing behind."""

from llmops.serve.running import RunningServer, start
from llmops.serve.serve import ServeReport, serve
from llmops.serve.spec import ServeSpec, spec_from
from llmops.serve.view import view

__all__ = ["RunningServer", "ServeReport", "ServeSpec", "serve", "spec_from", "start", "view"]
