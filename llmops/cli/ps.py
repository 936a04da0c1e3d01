"""``llmops ps``, ``status``, ``logs`` and ``stop``: servers started with ``serve --detach``."""

from __future__ import annotations

from typing import Annotated

import typer

from llmops.cli import options as opt

Name = Annotated[str, typer.Argument(metavar="NAME", help="As llmops ps shows it")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("ps", epilog="Example: llmops ps")(ps)
    app.command("status", epilog="Example: llmops status SmolLM2-135M")(status)
    app.command("logs", epilog="Example: llmops logs SmolLM2-135M --lines 100")(logs)
    app.command("stop", epilog="Example: llmops stop SmolLM2-135M")(stop)


@opt.shared
def ps(answer: opt.Answer) -> None:
    """Servers that run detached"""
    from llmops import serve as package

    answer.run(
        lambda _progress: package.list_servers(),
        package.view_servers,
    )


@opt.shared
def status(answer: opt.Answer, name: Name) -> None:
    """Whether a detached server answers: exit code 0 when it does"""
    from llmops import serve as package

    answer.run(
        lambda _progress: package.status(name),
        package.view_servers,
    )


@opt.shared
def logs(
    answer: opt.Answer,
    name: Name,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many, from the end")] = 40,
) -> None:
    """The end of a detached server's engine log"""
    from llmops import serve as package

    answer.run(
        lambda _progress: package.logs(name, lines),
        package.view_log,
    )


@opt.shared
def stop(
    answer: opt.Answer,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="As llmops ps shows them")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every detached server")] = False,
) -> None:
    """Stop detached servers and wait until nothing of them is left"""
    from llmops import serve as package

    answer.run(
        lambda progress: package.stop(names or [], progress, everything=everything),
        package.view_stopped,
    )
