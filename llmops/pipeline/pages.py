"""Each step's result in one line, and what its verb does not draw itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmops.pipeline.chat import Exchange
from llmops.pipeline.cost import Cost
from llmops.pipeline.state import StepReport
from llmops.report.document import Block, Chart, Code, Facts, Heading, Series, Table, Text
from llmops.units import format_count, format_duration, format_size, format_usd

if TYPE_CHECKING:
    from llmops.bench import BenchReport
    from llmops.checkpoint.facts import ModelFacts
    from llmops.checkpoint.sources import Source
    from llmops.diagnosis import Diagnosis
    from llmops.planning.types import ServePlan
    from llmops.quantize.report import EvaluateReport, QuantizeReport
    from llmops.serve import RunningServer

_BLOCKS: Final[dict[str, type[Block]]] = {kind.__name__: kind for kind in (Heading, Text, Facts, Table, Code, Chart)}


def model_line(source: Source) -> str:
    """Where the model came from."""
    return f"{source.path.name} from {source.name}, licence: {source.licence or 'not stated'}"


def model(source: Source) -> tuple[Block, ...]:
    """The source used, its licence, and the sources passed over with the reason."""
    rows = [
        ("source", f"{source.kind}: {source.name}"),
        ("licence", (source.licence or "not stated") + (f" ({source.licence_note})" if source.licence_note else "")),
        ("files", str(source.path)),
    ]
    rows += [(f"passed over: {skipped.name}", skipped.why) for skipped in source.skipped]
    return (Facts(tuple(rows)),)


def inspect_line(facts: ModelFacts) -> str:
    """Architecture and size."""
    return (
        f"{facts.architecture}, {format_count(facts.parameters)} parameters, {format_size(facts.size_bytes)}, "
        f"context {facts.context_length}, {facts.kv_bytes_per_token} KV bytes a token"
    )


def plan_line(plan: ServePlan) -> str:
    """Engine and limits of the first model."""
    if not plan.models:
        return "no plan"
    first = plan.models[0]
    where = f"GPUs {', '.join(map(str, first.gpus))}" if first.gpus else f"CPU, {first.threads} threads"
    fits = "" if first.fits else f"; does not fit by {first.shortfall_gib:.1f} GiB"
    return f"{first.engine} on {where}, context {first.max_model_len}, {first.max_num_seqs} sequences{fits}"


def quantize_line(report: QuantizeReport) -> str:
    """Size and quality."""
    line = (
        f"{report.method} {report.bits} bit: {format_size(report.before_bytes)} to {format_size(report.after_bytes)}"
        f" in {format_duration(report.seconds)}"
    )
    if report.comparison is None:
        return line + ", quality not measured"
    return f"{line}; {_quality(report.comparison.quality)}"


def evaluate_line(report: EvaluateReport) -> str:
    """Quality against the original."""
    return _quality(report.comparison.quality)


def _quality(quality: Any) -> str:
    return (
        f"perplexity x{quality.ppl_ratio:.3f}, mean KL {quality.kl_mean:.4f}, "
        f"top-1 agreement {quality.top1_agreement:.1%}"
    )


def record_of(step: StepReport) -> dict[str, Any]:
    """What a later run needs to show this step without doing it again."""
    blocks = [[type(block).__name__, msgspec.to_builtins(block)] for block in step.blocks]
    return {"summary": step.summary, "data": step.data, "blocks": blocks}


def step_from_record(verb: str, record: dict[str, Any]) -> StepReport:
    """A step of an earlier run, as it was."""
    blocks: tuple[Block, ...] = tuple(msgspec.convert(fields, _BLOCKS[name]) for name, fields in record["blocks"])
    return StepReport(verb, record["summary"], reused=True, data=record["data"], blocks=blocks)


def serve_line(server: RunningServer) -> str:
    """Engine and time to the first answer."""
    return f"{server.engine} ready after {format_duration(server.ready_s)} at {server.url}"


def serve_data(server: RunningServer) -> dict[str, Any]:
    """The endpoint as data."""
    return {
        "engine": server.engine,
        "url": server.url,
        "model": server.model_name,
        "ready_s": server.ready_s,
        "kv_tokens": server.kv_tokens,
        "log": server.log_path,
        "reason": server.decision.choice.reason,
    }


def serve(server: RunningServer) -> tuple[Block, ...]:
    """How it was served, and how to do the same by hand."""
    rows = (
        ("engine", f"{server.engine}: {server.decision.choice.reason}"),
        ("ready", f"after {format_duration(server.ready_s)}, first token included"),
        ("log", str(server.log_path)),
    )
    path = Path(server.decision.plan.path)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return (Facts(rows), Code(f"llmops serve {shown}", "sh"))


def chat(exchanges: Sequence[Exchange]) -> tuple[Block, ...]:
    """Questions and answers."""
    rows = tuple(
        (e.question, e.answer or "(nothing)", str(e.completion_tokens or "?"), format_duration(e.seconds))
        for e in exchanges
    )
    table = Table(("question", "answer", "tokens", "time"), rows, frozenset({"tokens", "time"}))
    return (table, Text("A small base model answers in sentences, not always with facts.", "dim"))


def load_of(report: BenchReport) -> dict[str, Any]:
    """The figures of one load, as they stand in the JSON document of ``llmops bench``."""
    from llmops.report.files import plain_data

    figures: dict[str, Any] = plain_data(report)
    return figures


def bench_line(report: BenchReport) -> str:
    """Throughput and latency of one load."""
    figures = load_of(report)
    metrics = figures["metrics"]
    ttft, gaps = metrics["ttft_ms"]["p50"], metrics["itl_ms"]["p50"]
    counts = figures["counts"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return (
        f"{counts['ok']} requests{failed}: {metrics['output_tokens_per_s']:.1f} tokens/s, "
        f"TTFT p50 {_ms(ttft)}, gap p50 {_ms(gaps)}"
    )


def bench_charts(reports: Sequence[BenchReport]) -> tuple[Block, ...]:
    """Every load so far side by side; nothing until there are two."""
    if len(reports) < 2:
        return ()
    loads = [load_of(report) for report in reports]
    names = [str(load.get("concurrency") or index + 1) for index, load in enumerate(loads)]
    speed = tuple(
        (name, float(load["metrics"]["output_tokens_per_s"])) for name, load in zip(names, loads, strict=True)
    )

    def latency(metric: str, quantile: str) -> Series:
        values = ((name, load["metrics"][metric][quantile]) for name, load in zip(names, loads, strict=True))
        return Series(quantile, tuple((name, float(value)) for name, value in values if value is not None))

    label = "requests in flight"
    return (
        Chart("Output tokens per second by load", "bar", label, "tokens/s", (Series("tokens/s", speed),)),
        Chart(
            "Time to first token by load", "bar", label, "ms", (latency("ttft_ms", "p50"), latency("ttft_ms", "max"))
        ),
        Chart("Gap between tokens by load", "bar", label, "ms", (latency("itl_ms", "p50"), latency("itl_ms", "max"))),
    )


def _ms(value: float | None) -> str:
    return "n/a" if value is None else format_duration(value / 1000)


def diagnose_line(report: Diagnosis) -> str:
    """The answer in words."""
    if report.top is not None:
        return f"{report.top.cause}: {report.top.title}"
    return "healthy" if report.status == "healthy" else "a failure is visible, its cause is not known"


def price_line(cost: Cost) -> str:
    """What a million output tokens cost on this machine."""
    here = cost.rows[0]
    if here.per_million is None:
        return f"unknown: {here.charge.reason}"
    return f"{format_usd(here.per_million)} per million output tokens on this machine at {format_usd(cost.machine_hour_usd)} an hour"


def price(cost: Cost) -> tuple[Block, ...]:
    """The same tokens on this machine and in the clouds."""
    rows = tuple(
        (
            row.name,
            format_usd(row.charge.amount_usd) if row.charge.amount_usd is not None else "unknown",
            format_usd(row.per_million) if row.per_million is not None else "unknown",
            row.charge.source or row.charge.reason,
        )
        for row in cost.rows
    )
    usage = cost.usage
    return (
        Text(
            f"For the measured load of {usage.input_tokens} input and {usage.output_tokens} output tokens at "
            f"{cost.output_tokens_per_s:.1f} output tokens a second with {cost.concurrency} requests in flight."
        ),
        Table(
            ("where", "this load", "per million output tokens", "price from"),
            rows,
            frozenset({"this load", "per million output tokens"}),
        ),
        Text("The second figure counts the input tokens that belong to a million output tokens at this load.", "dim"),
    )
