"""Plans and reports of quantising and evaluating as documents for people. Pure."""

from __future__ import annotations

from llmops.findings import Finding
from llmops.quantize.gate import Gate
from llmops.quantize.plan import QuantizePlan
from llmops.quantize.report import Comparison, EvaluateReport, QuantizeReport
from llmops.report.document import Block, Code, Document, Facts, Heading, Table, Text
from llmops.report.told import told
from llmops.units import format_duration, format_size


def plan_view(plan: QuantizePlan) -> Document:
    """A dry run."""
    method = _method(plan)
    need = plan.need
    rows = [
        ("Method", method + (f" ({plan.why})" if plan.why else "")),
        ("Engine", f"{plan.engine} {plan.runtime.version(plan.engine)} in {plan.runtime.python}"),
        ("Runs on", f"{plan.device}, {plan.threads} threads"),
        ("Layers", f"{plan.linears} matrices in {plan.layers} layers"),
        ("Size", f"{format_size(need.before_bytes)} → about {format_size(need.after_bytes)}"),
        ("Memory", f"about {format_size(need.memory_bytes)}"),
        ("Disk", f"about {format_size(need.disk_bytes)} while it runs"),
        (
            "Time",
            "not known for GPUs"
            if need.seconds is None
            else f"about {format_duration(need.seconds)}, within a factor of two",
        ),
    ]
    if plan.text is not None:
        rows.append(
            (
                "Calibration",
                f"{plan.text.name}: {plan.samples} × {plan.seq_len} tokens of {plan.text.documents} documents",
            )
        )
    if plan.limits is not None:
        limits = plan.limits
        rows.append(
            (
                "Passes when",
                f"KL ≤ {limits.max_kl:g}, perplexity × ≤ {limits.max_ppl_ratio:g}, top-1 ≥ {limits.min_agreement:.0%}",
            )
        )
    rows.append(("Output", str(plan.out)))
    notes = _notes(plan.findings)
    return Document(
        f"Plan: quantise {plan.model}", (Facts(tuple(rows)), *notes), Text("Nothing was done: this is a plan")
    )


def view(report: QuantizePlan | QuantizeReport) -> Document:
    """A finished quantisation, or the plan of one."""
    if isinstance(report, QuantizePlan):
        return plan_view(report)
    method = _method(report)
    saved = 1 - report.after_bytes / report.before_bytes
    facts = Facts(
        (
            ("Method", f"{method}, {report.engine} {dict(report.versions).get(report.engine, '')}".rstrip()),
            ("Size", f"{format_size(report.before_bytes)} → {format_size(report.after_bytes)} ({saved:.0%} smaller)"),
            ("Time", f"{format_duration(report.seconds)} ({format_duration(report.cpu_seconds)} of CPU)"),
            ("Peak memory", format_size(report.peak_rss_bytes)),
            ("Output", str(report.out)),
        )
    )
    notes = _notes(report.findings)
    quality = () if report.comparison is None else quality_blocks(report.comparison, report.gate)
    serve: tuple[Block, ...] = (Heading("Serve it"), Code(report.serve_command)) if report.ok else ()
    return Document(
        f"Quantised {report.model}", (facts, *quality, *notes, *serve), _verdict(report.gate, report.out.name)
    )


def evaluate_view(report: EvaluateReport) -> Document:
    """A comparison."""
    title = f"{report.model} against {report.against}"
    blocks = (*quality_blocks(report.comparison, report.gate), *_notes(report.findings))
    return Document(title, blocks, _verdict(report.gate, report.model))


def quality_blocks(comparison: Comparison, gate: Gate) -> tuple[Block, ...]:
    """Metrics with errors and thresholds, by language, and the samples side by side."""
    q, limits = comparison.quality, gate.thresholds
    rows = [
        (
            "perplexity ratio",
            f"{q.ppl_ratio:.4f} ± {q.ppl_ratio_se:.4f}",
            "" if limits is None else f"≤ {limits.max_ppl_ratio:g}",
        ),
        ("mean KL divergence", f"{q.kl_mean:.5f} ± {q.kl_se:.5f}", "" if limits is None else f"≤ {limits.max_kl:g}"),
        ("99 % of tokens below KL", f"{q.kl_p99:.4f}", ""),
        (
            "same most likely token",
            f"{q.top1_agreement:.1%} ± {q.top1_se:.1%}",
            "" if limits is None else f"≥ {limits.min_agreement:.0%}",
        ),
        ("perplexity", f"{q.ppl_base:.3f} → {q.ppl:.3f}", ""),
    ]
    blocks: list[Block] = [
        Heading("Quality against the original"),
        Table(("measure", "value", "wanted"), tuple(rows), frozenset({"value", "wanted"})),
        Text(f"{q.tokens} scored tokens of {comparison.text[0]}", "dim"),
    ]
    if len(comparison.groups) > 1:
        blocks.append(
            Table(
                ("language", "ratio", "mean KL", "top-1", "tokens"),
                tuple(
                    (name, f"{g.ppl_ratio:.4f}", f"{g.kl_mean:.5f}", f"{g.top1_agreement:.1%}", str(g.tokens))
                    for name, g in comparison.groups
                ),
                frozenset({"ratio", "mean KL", "top-1", "tokens"}),
            )
        )
    if comparison.samples:
        blocks.append(
            Table(
                ("prompt", "original", "this model"),
                tuple((s.prompt, _short(s.base), _short(s.model)) for s in comparison.samples),
                title="Greedy continuations",
            )
        )
    return tuple(blocks)


def _notes(findings: tuple[Finding, ...]) -> list[Text]:
    """What failed and what to know; the limits that were kept stand in the gate's table."""
    return told(finding for finding in findings if finding.severity != "ok")


def _method(of: QuantizePlan | QuantizeReport) -> str:
    group = {None: "", -1: ", a scale a row"}.get(of.group_size, f", group {of.group_size}")
    return f"{of.method}, {of.bits} bit{group}"


def _short(text: str, length: int = 160) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def _verdict(gate: Gate, name: str) -> Text:
    if gate.passed is None:
        return Text(f"{name} is written; its quality was not measured", "warn")
    if gate.passed:
        return Text(f"{name} passes the quality gate", "good")
    return Text(f"{name} fails the quality gate", "bad")
