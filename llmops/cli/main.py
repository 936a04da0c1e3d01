"""The entry point: assembles the verbs, and turns the parser's complaints into the project's error form."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from llmops import __version__
from llmops.cli.panels import PlainCommand
from llmops.errors import ExitCode, UsageError

# Each module defines ``register(app)``. A test imports every one and checks that none brings a heavy library.
VERBS: Final = (
    "run",
    "recipes",
    "inspect",
    "convert",
    "quantize",
    "evaluate",
    "export",
    "build",
    "plan",
    "serve",
    "ps",
    "check",
    "deploy",
    "bench",
    "diagnose",
    "doctor",
    "gateway",
    "cost",
    "callers",
    "keys",
    "tokens",
    "engines",
    "gpus",
    "config",
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"llmops {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Global options."""


# Commands that a module of another name brings.
_BROUGHT_BY: Final = {"status": "ps", "logs": "ps", "stop": "ps"}


class _Whole(TyperGroup):
    """Shows each command's sentence whole, over two lines where it must; Typer alone cuts it."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write name and first line of every command."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, (each.help or "").strip().partition("\n")[0]) for name, each in commands if each is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Verbs(_Whole):
    """Lists the verbs in the order of a user's work; Typer alone puts groups behind commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, as `VERBS` has them."""
        return sorted(super().list_commands(ctx), key=lambda name: VERBS.index(_BROUGHT_BY.get(name, name)))


def build(verbs: Iterable[str] = VERBS) -> typer.Typer:
    """The command line with these verbs. One verb alone is ready in half the time of all of them."""
    made = typer.Typer(
        name="llmops",
        cls=_Verbs,
        help="Take a language model from a checkpoint to a measured, cost-controlled endpoint, and say why when it fails",
        epilog="Example: llmops run recipes/quickstart.yaml",
        rich_markup_mode=None,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    )
    made.callback()(_root)
    for name in verbs:
        importlib.import_module(f"llmops.cli.{name}").register(made)
    _dress(made)
    return made


def _dress(app: typer.Typer) -> None:
    """Give every command and group below ``app`` the project's help."""
    for command in app.registered_commands:
        if command.cls is TyperCommand:
            command.cls = PlainCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            group.typer_instance.info.cls = _Whole
            _dress(group.typer_instance)


def __getattr__(name: str) -> typer.Typer:
    """``app`` with every verb, made when it is asked for."""
    if name == "app":
        return build()
    raise AttributeError(name)


def _wanted(words: list[str]) -> tuple[str, ...]:
    """The verbs that a command line needs: the one that it begins with, or all, for help, completion and mistakes."""
    verb = _BROUGHT_BY.get(words[0], words[0]) if words else ""
    return (verb,) if verb in VERBS and "_LLMOPS_COMPLETE" not in os.environ else VERBS


def main() -> None:
    """Run the command line; every way out has its exit code."""
    app = build(_wanted(sys.argv[1:]))
    if os.environ.get("_LLMOPS_COMPLETE"):
        app()
    try:
        code = app(standalone_mode=False, prog_name="llmops")
    except typer.Exit as stop:
        code = stop.exit_code
    except typer.Abort:
        code = ExitCode.INTERRUPTED
    except typer.TyperException as error:
        code = _usage(error)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    raise SystemExit(int(code or 0))


def _usage(error: typer.TyperException) -> int:
    """One line and a hint for a wrong option, argument or command; the JSON document too where it was asked for."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "llmops"
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(message + "\n")
        return ExitCode.USAGE
    from llmops.cli import output
    from llmops.cli.options import Answer

    message, _, suggestion = message.partition(" Did you mean ")
    hint = f"did you mean {suggestion}" if suggestion else f"{path} --help"
    words = path.split()[1:]
    answer = Answer(verb=" ".join(words) or "llmops", json="--json" in sys.argv)
    return output.fail(answer, UsageError(message.rstrip("."), hint))


if __name__ == "__main__":
    main()
