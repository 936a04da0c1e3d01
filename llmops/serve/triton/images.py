"""A container image: there before the server's own clock runs, and no container left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from llmops.errors import ExitCode, LlmopsError
from llmops.process import run_logged, tail
from llmops.progress import Progress
from llmops.serve.triton.launch import TritonLaunch
from llmops.serve.triton.locate import Server
from llmops.serve.triton.logs import describe, find_cause

LOOK_S: Final = 60.0
# NVIDIA's images have 10 to 25 GB, and a link may be slow.
PULL_S: Final = 4 * 3600.0


def have_image(server: Server, log: Path, progress: Progress) -> None:
    """Pull the image where it is not on this machine.

    Raises:
        LlmopsError: The container engine does not answer, or the image cannot be had.
    """
    program, image = str(server.program), str(server.image)
    if run_logged((program, "image", "inspect", "--format", "{{.Id}}", image), log, timeout_s=LOOK_S) == 0:
        return
    said = tail(log, 40)
    found = find_cause(said)
    if found is not None and found.cause.code is ExitCode.MACHINE:
        raise _failed(said, log, image)
    progress.phase(f"pulling {image} (many gigabytes)")
    if run_logged((program, "pull", image), log, timeout_s=PULL_S) != 0:
        raise _failed(tail(log, 40)[len(said) :] or said, log, image)


def _failed(lines: list[str], log: Path, image: str) -> LlmopsError:
    found = find_cause(lines)
    if found is None:
        last = next((text.strip() for text in reversed(lines) if text.strip()), "and nothing was said")
        return LlmopsError(f"{image} cannot be had: {last}", f"the log is {log}", exit_code=ExitCode.OUTSIDE)
    return LlmopsError(describe(found), found.cause.hint, exit_code=found.cause.code)


@contextlib.contextmanager
def removed(server: Server, launch: TritonLaunch, log: Path) -> Iterator[None]:
    """The client of a container engine may be killed before its container has ended: then the container is removed."""
    try:
        yield
    finally:
        if launch.container is not None:
            run_logged((str(server.program), "rm", "--force", launch.container), log, timeout_s=LOOK_S)
