"""``llmops recipes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a file")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="The recipes that ship with llmops: list, show, copy, validate", no_args_is_help=True)
    group.command("list", epilog="Example: llmops recipes list")(list_)
    group.command("show", epilog="Example: llmops recipes show quickstart")(show)
    group.command("copy", epilog="Example: llmops recipes copy quickstart mine.yaml")(copy)
    group.command("validate", epilog="Example: llmops recipes validate mine.yaml")(validate)
    app.add_typer(group, name="recipes")


def list_(
    json: opt.Json = False, report: opt.ReportFiles = None, quiet: opt.Quiet = False, verbose: opt.Verbose = 0
) -> None:
    """Name, purpose and steps of every shipped recipe"""
    from llmops.cli import output
    from llmops.pipeline import catalogue

    output.run(
        "recipes list",
        lambda _progress: catalogue.catalogue(),
        catalogue.view_catalogue,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


def show(
    name: Name,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Print a recipe"""
    from llmops.cli import output
    from llmops.pipeline import catalogue

    output.run(
        "recipes show",
        lambda _progress: catalogue.show(name),
        catalogue.view_text,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


def copy(
    name: Name,
    target: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="Where to write it")] = Path(),
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Copy a recipe to change it"""
    from llmops.cli import output
    from llmops.pipeline import catalogue

    output.run(
        "recipes copy",
        lambda _progress: catalogue.copy(name, target),
        catalogue.view_copy,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


def validate(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE]…", help="Recipes; none: all shipped ones")
    ] = None,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Check recipes without running them; every problem with file:line"""
    from llmops.cli import output
    from llmops.pipeline import catalogue

    output.run(
        "recipes validate",
        lambda _progress: catalogue.validate_files(names or []),
        catalogue.view_validation,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )
