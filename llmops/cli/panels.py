"""Help of commands with many options: grouped under short headings, one line an option, so that it fits a screen."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperCommand

_GENERAL: Final = "Output"


class PanelCommand(TyperCommand):
    """Shows the options of each ``rich_help_panel`` together, in the order of their definition.

    An option that is only useful beside another one is hidden and named in the other's help; a test holds both to it.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the groups; arguments stand in the usage line already."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            row = option.get_help_record(ctx) if option.param_type_name == "option" else None
            if row is not None:
                groups.setdefault(getattr(option, "rich_help_panel", None) or _GENERAL, []).append(row)
        width = max(len(term) for rows in groups.values() for term, _ in rows)
        formatter.write_paragraph()
        for name, rows in groups.items():
            formatter.write(f"{name}:\n")
            with formatter.indentation():
                formatter.write_dl([(term.ljust(width), words) for term, words in rows], col_max=width)
