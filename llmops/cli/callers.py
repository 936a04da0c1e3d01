"""``llmops callers``: virtual API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt

callers = typer.Typer(
    name="callers",
    help="Who may call the gateway: API keys with scopes and limits",
    epilog="Example: llmops callers add ci --scope chat --scope 'models:llama*' --to ci.key",
    no_args_is_help=True,
)
Database = Annotated[
    Path | None, typer.Option("--callers", metavar="FILE", help="The database; default in the state directory")
]
To = Annotated[Path, typer.Option("--to", metavar="FILE", help="New file (mode 600) for the key, or /dev/fd/N")]
Name = Annotated[str, typer.Argument(metavar="NAME")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(callers)


@callers.command("add", epilog="Example: llmops callers add ci --tenant web --to ci.key")
@opt.shared
def add(
    answer: opt.Answer,
    name: Name,
    to: To,
    tenant: Annotated[str, typer.Option(help="Whose budgets and cache it uses")] = "default",
    team: Annotated[str, typer.Option(help="Part of the tenant")] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help="chat, embeddings, admin, models:PATTERN; repeatable; all but admin")
    ] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="Ends after, as in 90d")] = None,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests a minute")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens a minute")] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Requests at once")] = None,
    database: Database = None,
) -> None:
    """Add a caller; its key is written to a file once and stored hashed"""
    from llmops.gateway.access import issuing
    from llmops.gateway.access.callers import DEFAULT_SCOPES
    from llmops.gateway.access.identity import CallerLimits

    new = issuing.NewCaller(
        name,
        to,
        tenant,
        team,
        tuple(scope or DEFAULT_SCOPES),
        CallerLimits(rpm, tpm, concurrent),
        expires,
    )
    answer.run(
        lambda _progress: issuing.add_caller(new, database),
        issuing.view_callers,
    )


@callers.command("list", epilog="Example: llmops callers list")
@opt.shared
def list_(answer: opt.Answer, database: Database = None) -> None:
    """Every caller, without secrets"""
    from llmops.gateway.access import issuing

    answer.run(
        lambda _progress: issuing.list_callers(database),
        issuing.view_callers,
    )


@callers.command("rotate", epilog="Example: llmops callers rotate ci --overlap 24h --to ci-2.key")
@opt.shared
def rotate(
    answer: opt.Answer,
    name: Name,
    to: To,
    overlap: Annotated[str, typer.Option(metavar="TIME", help="How long the old key stays valid")] = "24h",
    database: Database = None,
) -> None:
    """Give a caller a new key; the old one stays valid for a while"""
    from llmops.gateway.access import issuing

    answer.run(
        lambda _progress: issuing.rotate_caller(name, to, overlap, database),
        issuing.view_callers,
    )


@callers.command("revoke", epilog="Example: llmops callers revoke ci")
@opt.shared
def revoke(
    answer: opt.Answer,
    name: Name,
    database: Database = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Refuse a caller from now on, at running gateways too"""
    from llmops.gateway.access import issuing

    answer.run(
        lambda _progress: issuing.revoke_caller(name, database, dry_run=dry_run),
        issuing.view_callers,
    )
