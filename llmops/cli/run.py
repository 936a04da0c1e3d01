"""``llmops run``."""

from __future__ import annotations

from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", epilog="Example: llmops run recipes/quickstart.yaml --set quantize.bits=8")(run)


@opt.shared
def run(
    answer: opt.Answer,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one")],
    model: Annotated[str | None, typer.Option(help="Use this model instead: a directory, a file or a hub id")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run directory  [default: the recipe's name]")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="STEP.KEY=VALUE", help="Change an option of a step; repeatable")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Reuse nothing of an earlier run")] = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Run a recipe: from a model to a report with real numbers"""
    from llmops.pipeline import run as pipeline
    from llmops.pipeline.view import brief, view

    asked = pipeline.RunSpec(
        recipe=recipe, model=model, name=name, changes=tuple(set_ or ()), fresh=fresh, dry_run=dry_run
    )
    answer.run(
        lambda progress: pipeline.run(asked, progress),
        view,
        brief=brief,
    )
