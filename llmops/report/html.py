"""A document as one self-contained HTML page: no script, no font, no request; charts are inline SVG."""

from __future__ import annotations

from html import escape

from llmops.report.document import Block, Chart, Code, Document, Facts, Heading, Table, Text
from llmops.report.svg import chart_svg

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1c20; --soft: #5b6470; --line: #d9dde3; --page: #fff; --panel: #f6f7f9;
  --good: #1a7f4b; --bad: #b42318; --warn: #9a6700; --s0: #2563eb; --s1: #d97706; --s2: #059669; --s3: #9333ea; --s4: #64748b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa4b2; --line: #343a43; --page: #14161a;
  --panel: #1d2026; --good: #4ade80; --bad: #f87171; --warn: #fbbf24; --s0: #60a5fa; --s1: #fbbf24; --s2: #34d399; --s3: #c084fc; --s4: #94a3b8; } }
body { font: 15px/1.55 system-ui, "Noto Sans CJK JP", sans-serif; color: var(--ink); background: var(--page); max-width: 60rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
.verdict { font-weight: 600; padding: .6rem .9rem; border-left: 4px solid var(--soft); background: var(--panel); border-radius: 0 6px 6px 0; }
.good { color: var(--good); border-color: var(--good); } .bad { color: var(--bad); border-color: var(--bad); }
.warn { color: var(--warn); border-color: var(--warn); } .dim { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; white-space: nowrap; } td:first-child { overflow-wrap: break-word; } .right { text-align: right; overflow-wrap: normal; white-space: nowrap; }
td.name { color: var(--soft); white-space: nowrap; } caption { text-align: left; font-weight: 600; padding-bottom: .2rem; }
pre { background: var(--panel); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; font-size: 13px; }
figure { margin: 1rem 0 1.5rem; } figcaption { font-weight: 600; margin-bottom: .3rem; }
svg { width: 100%; height: auto; max-width: 46rem; } svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .85rem; border-top: 1px solid var(--line); padding-top: .6rem; }
"""


def render(document: Document) -> str:
    """The whole page."""
    body = [f"<h1>{escape(document.title)}</h1>"]
    if document.verdict:
        body.append(f'<p class="verdict {document.verdict.tone}">{escape(document.verdict.text)}</p>')
    body += [_block(block) for block in document.blocks]
    if document.meta:
        body.append(
            "<footer>" + " · ".join(f"{escape(name)} {escape(value)}" for name, value in document.meta) + "</footer>"
        )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(document.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>"
    )


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{escape(block.text)}</h2>"
    if isinstance(block, Text):
        return f'<p class="{block.tone}">{escape(block.text)}</p>'
    if isinstance(block, Facts):
        rows = "".join(f'<tr><td class="name">{escape(a)}</td><td>{escape(b)}</td></tr>' for a, b in block.rows)
        return f'<div class="scroll"><table>{rows}</table></div>'
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Code):
        return f"<pre><code>{escape(block.text)}</code></pre>"
    return _figure(block)


def _table(table: Table) -> str:
    def cell(tag: str, column: str, text: str) -> str:
        side = ' class="right"' if column in table.right else ""
        return f"<{tag}{side}>{escape(text)}</{tag}>"

    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    head = "".join(cell("th", column, column) for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(cell("td", column, text) for column, text in zip(table.columns, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _figure(chart: Chart) -> str:
    return f"<figure><figcaption>{escape(chart.title)}</figcaption>{chart_svg(chart)}</figure>"
