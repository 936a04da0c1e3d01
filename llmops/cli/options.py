"""Option types that several commands share, and the four that every command has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from llmops.cli.output import R
    from llmops.progress import Progress
    from llmops.report.document import Document

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout")]
ReportFiles = Annotated[
    list[Path] | None,
    typer.Option("--report", metavar="FILE", help="Also write .json .xml .sarif .md or .html"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result and errors")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, show_default=False, help="More detail; -vv adds tracebacks")
]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Show the plan, change nothing")]


@dataclass(frozen=True, slots=True)
class Answer:
    """How one command answers: the options that every command has, as given.

    Attributes:
        verb: The command's words, as in ``keys list``; names the schema of its JSON.
        json: Print one JSON document instead of the table.
        reports: Files to write, format by suffix.
        quiet: No progress.
        verbose: 1 logs at INFO, 2 at DEBUG and shows tracebacks.
    """

    verb: str
    json: bool = False
    reports: tuple[Path, ...] = ()
    quiet: bool = False
    verbose: int = 0

    def run(
        self,
        work: Callable[[Progress], R],
        view: Callable[[R], Document],
        *,
        brief: Callable[[R], Document] | None = None,
        printed: Callable[[R], str] | None = None,
    ) -> NoReturn:
        """Do the work, emit its report, exit with its code; see :func:`llmops.cli.output.run`."""
        from llmops.cli import output

        output.run(self, work, view, brief=brief, printed=printed)


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_SHARED: Final = (
    _parameter("json", Json, default=False),
    _parameter("report", ReportFiles, None),
    _parameter("quiet", Quiet, default=False),
    _parameter("verbose", Verbose, 0),
)


def shared(body: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--json --report --quiet --verbose``; its body gets them as its first parameter, an `Answer`."""
    _, *own = inspect.signature(body, eval_str=True).parameters.values()
    wanted = [each.name for each in own if each.annotation is typer.Context]
    name = wanted[0] if wanted else "context"  # Typer hands a command one context only

    @functools.wraps(body)
    def command(*, json: bool, report: list[Path] | None, quiet: bool, verbose: int, **options: Any) -> None:
        context = options[name] if wanted else options.pop(name)
        verb = " ".join(context.command_path.split()[1:])
        body(Answer(verb, json, tuple(report or ()), quiet, verbose), **options)

    added = [] if wanted else [_parameter(name, typer.Context)]
    parameters = [*added, *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own), *_SHARED]
    # Typer reads both: the signature for order and defaults, the annotations for types.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions take any attribute
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
