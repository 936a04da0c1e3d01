"""``llmops gateway``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="One endpoint before local servers and cloud APIs",
        epilog="Example: llmops gateway run -c configs/gateway.yaml",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command("run", epilog="Example: llmops gateway run --upstream http://127.0.0.1:8000/v1")(run)
    group.command("check", epilog="Example: llmops gateway check -c configs/gateway.yaml --live")(check)
    group.command("rehearse", epilog="Example: llmops gateway rehearse -c configs/gateway.yaml")(rehearse)
    group.command("alerts", epilog="Example: llmops gateway alerts -o alerts --cost 50 --check")(alerts)
    group.command("top", epilog="Example: llmops gateway top http://127.0.0.1:9090")(top)
    app.add_typer(group, name="gateway")


@opt.shared
def run(
    answer: opt.Answer,
    config: Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help="A gateway config")] = None,
    upstream: Annotated[
        str | None, typer.Option(metavar="URL", help="Instead of a config: pass everything to this server")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Listen on this address [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Listen on this port [default: 8080]")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Processes, one a core [default: 1]")] = None,
    prices: Annotated[Path | None, typer.Option(metavar="FILE", help="The site's own prices")] = None,
) -> None:
    """Serve the OpenAI and Anthropic APIs

    Until Ctrl-C or SIGTERM, which finish what is under way; SIGHUP reads the config again.
    """
    from llmops.gateway import launch, view

    spec = launch.RunSpec(config, upstream, host, port, workers, prices)
    answer.run(
        lambda progress: launch.run(spec, progress),
        view.served,
    )


@opt.shared
def check(
    answer: opt.Answer,
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="A gateway config")],
    live: Annotated[bool, typer.Option("--live", help="Ask each provider, with the cheapest call")] = False,
) -> None:
    """Is a config right, and do its providers answer

    Its form, its prices, its keys; with --live the cheapest call to each provider.
    """
    from llmops.gateway import check as package

    answer.run(
        lambda progress: package.check(config, live=live, progress=progress),
        package.view,
    )


@opt.shared
def rehearse(
    answer: opt.Answer,
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="A gateway config")],
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Then go on serving here until Ctrl-C, for your own client")
    ] = None,
) -> None:
    """Try a config out before stand-ins of its providers: no keys, no models, no cost"""
    from llmops.gateway.rehearsal import rehearse as package

    spec = package.RehearseSpec(config, port)
    answer.run(
        lambda progress: package.rehearse(spec, progress),
        package.view,
    )


@opt.shared
def alerts(
    answer: opt.Answer,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Write the files here")],
    error_rate: Annotated[float, typer.Option(help="Share of 5xx answers over 5 minutes")] = 0.05,
    p95_s: Annotated[float, typer.Option("--p95", metavar="SECONDS", help="95th percentile of the duration")] = 5.0,
    cost: Annotated[float, typer.Option(metavar="USD", help="Spent in an hour, over all models")] = 100.0,
    budget: Annotated[float, typer.Option(help="Share of any budget")] = 0.8,
    check: Annotated[bool, typer.Option("--check", help="Let promtool check and test the rules")] = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Prometheus rules with their tests, and a Grafana dashboard, for the metrics that the gateway has"""
    from llmops.gateway.alerting import write as package
    from llmops.gateway.alerting.rules import Limits

    spec = package.AlertsSpec(out, Limits(error_rate, p95_s, cost, budget), check, dry_run)
    answer.run(
        lambda progress: package.write_alerts(spec, progress),
        package.view,
    )


@opt.shared
def top(
    answer: opt.Answer,
    url: Annotated[str, typer.Argument(help="A running gateway or its metrics port")] = "http://127.0.0.1:8080",
    every_s: Annotated[float, typer.Option("--every", min=0.2, metavar="SECONDS", help="Between samples")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One sample, then end")] = False,
    key_env: Annotated[str | None, typer.Option(metavar="NAME", help="Variable with an admin key")] = None,
) -> None:
    """A live table of a running gateway

    Rates, errors, latency, tokens and cost by model, on a terminal until Ctrl-C.
    """
    from llmops.gateway import top as package

    answer.run(
        lambda progress: package.watch(
            url, every_s=every_s, once=once or answer.json, key_env=key_env, progress=progress
        ),
        package.view,
    )
