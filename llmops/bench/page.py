"""The report for a person."""

from __future__ import annotations

from llmops.bench.ab import CompareReport
from llmops.bench.charts import charts
from llmops.bench.compare import Change
from llmops.bench.metrics import SHARES, Distribution
from llmops.bench.offline import OfflineReport
from llmops.bench.report import BenchReport, Level
from llmops.report.document import Block, Document, Facts, Heading, Table, Text, Tone

_SHOWN = (
    ("ttft_ms", "TTFT"),
    ("ttft_visible_ms", "TTFT, visible"),
    ("itl_ms", "token gap"),
    ("tpot_ms", "TPOT"),
    ("e2e_ms", "end to end"),
)
_TONE: dict[str, Tone] = {"PASS": "good", "FAIL": "bad", "INCONCLUSIVE": "warn"}


def view(report: BenchReport) -> Document:
    """Tables for every reader; the charts are for the HTML page and the Markdown file."""
    blocks: list[Block] = []
    many = len(report.levels) > 1
    if many:
        blocks.append(_sweep(report))
    verdict = _verdict(report)
    blocks += _level_blocks(report.level, titled=many, said=verdict.text)
    if report.comparison is not None:
        blocks += [Heading(f"Against {report.comparison['baseline']}"), _changes(report.comparison["changes"])]
    blocks += charts(report) if report.charts else []
    meta = (
        ("started", report.started),
        ("seed", str(report.seed)),
        *((name, value) for name, value in report.versions.items()),
        ("command", report.command),
    )
    return Document(f"{report.model} at {report.url}", tuple(blocks), verdict, meta)


def view_comparison(report: CompareReport) -> Document:
    """Old against new."""
    pairs = len(report.order) // 2
    how = f"{pairs} pairs of runs {report.order}".rstrip() if report.interleaved else "saved reports"
    blocks: list[Block] = [
        Facts((("A", report.a), ("B", report.b), ("measured", how))),
        *([_changes(report.changes)] if report.changes else []),
        *(Text(f"note: {note}", "dim") for note in report.notes),
    ]
    gated = [change.words for change in report.changes if change.gated and change.verdict == report.verdict]
    said = {
        "PASS": f"PASS: no gated metric is {report.max_regression:.0%} slower",
        "FAIL": f"FAIL: {'; '.join(gated)}",
        "INCONCLUSIVE": f"INCONCLUSIVE: {'; '.join(gated) or (report.notes or ('nothing to compare',))[0]}",
    }
    if report.interrupted is not None:
        verdict = Text(f"INCOMPLETE: interrupted after {pairs} pairs of runs", "warn")
        return Document("B against A", tuple(blocks), verdict)
    return Document("B against A", tuple(blocks), Text(said[report.verdict], _TONE[report.verdict]))


def _changes(changes: tuple[Change, ...]) -> Table:
    columns = ("p50", "A, ms", "B, ms", "change", "95 % interval", "verdict")
    rows = tuple(
        (
            change.metric.removesuffix("_ms"), _ms(change.old), _ms(change.new), f"{change.ratio - 1:+.1%}",
            f"{change.interval[0] - 1:+.1%} to {change.interval[1] - 1:+.1%}" if change.interval else "n/a",
            change.verdict if change.gated else "not gated",
        )
        for change in changes
    )  # fmt: skip
    return Table(columns, rows, frozenset(columns[1:5]))


def view_offline(report: OfflineReport) -> Document:
    """Tokens a second by batch size."""
    columns = ("batch", "prompt", "new tokens", "tokens/s", "first token, ms", "step, ms", "repeats")
    rows = tuple(
        (
            str(b.batch), str(b.input_tokens), str(b.output_tokens), f"{b.output_tokens_per_s:.1f}",
            _ms(b.first_ms), _ms(b.step_ms), str(b.repeats),
        )
        for b in report.batches
    )  # fmt: skip
    best = max(report.batches, key=lambda b: b.output_tokens_per_s)
    takes = (("takes", report.takes),) if report.takes else ()
    facts = Facts((("engine", report.engine), ("device", report.device), *takes, *report.versions.items()))
    blocks: list[Block] = [Table(columns, rows, frozenset(columns)), facts]
    if report.layers:
        layers = tuple((str(row["name"]), f"{row['ms']:.3f}") for row in report.layers)
        blocks.append(Table(("slowest layers of one prefill", "ms"), layers, frozenset({"ms"})))
    return Document(
        report.model, tuple(blocks), Text(f"{best.output_tokens_per_s:.1f} tokens/s at batch {best.batch}", "good")
    )


def _verdict(report: BenchReport) -> Text:
    level, metrics = report.level, report.metrics
    speed = f"{metrics.output_tokens_per_s:.1f} tokens/s at {level.load}"
    if report.interrupted is not None:
        return Text(f"INCOMPLETE: interrupted after {level.counts.requests} requests; {speed}", "warn")
    if not level.counts.ok:
        kind = next(iter(level.errors), "nothing was sent")
        return Text(f"FAIL: no request was answered ({kind})", "bad")
    if not report.gates and report.verdict == "PASS":
        return Text(f"VALID: {speed}", "good")
    why = _why(report)
    if not report.gates:
        return Text(f"INVALID: {why}", "warn")
    return Text(f"{report.verdict}: {report.found or why or speed}", _TONE[report.verdict])


def _why(report: BenchReport) -> str:
    level = report.level
    judged = [level] if report.found is not None else [level, *(each for each in report.levels if each is not level)]
    if report.verdict == "INCONCLUSIVE":
        for each in judged:
            if each.validity.reasons:
                return each.validity.reasons[0] + ("" if each is level else f" (at {each.load})")
    said = [
        f"{result.slo}{'' if each is level else f' at {each.load}'}: {result.why}"
        for each in judged
        for result in each.slos
        if result.verdict == report.verdict
    ]
    changes: tuple[Change, ...] = report.comparison["changes"] if report.comparison else ()
    moved = [change.words for change in changes if change.gated and change.verdict == report.verdict]
    if report.verdict != "PASS":
        return "; ".join([*said, *moved][:2])
    every = f"all {len(level.slos)} SLOs hold at {level.load}" if len(level.slos) > 1 else ""
    every = every or (f"{level.slos[0].slo} holds at {level.load}" if said else "")
    return "; ".join(
        filter(None, (every, f"not slower than {report.comparison['baseline']}" if report.comparison else ""))
    )


def _level_blocks(level: Level, *, titled: bool, said: str) -> list[Block]:
    """Everything about one level but what the verdict has ``said``."""
    blocks: list[Block] = [Heading(level.load)] if titled else []
    blocks += _latencies(level)
    blocks.append(Facts(tuple(_facts(level))))
    if level.slos:
        judged = tuple((r.slo, str(r.verdict), _plain(r.value), r.why) for r in level.slos)
        blocks.append(Table(("SLO", "verdict", "measured", "why"), judged, frozenset({"measured"})))
    if level.errors:
        rows = tuple((kind, str(count), level.error_details.get(kind, "")) for kind, count in level.errors.items())
        blocks.append(Table(("failed", "requests", "the server says"), rows, frozenset({"requests"})))
    blocks += [Text(f"INVALID: {reason}", "warn") for reason in level.validity.reasons if reason not in said]
    blocks += [Text(f"note: {warning}", "dim") for warning in level.validity.warnings]
    return blocks


def _latencies(level: Level) -> list[Block]:
    columns = ("ms", "p50", "p90", "p95", "p99", "mean", "max")
    rows = []
    missing = ""
    for name, label in _SHOWN:
        found: Distribution | None = getattr(level.metrics, name)
        if found is None or (name == "ttft_visible_ms" and found == level.metrics.ttft_ms):
            continue
        cells = [_cell(found, share) for share in SHARES]
        rows.append((label, *cells, _ms(found.mean), _ms(found.max)))
        missing = missing or "; ".join(f"{share} n/a ({why})" for share, why in found.unsupported.items())
    return [
        Table(columns, tuple(rows), frozenset(columns[1:])),
        *([Text(f"99 % confidence: {missing}", "dim")] if missing else []),
    ]


def _cell(found: Distribution, share: str) -> str:
    if share in found.unsupported:
        return "n/a"
    value = _ms(found.percentiles[share])
    interval = found.ci95.get(share)
    if interval is None or share != "p50":
        return value
    half = max(interval[1] - found.percentiles[share], found.percentiles[share] - interval[0])
    return f"{value} ±{_ms(half)}"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _plain(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _facts(level: Level) -> list[tuple[str, str]]:
    metrics, counts, client = level.metrics, level.counts, level.client
    failed = f", {counts.failed} failed ({metrics.error_rate:.1%})" if counts.failed else ", none failed"
    aborted = f", {counts.aborted} cut off by the interruption" if counts.aborted else ""
    rows = [
        ("load", f"{level.load}, {metrics.window_s:.1f} s measured"),
        ("requests", f"{counts.requests}{failed}{aborted}; {metrics.request_rate:.2f}/s"),
        (
            "output",
            f"{metrics.output_tokens_per_s:.1f} tokens/s, {counts.output_tokens} tokens by {level.token_source}",
        ),
        ("input", f"{metrics.input_tokens_per_s:.1f} tokens/s, {counts.input_tokens} tokens"),
    ]
    if level.slos and metrics.goodput is not None:
        rows.append(("goodput", f"{metrics.goodput:.1%} within every limit, {metrics.goodput_rate:.2f}/s"))
    if level.cost:
        rows.append(("cost", str(level.cost.get("words", ""))))
    if level.energy:
        rows.append(("energy", str(level.energy.get("words", ""))))
    lag = f", loop lag p99 {client.loop_lag_p99_ms:.2f} ms" if client.loop_lag_p99_ms is not None else ""
    rows.append(("client", f"{client.cpu_share:.0%} of a core{lag}, connect {_plain(client.connect_p50_ms)} ms"))
    return rows


def _sweep(report: BenchReport) -> Table:
    columns = ["load", "req/s", "tok/s", "TTFT p50", "TTFT p95", "gap p50", "e2e p50", "failed", "verdict"]
    # Nine columns do not fit 80 characters: failures, where there are any, are worth more than the end-to-end time.
    left_out = 6 if any(level.counts.failed for level in report.levels) else 7
    rows = [list(_sweep_row(level, gates=report.gates)) for level in report.levels]
    for row in (columns, *rows):
        del row[left_out]
    return Table(tuple(columns), tuple(tuple(row) for row in rows), frozenset(columns[1:-1]))


def _sweep_row(level: Level, *, gates: bool) -> tuple[str, ...]:
    metrics = level.metrics
    verdict = level.verdict if gates else "valid" if level.validity.valid else "INVALID"

    def at(found: Distribution | None, share: str) -> str:
        return "n/a" if found is None or share in found.unsupported else _ms(found.percentiles[share])

    return (
        level.load, f"{metrics.request_rate:.2f}", f"{metrics.output_tokens_per_s:.1f}", at(metrics.ttft_ms, "p50"),
        at(metrics.ttft_ms, "p95"), at(metrics.itl_ms, "p50"), at(metrics.e2e_ms, "p50"),
        str(level.counts.failed), verdict,
    )  # fmt: skip
