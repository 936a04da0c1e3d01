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
    example = "Example: llmops deploy {} -c configs/hybrid.yaml -o deploy"
    group = typer.Typer(
        help="A site on Kubernetes, Docker Compose or Ray", epilog=example.format("kubernetes"), no_args_is_help=True
    )
    group.command("kubernetes", epilog=example.format("kubernetes"))(kubernetes)
    group.command("compose", epilog=example.format("compose"))(compose)
    group.command("ray", epilog=example.format("ray"))(ray)
    group.command("status", epilog="Example: llmops deploy status --address http://127.0.0.1:8265")(status)
    group.command("teardown", epilog="Example: llmops deploy teardown techpack --address http://127.0.0.1:8265")(
        teardown
    )
    app.add_typer(group, name="deploy")


@opt.shared
def kubernetes(
    answer: opt.Answer,
    config: Config,
    out: Output,
    force: Force = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Kustomize-ready manifests: engines with their plans, the gateway, Redis, policies"""
    _deploy(answer, "kubernetes", config, out, force, dry_run)


@opt.shared
def compose(
    answer: opt.Answer,
    config: Config,
    out: Output,
    force: Force = False,
    dry_run: opt.DryRun = False,
) -> None:
    """A compose.yaml for one machine"""
    _deploy(answer, "compose", config, out, force, dry_run)


@opt.shared
def ray(
    answer: opt.Answer,
    config: Config,
    out: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Directory to write")] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="URL", help="A Ray dashboard: deploy there and wait")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", show_default=False, help="Until all replicas run")] = True,
    timeout: Annotated[float, typer.Option(metavar="S", help="How long to wait")] = 1800.0,
    force: Force = False,
    dry_run: opt.DryRun = False,
) -> None:
    """A Ray Serve config on ray.serve.llm, as a file or straight to a running cluster"""
    if address is None or dry_run:
        _deploy(answer, "ray", config, out, force, dry_run)
    from llmops.deploy import ray_run

    answer.run(
        lambda progress: ray_run.submit(config, address or "", progress, wait=wait, limit_s=timeout),
        ray_run.view,
    )


@opt.shared
def status(answer: opt.Answer, address: Address) -> None:
    """What runs on a Ray cluster: exit code 0 when all of it does"""
    from llmops.deploy import ray_run

    answer.run(
        lambda _progress: ray_run.status(address),
        ray_run.view,
    )


@opt.shared
def teardown(
    answer: opt.Answer,
    name: Annotated[str, typer.Argument(metavar="SITE", help="The site's name, as deploy status shows it")],
    address: Address,
    dry_run: opt.DryRun = False,
) -> None:
    """Take a site away from a Ray cluster; other applications stay"""
    from llmops.deploy import ray_run

    answer.run(
        lambda progress: ray_run.teardown(name, address, progress, dry_run=dry_run),
        ray_run.view,
    )


def _deploy(
    answer: opt.Answer,
    kind: Literal["kubernetes", "compose", "ray"],
    config: Path,
    out: Path | None,
    force: bool,
    dry_run: bool,
) -> None:
    from llmops.deploy import run

    answer.run(lambda _progress: run.deploy(kind, config, out, force=force, dry_run=dry_run), run.view)
