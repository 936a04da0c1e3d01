"""A document for a terminal, through Rich: readable at 80 columns and without colour."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text as RichText

from llmops.masking import visible
from llmops.report.document import Block, Chart, Code, Document, Facts, Heading, Table, Text

_STYLE = {"plain": "", "good": "green", "bad": "bold red", "warn": "yellow", "dim": "dim"}
_BAR = 30


def render(document: Document, *, color: bool, width: int) -> str:
    """The document as text, its verdict last, where the eye is when the command ends."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        width=max(40, width),
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )
    if document.title:
        console.print(_text(document.title, style="bold"))
    for block in document.blocks:
        for line in _block(block):
            console.print(line, soft_wrap=isinstance(block, Code))
    if document.verdict:
        console.print()
        console.print(_text(document.verdict.text, style=_STYLE[document.verdict.tone]))
    return "\n".join(line.rstrip() for line in stream.getvalue().split("\n")).strip("\n") + "\n"


def _text(text: str, style: str = "") -> RichText:
    return RichText(visible(text), style=style)


def _block(block: Block) -> list[RenderableType]:
    if isinstance(block, Heading):
        return ["", _text(block.text, style="bold")]
    if isinstance(block, Text):
        return [_text(block.text, style=_STYLE[block.tone])]
    if isinstance(block, Facts):
        return [_facts(block)]
    if isinstance(block, Table):
        return [_table(block)]
    if isinstance(block, Code):
        return [_text("\n".join("  " + line for line in block.text.splitlines()), style="cyan")]
    return _chart(block)


def _facts(facts: Facts) -> RenderableType:
    grid = RichTable.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.rows:
        grid.add_row(_text(name), _text(value))
    return Padding(grid, (0, 0, 0, 2))


def _table(table: Table) -> RenderableType:
    rich = RichTable(
        box=box.SIMPLE_HEAD,
        title=visible(table.title) if table.title else None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for column in table.columns:
        rich.add_column(visible(column), justify="right" if column in table.right else "left", overflow="fold")
    for row in table.rows:
        rich.add_row(*(_text(cell) for cell in row))
    return rich


def _chart(chart: Chart) -> list[RenderableType]:
    """Bars; a line chart is for the HTML page, here the last value of each series stands for it."""
    points = [
        (series.name if chart.kind == "line" else f"{series.name} {x}".strip(), y)
        for series in chart.series
        for x, y in (series.points if chart.kind == "bar" else series.points[-1:])
    ]
    top = max((abs(y) for _, y in points), default=0.0) or 1.0
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    for name, y in points:
        grid.add_row(_text(name), _text("█" * max(0, round(_BAR * abs(y) / top))), _text(f"{y:.4g}"))
    return [_text(f"{chart.title} ({chart.y_label})", style="bold"), Padding(grid, (0, 0, 0, 2))]
