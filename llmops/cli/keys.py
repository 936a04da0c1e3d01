"""``llmops keys``: provider keys in the vault."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmops.cli import options as opt

keys = typer.Typer(
    name="keys",
    help="Provider keys, encrypted at rest",
    epilog="Example: llmops keys set openai --from env:OPENAI_API_KEY",
    no_args_is_help=True,
)
VaultFile = Annotated[
    Path | None, typer.Option("--vault", metavar="FILE", help="The vault; default in the state directory")
]
Master = Annotated[
    str, typer.Option("--master", metavar="SOURCE", help="Master key: env:NAME, file:PATH or 'command:PROGRAM ARG'")
]
ENV = "env:LLMOPS_MASTER_KEY"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(keys)


@keys.command("master", epilog="Example: llmops keys master --to ~/.llmops-master")
@opt.shared
def master_(
    answer: opt.Answer, to: Annotated[Path, typer.Option("--to", metavar="FILE", help="A new file, made with mode 600")]
) -> None:
    """Make a master key: 256 random bits"""
    from llmops.gateway.access import provider_keys

    answer.run(
        lambda _progress: provider_keys.make_master(to),
        provider_keys.view,
    )


@keys.command("set", epilog="Example: llmops keys set anthropic < key.txt")
@opt.shared
def set_(
    answer: opt.Answer,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the config calls it, as in openai")],
    source: Annotated[
        str, typer.Option("--from", metavar="SOURCE", help="- (stdin, or asked for), env:NAME or file:PATH")
    ] = "-",
    master: Master = ENV,
    vault: VaultFile = None,
) -> None:
    """Store a key, as a new version where there is one; the value is never a flag"""
    from llmops.gateway.access import provider_keys

    answer.run(
        lambda _progress: provider_keys.set_key(name, source, vault, master),
        provider_keys.view,
    )


@keys.command("list", epilog="Example: llmops keys list")
@opt.shared
def list_(answer: opt.Answer, vault: VaultFile = None) -> None:
    """Names and versions; needs no master key"""
    from llmops.gateway.access import provider_keys

    answer.run(
        lambda _progress: provider_keys.list_keys(vault),
        provider_keys.view,
    )


@keys.command("remove", epilog="Example: llmops keys remove openai")
@opt.shared
def remove(
    answer: opt.Answer,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    vault: VaultFile = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Forget a key with all its versions"""
    from llmops.gateway.access import provider_keys

    answer.run(
        lambda _progress: provider_keys.remove_key(name, vault, dry_run=dry_run),
        provider_keys.view,
    )


@keys.command("rotate", epilog="Example: llmops keys rotate --new-master file:new.key")
@opt.shared
def rotate(
    answer: opt.Answer,
    new_master: Annotated[str, typer.Option("--new-master", metavar="SOURCE", help="The new master key")],
    master: Master = ENV,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Leave both valid, while gateways still run with the old one")
    ] = False,
    vault: VaultFile = None,
) -> None:
    """Wrap every key by a new master key; if interrupted, run it again"""
    from llmops.gateway.access import provider_keys

    answer.run(
        lambda _progress: provider_keys.rotate_master(new_master, master, vault, keep_old=keep_old),
        provider_keys.view,
    )


@keys.command("status", epilog="Example: llmops keys status --master file:~/.llmops-master")
@opt.shared
def status(
    answer: opt.Answer,
    master: Master = ENV,
    vault: VaultFile = None,
) -> None:
    """Whether the master key decrypts every entry; exit 1 where it does not"""
    from llmops.gateway.access import provider_keys

    answer.run(
        lambda _progress: provider_keys.status(vault, master),
        provider_keys.view,
    )
