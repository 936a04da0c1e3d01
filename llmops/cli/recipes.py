"""``llmops recipes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a file")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="The recipes that ship with llmops: list, show, copy, validate",
        epilog="Example: llmops recipes copy quickstart mine.yaml",
        no_args_is_help=True,
    )
    group.command("list", epilog="Example: llmops recipes list")(list_)
    group.command("show", epilog="Example: llmops recipes show quickstart")(show)
    group.command("copy", epilog="Example: llmops recipes copy quickstart mine.yaml")(copy)
    group.command("validate", epilog="Example: llmops recipes validate mine.yaml")(validate)
    app.add_typer(group, name="recipes")


@opt.shared
def list_(answer: opt.Answer) -> None:
    """Name, purpose and steps of every shipped recipe"""
    from llmops.pipeline import catalogue

    answer.run(lambda _progress: catalogue.catalogue(), catalogue.view_catalogue)


@opt.shared
def show(answer: opt.Answer, name: Name) -> None:
    """Print a recipe"""
    from llmops.pipeline import catalogue

    answer.run(
        lambda _progress: catalogue.show(name),
        catalogue.view_text,
    )


@opt.shared
def copy(
    answer: opt.Answer,
    name: Name,
    target: Annotated[Path, typer.Argument(metavar="FILE|DIR", help="Where to write it")] = Path(),
) -> None:
    """Copy a recipe to change it"""
    from llmops.pipeline import catalogue

    answer.run(
        lambda _progress: catalogue.copy(name, target),
        catalogue.view_copy,
    )


@opt.shared
def validate(
    answer: opt.Answer,
    names: Annotated[list[str] | None, typer.Argument(metavar="RECIPE", help="Recipes; none: all shipped ones")] = None,
) -> None:
    """Check recipes without running them; every problem with file:line"""
    from llmops.pipeline import catalogue

    answer.run(
        lambda _progress: catalogue.validate_files(names or []),
        catalogue.view_validation,
    )
