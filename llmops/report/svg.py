"""Charts as inline SVG: lines and grouped bars with axes, ticks, a legend, and a title that a screen reader reads."""

from __future__ import annotations

import math
from html import escape

from llmops.report.document import Chart

_W, _H = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 46
_PLOT_W, _PLOT_H = _W - _LEFT - _RIGHT, _H - _TOP - _BOTTOM


def chart_svg(chart: Chart) -> str:
    """The chart drawn; a chart without points says so instead of showing empty axes."""
    values = [y for series in chart.series for _, y in series.points if math.isfinite(y)]
    if not values:
        return "<p class='dim'>no data</p>"
    ticks = nice_ticks(min(0.0, *values), max(0.0, *values))
    low, high = ticks[0], ticks[-1]

    def y_at(value: float) -> float:
        return _TOP + _PLOT_H * (1 - (value - low) / (high - low))

    body = [
        _grid(ticks, y_at(0) if low < 0 else _TOP + _PLOT_H, [y_at(t) for t in ticks]),
        _labels(chart),
        _legend(chart),
    ]
    body.append(_lines(chart, y_at) if chart.kind == "line" else _bars(chart, y_at))
    return (
        f'<svg viewBox="0 0 {_W} {_H}" role="img" xmlns="http://www.w3.org/2000/svg"><title>{escape(chart.title)}</title>'
        + "".join(body)
        + "</svg>"
    )


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round tick positions (1, 2, 2.5 or 5 times a power of ten) that cover ``low`` to ``high``."""
    if high <= low:
        high = low + 1
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _grid(ticks: list[float], zero: float, ys: list[float]) -> str:
    parts = []
    for tick, y in zip(ticks, ys, strict=True):
        parts.append(f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    parts.append(f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{zero:.1f}" y2="{zero:.1f}" stroke="var(--soft)"/>')
    return "".join(parts)


def _labels(chart: Chart) -> str:
    return (
        f'<text x="{_LEFT + _PLOT_W / 2}" y="{_H - 6}" text-anchor="middle">{escape(chart.x_label)}</text>'
        f'<text x="14" y="{_TOP + _PLOT_H / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {_TOP + _PLOT_H / 2})">{escape(chart.y_label)}</text>'
    )


def _legend(chart: Chart) -> str:
    parts, x = [], float(_LEFT)
    for index, series in enumerate(chart.series):
        parts.append(f'<rect x="{x:.0f}" y="10" width="12" height="12" rx="2" fill="var(--s{index % 5})"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="20">{escape(series.name)}</text>')
        x += 34 + 7 * len(series.name)
    return "".join(parts)


def _lines(chart: Chart, y_at: object) -> str:
    assert callable(y_at)
    xs = [float(x) for series in chart.series for x, _ in series.points]
    low, high = min(xs), max(xs)
    span = (high - low) or 1.0

    def x_at(x: float) -> float:
        return _LEFT + _PLOT_W * (x - low) / span

    marks = len(set(xs)) <= 12
    ticks = sorted(set(xs)) if marks else nice_ticks(low, high)
    parts = [
        f'<text x="{x_at(x):.1f}" y="{_TOP + _PLOT_H + 18}" text-anchor="middle">{_short(x)}</text>'
        for x in ticks
        if low <= x <= high
    ]
    for index, series in enumerate(chart.series):
        points = [(x_at(float(x)), y_at(y)) for x, y in series.points if math.isfinite(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="var(--s{index % 5})" stroke-width="2"/>')
        if marks:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--s{index % 5})"/>' for x, y in points]
    return "".join(parts)


def _bars(chart: Chart, y_at: object) -> str:
    assert callable(y_at)
    names = list(dict.fromkeys(x for series in chart.series for x, _ in series.points))
    slot = _PLOT_W / len(names)
    width = min(64.0, slot * 0.75 / len(chart.series))
    zero = y_at(0.0)
    parts = []
    for place, name in enumerate(names):
        middle = _LEFT + slot * (place + 0.5)
        parts.append(
            f'<text x="{middle:.1f}" y="{_TOP + _PLOT_H + 18}" text-anchor="middle">{escape(_short(name))}</text>'
        )
        for index, series in enumerate(chart.series):
            value = dict(series.points).get(name)
            if value is None or not math.isfinite(value):
                continue
            x = middle + width * (index - len(chart.series) / 2)
            y = y_at(value)
            top, height = min(y, zero), abs(y - zero)
            parts.append(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="{width - 2:.1f}" height="{max(height, 0.5):.1f}" rx="2" fill="var(--s{index % 5})"/>'
                f'<text x="{x + width / 2 - 1:.1f}" y="{top - 4:.1f}" text-anchor="middle">{_short(value)}</text>'
            )
    return "".join(parts)


def _short(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
