"""Option types that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout", rich_help_panel="Output")]
ReportFiles = Annotated[
    list[Path] | None,
    typer.Option("--report", metavar="FILE", help="Also write .json .xml (JUnit) .sarif .md or .html; repeatable"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result and errors")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="More detail; -vv adds tracebacks")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Show the plan, change nothing")]
