"""``llmops tokens``: short-lived tokens for services."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt
from llmops.cli.callers import Database
from llmops.cli.keys import ENV, Master, VaultFile

tokens = typer.Typer(
    name="tokens",
    help="Service tokens: signed, short-lived, scoped",
    epilog="Example: llmops tokens issue --service ranker --scope embeddings --to token",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(tokens)


@tokens.command("issue", epilog="Example: llmops tokens issue --service ranker --scope chat --to token")
@opt.shared
def issue(
    answer: opt.Answer,
    service: Annotated[str, typer.Option(metavar="NAME", help="Who will show it")],
    scope: Annotated[list[str], typer.Option(help="chat, embeddings, models:PATTERN, …; repeatable")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="New file (mode 600), or /dev/fd/N")],
    ttl: Annotated[str, typer.Option(metavar="TIME", help="Lifetime, at most 24h")] = "15m",
    tenant: Annotated[str, typer.Option(help="Whose budgets and cache it uses")] = "default",
    team: Annotated[str, typer.Option(help="Part of the tenant")] = "",
    master: Master = ENV,
    vault: VaultFile = None,
    database: Database = None,
) -> None:
    """Sign a token for a service; it is written to a file, never printed"""
    from llmops.gateway.access import issuing

    new = issuing.NewToken(service, to, tuple(scope), ttl, tenant, team)
    answer.run(
        lambda _progress: issuing.issue_token(new, master, vault, database),
        issuing.view_token,
    )


@tokens.command("revoke", epilog="Example: llmops tokens revoke --service ranker")
@opt.shared
def revoke(
    answer: opt.Answer,
    token_id: Annotated[str | None, typer.Option("--id", metavar="JTI", help="One token")] = None,
    service: Annotated[str | None, typer.Option(metavar="NAME", help="Every token it has now")] = None,
    database: Database = None,
) -> None:
    """Refuse a token, or all of a service, from now on"""
    from llmops.gateway.access import issuing

    answer.run(
        lambda _progress: issuing.revoke_token(token_id, service, database),
        issuing.view_token,
    )


@tokens.command("rotate", epilog="Example: llmops tokens rotate")
@opt.shared
def rotate(
    answer: opt.Answer,
    master: Master = ENV,
    vault: VaultFile = None,
    database: Database = None,
) -> None:
    """Sign by a new key; tokens of the old one stay valid until they expire"""
    from llmops.gateway.access import issuing

    answer.run(
        lambda _progress: issuing.rotate_signing_key(master, vault, database),
        issuing.view_token,
    )
