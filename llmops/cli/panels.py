"""What a command's help looks like: in a person's words, and grouped where the options are many, so that it fits a screen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from typer.core import TyperCommand

_GENERAL: Final = "Output"
# What stands for a value that its option gives no name of its own. Typer says `<int range>`.
_VALUES: Final = {"int": "N", "float": "X", "str": "TEXT", "path": "PATH"}
_TYPE: Final = re.compile(r" <(?:list\[)?(\w+)[^>]*>")


class PlainCommand(TyperCommand):
    """Names values as manuals do: ``--bits N``, and ``MODEL`` without braces and without its type in Python."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Only what may be left out stands in brackets."""
        return [piece.translate({ord("{"): None, ord("}"): None}) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options."""
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            rows = [row for _, row in _rows(self.get_params(ctx), ctx, kind)]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class PanelCommand(PlainCommand):
    """Shows the options of each ``rich_help_panel`` together, in the order of their definition.

    An option that is only useful beside another one is hidden and named in the other's help; a test holds both to it.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the groups; arguments stand in the usage line already."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for option, row in _rows(self.get_params(ctx), ctx, "option"):
            groups.setdefault(getattr(option, "rich_help_panel", None) or _GENERAL, []).append(row)
        width = max(len(term) for rows in groups.values() for term, _ in rows)
        formatter.write_paragraph()
        for name, rows in groups.items():
            formatter.write(f"{name}:\n")
            with formatter.indentation():
                formatter.write_dl([(term.ljust(width), words) for term, words in rows], col_max=width)


def _rows(parameters: Iterable[Any], ctx: Any, kind: str) -> Iterator[tuple[Any, tuple[str, str]]]:
    """Each shown parameter of a kind with its line: the term, and what it means."""
    for parameter in parameters:
        row = parameter.get_help_record(ctx) if parameter.param_type_name == kind else None
        if row is not None:
            yield parameter, (_named(row[0], kind), row[1])


def _named(term: str, kind: str) -> str:
    def name(found: re.Match[str]) -> str:
        return f" {_VALUES.get(found[1].lower(), 'TEXT')}" if kind == "option" else ""

    return _TYPE.sub(name, term)
