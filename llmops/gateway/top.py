"""``llmops gateway top``: a live table of a running gateway, from its ``/metrics``."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmops.errors import AccessError, OutsideError
from llmops.findings import Finding
from llmops.report.document import Document, Table, Text

if TYPE_CHECKING:
    from llmops.progress import Progress

_LINE: Final = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$")
_LABEL: Final = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
Series = dict[str, list[tuple[dict[str, str], float]]]


@dataclass(frozen=True, slots=True)
class TopRow:
    """One model: ``requests`` and ``cost_usd`` since the start, the rest over the last interval.

    In the first sample, which has no interval, rates are None and latencies are since the start.
    """

    model: str
    requests: int
    requests_per_s: float | None
    error_rate: float
    p50_s: float | None
    ttft_p50_s: float | None
    tokens_per_s: float | None
    cost_usd: float


@dataclass(frozen=True, slots=True)
class TopReport:
    """One sample."""

    url: str
    in_flight: int
    rows: tuple[TopRow, ...]
    open_targets: tuple[str, ...] = ()
    ok: bool = True
    findings: tuple[Finding, ...] = ()


def watch(url: str, *, every_s: float, once: bool, key_env: str | None, progress: Progress) -> TopReport:
    """Sample until Ctrl-C on a terminal, else once; returns the last sample.

    Raises:
        OutsideError: The gateway does not answer.
        AccessError: It refuses the key.
    """
    fetch = _fetcher(url, key_env)
    first, before = fetch(), time.monotonic()
    report = sample(url, {}, first, 0.0)
    if once or not sys.stderr.isatty():
        return report
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text as Plain

    from llmops.report.terminal import render

    with Live(console=Console(stderr=True), auto_refresh=False, screen=False) as live:
        try:
            while True:
                live.update(Plain(render(view(report), color=False, width=live.console.width)), refresh=True)
                time.sleep(every_s)
                now, at = fetch(), time.monotonic()
                report = sample(url, first, now, at - before)
                first, before = now, at
        except KeyboardInterrupt:
            progress.note("stopped")
    return report


def _fetcher(url: str, key_env: str | None) -> Callable[[], Series]:
    import os

    import httpx

    address = url.rstrip("/") + ("" if url.rstrip("/").endswith("/metrics") else "/metrics")
    headers = {"authorization": f"Bearer {os.environ.get(key_env, '')}"} if key_env else {}

    def fetch() -> Series:
        try:
            answer = httpx.get(address, headers=headers, timeout=5)
        except httpx.HTTPError as error:
            raise OutsideError(f"no gateway answers at {address}: {type(error).__name__}", "check the URL") from error
        if answer.status_code in (401, 403):
            raise AccessError(f"{address} needs a key with admin: true", "give its variable: --key-env NAME")
        if answer.status_code != 200:
            raise OutsideError(f"{address} answered {answer.status_code}", "is it the gateway's metrics port?")
        return parse(answer.text)

    return fetch


def parse(text: str) -> Series:
    """Prometheus text -> name -> (labels, value)."""
    series: Series = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is not None:
            series.setdefault(match[1], []).append((dict(_LABEL.findall(match[2] or "")), float(match[3])))
    return series


def sample(url: str, before: Series, now: Series, seconds: float) -> TopReport:
    """What happened between two scrapes; without an earlier one, since the start and without rates."""

    def total(series: Series, name: str, **labels: str) -> float:
        rows = series.get(name, ())
        return sum(value for found, value in rows if all(found.get(key) == want for key, want in labels.items()))

    def grown(name: str, **labels: str) -> float:
        return total(now, name, **labels) - total(before, name, **labels)

    models = sorted({labels["model"] for labels, _ in now.get("llm_requests_total", ()) if "model" in labels})
    rows = []
    for model in models:
        requests = grown("llm_requests_total", model=model)
        tokens = grown("llm_token_usage_total", model=model, type="output")
        rows.append(
            TopRow(
                model,
                int(total(now, "llm_requests_total", model=model)),
                round(requests / seconds, 2) if seconds else None,
                total(now, "llm_error_rate", model=model),
                _median(before, now, "llm_request_duration_seconds", model),
                _median(before, now, "llm_time_to_first_token_seconds", model),
                round(tokens / seconds, 1) if seconds else None,
                total(now, "llm_cost_total_dollars", model=model),
            )
        )
    is_open = tuple(labels.get("target", "") for labels, value in now.get("llm_breaker_open", ()) if value)
    return TopReport(url, int(total(now, "llm_requests_in_flight")), tuple(rows), is_open)


def _median(before: Series, now: Series, name: str, model: str) -> float | None:
    """The upper bound of the bucket that holds the median."""
    old = {labels["le"]: value for labels, value in before.get(f"{name}_bucket", ()) if labels.get("model") == model}
    buckets = [
        (float(labels["le"]), value - old.get(labels["le"], 0.0))
        for labels, value in now.get(f"{name}_bucket", ())
        if labels.get("model") == model
    ]
    count = max((value for _, value in buckets), default=0.0)
    reached = [bound for bound, value in sorted(buckets) if count and value >= count / 2]
    return reached[0] if reached else None


def view(report: TopReport) -> Document:
    """The table."""

    def ms(seconds: float | None) -> str:
        return "-" if seconds is None else f"<= {seconds * 1000:.0f} ms"

    rows = tuple(
        (
            row.model,
            f"{row.requests:,}",
            "-" if row.requests_per_s is None else f"{row.requests_per_s:.1f}",
            f"{row.error_rate:.1%}",
            ms(row.p50_s),
            ms(row.ttft_p50_s),
            "-" if row.tokens_per_s is None else f"{row.tokens_per_s:.0f}",
            f"${row.cost_usd:.4f}",
        )
        for row in report.rows
    )
    columns = ("Model", "Requests", "req/s", "Errors", "p50", "TTFT p50", "tok/s", "Cost")
    blocks: list[Table | Text] = [Table(columns, rows, frozenset(columns[1:]))]
    if report.open_targets:
        blocks.append(Text(f"left alone: {', '.join(report.open_targets)}", "warn"))
    return Document(f"Gateway {report.url}", tuple(blocks), Text(f"{report.in_flight} requests in flight"))
