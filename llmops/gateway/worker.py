"""One worker process: ``python -m llmops.gateway.worker SPEC``, started by ``workers.py`` and by nothing else."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec

from llmops.errors import LlmopsError
from llmops.gateway.launch import RunSpec, settle
from llmops.gateway.server import WorkerPlace, run_worker
from llmops.masking import mask
from llmops.progress import Silent


class Job(msgspec.Struct):
    """What a worker is told."""

    config: str | None
    upstream: str | None
    host: str
    port: int
    prices: str | None
    index: int
    generation: int
    directory: str


def main() -> int:
    """Run a worker; returns its exit code."""
    job = msgspec.json.decode(sys.argv[1], type=Job)
    logging.basicConfig(level=logging.WARNING, format=f"%(levelname)s worker {job.index}: %(message)s")
    config = Path(job.config) if job.config else None
    prices = Path(job.prices) if job.prices else None
    try:
        settled = settle(RunSpec(config, job.upstream, job.host, job.port, 1, prices))
        run_worker(settled, Silent(), config, WorkerPlace(job.index, job.generation, Path(job.directory)))
    except LlmopsError as error:
        sys.stderr.write(mask(f"error: worker {job.index}: {error.message}\n"))
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
