"""A document as GitHub-flavoured Markdown."""

from __future__ import annotations

from llmops.report.document import Block, Chart, Code, Document, Facts, Heading, Table, Text


def render(document: Document) -> str:
    """The whole document, verdict first."""
    parts = [f"# {document.title}"]
    if document.verdict:
        parts.append(f"**{_inline(document.verdict.text)}**")
    parts += [_block(block) for block in document.blocks]
    if document.meta:
        parts.append("\n".join(f"- {_inline(name)}: {_inline(value)}" for name, value in document.meta))
    return "\n\n".join(parts)


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {_inline(block.text)}"
    if isinstance(block, Text):
        return _inline(block.text)
    if isinstance(block, Facts):
        return table(("", ""), block.rows, frozenset())
    if isinstance(block, Table):
        body = table(block.columns, block.rows, block.right)
        return f"**{_inline(block.title)}**\n\n{body}" if block.title else body
    if isinstance(block, Code):
        fence = "```" if "```" not in block.text else "````"
        return f"{fence}{block.language}\n{block.text}\n{fence}"
    return _chart(block)


def table(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...], right: frozenset[str]) -> str:
    """A pipe table."""
    lines = [
        "| " + " | ".join(_cell(column) for column in columns) + " |",
        "| " + " | ".join("---:" if column in right else "---" for column in columns) + " |",
    ]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _chart(chart: Chart) -> str:
    xs = list(dict.fromkeys(x for series in chart.series for x, _ in series.points))
    columns = (chart.x_label, *(series.name for series in chart.series))
    values = [dict(series.points) for series in chart.series]
    rows = tuple((_number(x), *(_number(value.get(x, "")) for value in values)) for x in xs[:50])
    return f"**{_inline(chart.title)}** ({_inline(chart.y_label)})\n\n" + table(columns, rows, frozenset(columns[1:]))


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _cell(text: str) -> str:
    return _inline(text).replace("|", "\\|").replace("\n", "<br>")


def _inline(text: str) -> str:
    return text.replace("<", "&lt;").replace("\r", "")
