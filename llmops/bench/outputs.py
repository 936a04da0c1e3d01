"""Files that only a measurement has: a line a request, CSV, and the list that github-action-benchmark reads."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from llmops.bench.decode import Answer
from llmops.bench.metrics import SHARES
from llmops.bench.report import BenchReport, Level
from llmops.bench.samples import Sample
from llmops.masking import mask
from llmops.report.files import write_whole

OWN_SUFFIXES: Final = (".csv", ".gab.json")
_LATENCIES: Final = ("ttft_ms", "ttft_visible_ms", "itl_ms", "tpot_ms", "e2e_ms")


def own(path: Path) -> bool:
    """Whether the bench writes this report itself, not the renderers that all commands share."""
    return path.name.endswith(OWN_SUFFIXES)


def raw_path(reports: list[Path]) -> Path | None:
    """Where the line a request goes: beside the first JSON report."""
    shared = [path for path in reports if path.suffix == ".json" and not own(path)]
    return shared[0].with_suffix(".requests.jsonl") if shared else None


class RawWriter:
    """One JSON line a request, written as the answers are read; under its name only when whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._file: IO[bytes] = self._partial.open("wb")

    def add(self, load: str, sample: Sample, answer: Answer | None) -> None:
        """Append one request. ``token_ms`` are the arrivals of token events from the request's start."""
        row: dict[str, Any] = {"load": load} | {name: getattr(sample, name) for name in sample.__slots__}
        row["detail"] = mask(sample.detail)
        events = answer.event_ns if answer is not None else ()
        row["token_ms"] = [round((at_ns - sample.at_ns) / 1e6, 3) for at_ns in events]
        row["event_tokens"] = answer.event_tokens if answer is not None else ()
        self._file.write(msgspec.json.encode(row) + b"\n")

    def finish(self) -> None:
        """Give the file its name."""
        if not self._file.closed:
            self._file.close()
            self._partial.replace(self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def write_own(report: BenchReport, path: Path) -> None:
    """Write a CSV or a github-action-benchmark file."""
    if path.suffix == ".csv":
        write_whole(path, to_csv(report))
        return
    write_whole(path, gab(report, smaller=True))
    write_whole(path.with_name(path.name.replace(".gab.json", ".gab-bigger.json")), gab(report, smaller=False))


def to_csv(report: BenchReport) -> str:
    """One row a level."""
    rows = [_csv_row(level) for level in report.levels]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_row(level: Level) -> dict[str, Any]:
    metrics, counts = level.metrics, level.counts
    row: dict[str, Any] = {
        "load": level.load, "concurrency": level.concurrency, "rate": level.rate, "verdict": level.verdict,
        "valid": level.validity.valid, "requests": counts.requests, "ok": counts.ok, "failed": counts.failed,
        "input_tokens": counts.input_tokens, "output_tokens": counts.output_tokens,
        "request_rate": round(metrics.request_rate, 4), "output_tokens_per_s": round(metrics.output_tokens_per_s, 4),
        "error_rate": metrics.error_rate, "goodput": metrics.goodput,
    }  # fmt: skip
    for name in _LATENCIES:
        found = getattr(metrics, name)
        for share in (*SHARES, "mean", "max"):
            value = None if found is None else found.percentiles.get(share, getattr(found, share, None))
            supported = found is not None and share not in found.unsupported
            row[f"{name}.{share}"] = round(value, 4) if supported and value is not None else None
    return row


def gab(report: BenchReport, *, smaller: bool) -> str:
    """github-action-benchmark's ``customSmallerIsBetter`` (latencies, errors) or ``customBiggerIsBetter`` list."""
    rows: list[dict[str, Any]] = []
    for level in report.levels:
        where = f"{report.model}, {level.load}"
        if not smaller:
            rate = round(level.metrics.output_tokens_per_s, 3)
            rows.append({"name": f"output tokens ({where})", "unit": "tokens/s", "value": rate})
            continue
        for name in _LATENCIES:
            found = getattr(level.metrics, name)
            for share in ("p50", "p95", "p99"):
                if found is None or share in found.unsupported:
                    continue
                row = {"name": f"{name.removesuffix('_ms')} {share} ({where})", "unit": "ms"}
                row["value"] = round(found.percentiles[share], 3)
                if share in found.ci95:
                    low, high = found.ci95[share]
                    row["range"] = f"{low:.3f} - {high:.3f}"
                row["extra"] = f"{found.count} samples, {level.verdict}"
                rows.append(row)
    return msgspec.json.format(msgspec.json.encode(rows), indent=2).decode() + "\n"
