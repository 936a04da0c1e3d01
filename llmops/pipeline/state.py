"""What flows through a run, and what each step leaves."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.progress import Progress
from llmops.report.document import Block

if TYPE_CHECKING:
    from llmops.bench import BenchReport
    from llmops.serve import RunningServer


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step of a run.

    Attributes:
        verb: The step's name in the recipe.
        summary: Its result in one line.
        seconds: How long it took this time.
        reused: Whether an earlier run's result serves.
        data: The verb's own result, as it stands in its ``--json``.
        blocks: For the report's page.
    """

    verb: str
    summary: str
    seconds: float = 0.0
    reused: bool = False
    ok: bool = True
    data: Any = None
    blocks: tuple[Block, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(slots=True)
class Run:
    """The moving parts of one run; steps read what earlier ones left and leave what later ones need.

    Attributes:
        base: The model as it came.
        model: The model as it is now: the base, or its quantised copy.
        server: The endpoint that ``serve`` started, until the run ends.
        benches: Every load measured so far.
        stack: Ends what was started, last first.
    """

    directory: Path
    progress: Progress
    wanted_model: str | None = None
    base: Path | None = None
    model: Path | None = None
    model_name: str = ""
    server: RunningServer | None = None
    benches: list[BenchReport] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)

    def need_model(self, verb: str) -> Path:
        """The current model.

        Raises:
            UsageError: No step gave one.
        """
        if self.model is None:
            raise UsageError(f"the step {verb!r} has no model", "start the recipe with a 'model' step, or give --model")
        return self.model

    def need_server(self, verb: str) -> RunningServer:
        """The running server.

        Raises:
            UsageError: No step started one.
        """
        if self.server is None:
            raise UsageError(f"the step {verb!r} has no server", "put a 'serve' step before it")
        return self.server
