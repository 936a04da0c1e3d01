"""Serve with NVIDIA Triton: the repository, its checks, the server and its log."""

from llmops.serve.triton.check import CheckReport, check_repository
from llmops.serve.triton.serve import TritonReport, serve, serve_detached, view
from llmops.serve.triton.server import RunningTriton, TritonDecision, decide, running
from llmops.serve.triton.spec import TritonSpec, spec_from

__all__ = [
    "CheckReport",
    "RunningTriton",
    "TritonDecision",
    "TritonReport",
    "TritonSpec",
    "check_repository",
    "decide",
    "running",
    "serve",
    "serve_detached",
    "spec_from",
    "view",
]
