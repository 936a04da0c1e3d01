"""``llmops deploy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmops.cli import options as opt

Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The site: nodes, models, gateway")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier call wrote")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Render a site for Kubernetes, Docker Compose or Ray Serve", no_args_is_help=True)
    example = "Example: llmops deploy {} -c configs/hybrid.yaml -o deploy"
    group.command("kubernetes", epilog=example.format("kubernetes"))(kubernetes)
    group.command("compose", epilog=example.format("compose"))(compose)
    group.command("ray", epilog=example.format("ray"))(ray)
    app.add_typer(group, name="deploy")


def kubernetes(
    config: Config,
    out: Output,
    force: Force = False,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Kustomize-ready manifests: engines with their plans, the gateway, Redis, policies"""
    _deploy("kubernetes", config, out, force, dry_run, json, report, quiet, verbose)


def compose(
    config: Config,
    out: Output,
    force: Force = False,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """A compose.yaml for one machine"""
    _deploy("compose", config, out, force, dry_run, json, report, quiet, verbose)


def ray(
    config: Config,
    out: Output,
    force: Force = False,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """A Ray Serve config on ray.serve.llm"""
    _deploy("ray", config, out, force, dry_run, json, report, quiet, verbose)


def _deploy(
    kind: Literal["kubernetes", "compose", "ray"],
    config: Path,
    out: Path,
    force: bool,
    dry_run: bool,
    json: bool,
    report: list[Path] | None,
    quiet: bool,
    verbose: int,
) -> None:
    from llmops.cli import output
    from llmops.deploy import run

    output.run(
        f"deploy {kind}",
        lambda _progress: run.deploy(kind, config, out, force=force, dry_run=dry_run),
        run.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )
