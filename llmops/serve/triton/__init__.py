"""Serve with NVIDIA Triton: the repository, its checks, the server and its log."""

from llmops.serve.triton.check import CheckReport, check_repository
from llmops.serve.triton.server import RunningTriton, TritonDecision, decide, running
from llmops.serve.triton.spec import TritonSpec

__all__ = ["CheckReport", "RunningTriton", "TritonDecision", "TritonSpec", "check_repository", "decide", "running"]
