"""``llmops deploy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmops.cli import options as opt

Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The site: nodes, models, gateway")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write")]
Address = Annotated[
    str, typer.Option("--address", metavar="URL", help="The Ray dashboard, such as http://127.0.0.1:8265")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier call wrote")]


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="A site on Kubernetes, Docker Compose or Ray: files, or straight to a cluster", no_args_is_help=True)
    example = "Example: llmops deploy {} -c configs/hybrid.yaml -o deploy"
    group.command("kubernetes", epilog=example.format("kubernetes"))(kubernetes)
    group.command("compose", epilog=example.format("compose"))(compose)
    group.command("ray", epilog=example.format("ray"))(ray)
    group.command("status", epilog="Example: llmops deploy status --address http://127.0.0.1:8265")(status)
    group.command("teardown", epilog="Example: llmops deploy teardown techpack --address http://127.0.0.1:8265")(
        teardown
    )
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
    out: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Directory to write")] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="URL", help="A Ray dashboard: deploy there and wait")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", show_default=False, help="Until all replicas run")] = True,
    timeout: Annotated[float, typer.Option(metavar="S", help="How long to wait")] = 1800.0,
    force: Force = False,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """A Ray Serve config on ray.serve.llm, as a file or straight to a running cluster"""
    if address is None or dry_run:
        _deploy("ray", config, out, force, dry_run, json, report, quiet, verbose)
    from llmops.cli import output
    from llmops.deploy import ray_run

    output.run(
        "deploy ray",
        lambda progress: ray_run.submit(config, address or "", progress, wait=wait, limit_s=timeout),
        ray_run.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


def status(
    address: Address,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """What runs on a Ray cluster: exit code 0 when all of it does"""
    from llmops.cli import output
    from llmops.deploy import ray_run

    output.run(
        "deploy status",
        lambda _progress: ray_run.status(address),
        ray_run.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


def teardown(
    name: Annotated[str, typer.Argument(metavar="SITE", help="The site's name, as deploy status shows it")],
    address: Address,
    dry_run: opt.DryRun = False,
    json: opt.Json = False,
    report: opt.ReportFiles = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Take a site away from a Ray cluster; other applications stay"""
    from llmops.cli import output
    from llmops.deploy import ray_run

    output.run(
        "deploy teardown",
        lambda progress: ray_run.teardown(name, address, progress, dry_run=dry_run),
        ray_run.view,
        json=json,
        report=report,
        quiet=quiet,
        verbose=verbose,
    )


def _deploy(
    kind: Literal["kubernetes", "compose", "ray"],
    config: Path,
    out: Path | None,
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
