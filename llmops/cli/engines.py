"""``llmops engines``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmops.cli import options as opt

engines = typer.Typer(
    name="engines",
    help="Serving and quantising engines: what is there, install one in its own environment, check",
    epilog="Example: llmops engines install vllm",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(engines)


@engines.command("list", epilog="Example: llmops engines list")
def list_(
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """All engines and whether they are ready here; imports nothing"""
    from llmops import engines as package
    from llmops.cli import output

    output.run(
        "engines list",
        lambda _progress: package.list_engines(),
        package.view_list,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


@engines.command("install", epilog="Example: llmops engines install vllm")
def install(
    name: Annotated[str, typer.Argument(metavar="ENGINE", help="vllm, llmcompressor or triton")],
    installer: Annotated[Literal["auto", "uv", "pip"], typer.Option(help="auto: uv where it is on the path")] = "auto",
    variant: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: cuda where a GPU is")] = "auto",
    again: Annotated[bool, typer.Option("--again", help="Make it anew even when it is whole")] = False,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Make an engine's own environment, or repair it; a whole one is kept"""
    from llmops import engines as package
    from llmops.cli import output

    output.run(
        "engines install",
        lambda progress: package.install(
            name, progress, installer=installer, variant=variant, again=again, dry_run=dry_run
        ),
        package.view_install,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


@engines.command("check", epilog="Example: llmops engines check vllm")
def check(
    name: Annotated[str | None, typer.Argument(metavar="[ENGINE]", help="Default: every engine that is there")] = None,
    engine_python: Annotated[
        Path | None, typer.Option(metavar="PYTHON", help="Check the engine in this interpreter")
    ] = None,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Import engines in their interpreters; compare what they require with what is installed"""
    from llmops import engines as package
    from llmops.cli import output

    output.run(
        "engines check",
        lambda progress: package.check(name, progress, engine_python),
        package.view_check,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )
