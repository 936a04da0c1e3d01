"""``llmops engines``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmops.cli import options as opt

engines = typer.Typer(
    name="engines",
    help="Engines in environments of their own: list, install, check",
    epilog="Example: llmops engines install vllm",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(engines)


@engines.command("list", epilog="Example: llmops engines list")
@opt.shared
def list_(answer: opt.Answer) -> None:
    """All engines and whether they are ready here; imports nothing"""
    from llmops import engines as package

    answer.run(
        lambda _progress: package.list_engines(),
        package.view_list,
    )


@engines.command("install", epilog="Example: llmops engines install vllm")
@opt.shared
def install(
    answer: opt.Answer,
    name: Annotated[str, typer.Argument(metavar="ENGINE", help="vllm, ray, trtllm, llmcompressor or triton")],
    installer: Annotated[Literal["auto", "uv", "pip"], typer.Option(help="auto: uv where it is on the path")] = "auto",
    variant: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: cuda where a GPU is")] = "auto",
    again: Annotated[bool, typer.Option("--again", help="Make it anew even when it is whole")] = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Make an engine's own environment, or renew it; a whole one is kept"""
    from llmops import engines as package

    answer.run(
        lambda progress: package.install(
            name, progress, installer=installer, variant=variant, again=again, dry_run=dry_run
        ),
        package.view_install,
    )


@engines.command("check", epilog="Example: llmops engines check vllm")
@opt.shared
def check(
    answer: opt.Answer,
    name: Annotated[str | None, typer.Argument(metavar="ENGINE", help="Default: every engine that is there")] = None,
    engine_python: Annotated[
        Path | None, typer.Option(metavar="PYTHON", help="Check the engine in this interpreter")
    ] = None,
) -> None:
    """Import engines in their interpreters; compare what they require with what is installed"""
    from llmops import engines as package

    answer.run(
        lambda progress: package.check(name, progress, engine_python),
        package.view_check,
    )
