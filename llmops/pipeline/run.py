"""Runs a recipe: each step in order, one report of the whole, everything stopped at the end whatever happens."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from llmops.errors import LlmopsError, UsageError
from llmops.findings import Finding
from llmops.pipeline.machine import describe_machine
from llmops.pipeline.rundir import discard, locked
from llmops.pipeline.spec import Recipe, Step, load_recipe
from llmops.pipeline.state import Run, StepReport
from llmops.progress import Progress, Within
from llmops.recipes import find_recipe


class RunSpec(BaseModel):
    """What was asked on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    model: str | None = None
    name: str | None = None
    changes: tuple[str, ...] = ()
    fresh: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class RunReport:
    """A whole run.

    Attributes:
        steps: What each step left; the last one may have failed.
        planned: The steps that were not run: all of them in a dry run.
        machine: What it ran on, label and value.
        started: UTC, ISO 8601.
    """

    name: str
    summary: str
    recipe: str
    directory: Path
    started: str
    seconds: float
    machine: tuple[tuple[str, str], ...]
    steps: tuple[StepReport, ...]
    planned: tuple[Step, ...]
    ok: bool
    findings: tuple[Finding, ...]
    dry_run: bool = False

    def data(self) -> dict[str, Any]:
        """The JSON form: each step with its data, without the page's blocks."""
        return {
            "name": self.name,
            "recipe": self.recipe,
            "directory": self.directory,
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "machine": dict(self.machine),
            "steps": [
                {
                    "verb": step.verb,
                    "ok": step.ok,
                    "reused": step.reused,
                    "seconds": round(step.seconds, 3),
                    "summary": step.summary,
                    "data": step.data,
                }
                for step in self.steps
            ],
            "planned": [{"verb": step.verb, "options": dict(step.options)} for step in self.planned],
        }


def run(spec: RunSpec, progress: Progress) -> RunReport:
    """Run a recipe.

    Raises:
        UsageError: The recipe is wrong; nothing was done.
        LlmopsError: A step failed; the report in the run's directory says which, and a second run continues there.
    """
    from llmops.settings import settings

    recipe, _ = load_recipe(find_recipe(spec.recipe), spec.changes)
    name = spec.name or recipe.name
    if "/" in name or name in (".", ".."):
        raise UsageError(f"--name {name!r} is not a plain name", "it becomes a directory below the runs directory")
    journal = _Journal(recipe, name, settings().runs_dir / name)
    if spec.dry_run:
        return journal.report(dry_run=True)
    with locked(journal.directory):
        if spec.fresh:
            _empty(journal.directory)
        return _run_steps(journal, Run(journal.directory, progress, spec.model))


@dataclass(slots=True)
class _Journal:
    """How far a run has come."""

    recipe: Recipe
    name: str
    directory: Path
    began: float = field(default_factory=time.monotonic)
    done: list[StepReport] = field(default_factory=list)

    def report(self, *, dry_run: bool = False) -> RunReport:
        return RunReport(
            name=self.name,
            summary=self.recipe.summary,
            recipe=self.recipe.file,
            directory=self.directory,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=time.monotonic() - self.began,
            machine=describe_machine(),
            steps=tuple(self.done),
            planned=self.recipe.steps[len(self.done) :],
            ok=all(step.ok for step in self.done),
            findings=tuple(finding for step in self.done for finding in step.findings),
            dry_run=dry_run,
        )

    def write(self) -> RunReport:
        """Write the report as it stands, in every format."""
        from llmops.pipeline.view import view
        from llmops.report import files

        report = self.report()
        document = view(report)
        for suffix in (".json", ".md", ".html"):
            files.write(self.directory / f"report{suffix}", "run", report, document)
        return report


def _run_steps(journal: _Journal, run_: Run) -> RunReport:
    total, progress = len(journal.recipe.steps), run_.progress
    with run_.stack:
        for index, step in enumerate(journal.recipe.steps):
            name = f"[{index + 1}/{total}] {step.verb}"
            progress.phase(name)
            run_.progress = Within(progress, name)
            done = _run_step(step, run_, journal)
            journal.done.append(done)
            progress.done(("reused: " if done.reused else "") + done.summary)
            if not done.ok:
                break
    return journal.write()


def _run_step(step: Step, run_: Run, journal: _Journal) -> StepReport:
    from llmops.pipeline.steps import FUNCTIONS

    start = time.monotonic()
    try:
        return replace(FUNCTIONS[step.verb](step, run_), seconds=time.monotonic() - start)
    except LlmopsError as error:
        # The report must say how far the run came, also when it failed; the error itself goes on to the command line.
        where = Finding(f"step-{step.verb}", "error", error.message, error.hint, journal.recipe.file, step.line)
        summary, took = f"failed: {error.message}", time.monotonic() - start
        journal.done.append(StepReport(step.verb, summary, took, ok=False, findings=(where,)))
        journal.write()
        raise
    except KeyboardInterrupt:
        run_.progress.note("stopping; the same command continues where this run stopped")
        raise


def _empty(directory: Path) -> None:
    for leftover in directory.iterdir():
        if leftover.name != ".lock":
            discard(leftover)
