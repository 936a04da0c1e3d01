"""A Markdown section for a model card. Pure."""

from __future__ import annotations

from llmops.quantize.report import QuantizeReport
from llmops.units import format_size


def model_card(report: QuantizeReport) -> str:
    """How the checkpoint was made, how good it is, and how to serve it."""
    group = "" if report.group_size is None else f", group size {report.group_size}"
    lines = [
        f"# {report.out.name}",
        "",
        f"{report.model} quantised to {report.bits} bit with {report.method}{group}.",
        "",
        "| | |",
        "|---|---|",
        f"| Method | {report.method}, {report.bits} bit{group} |",
        f"| Engine | {report.engine} {dict(report.versions).get(report.engine, '')} |",
        f"| Size | {format_size(report.before_bytes)} → {format_size(report.after_bytes)} |",
    ]
    if report.calibration:
        rows, length = report.calibration.get("rows", 0), report.calibration["seq_len"]
        lines.append(f"| Calibration | {report.calibration['name']}, {rows} × {length} tokens, seed {report.seed} |")
    lines += ["", *_quality(report), "## Serve", "", "```", report.serve_command, "```", ""]
    return "\n".join(lines)


def _quality(report: QuantizeReport) -> list[str]:
    if report.comparison is None:
        return ["The result was not compared with the original.", ""]
    quality = report.comparison.quality
    return [
        "## Quality against the original",
        "",
        f"Over {quality.tokens} tokens of held-out text ({report.comparison.text[0]}):",
        "",
        "| measure | value |",
        "|---|---:|",
        f"| perplexity | {quality.ppl_base:.3f} → {quality.ppl:.3f} (× {quality.ppl_ratio:.4f} ± {quality.ppl_ratio_se:.4f}) |",
        f"| mean KL divergence | {quality.kl_mean:.5f} ± {quality.kl_se:.5f} |",
        f"| 99th percentile of KL | {quality.kl_p99:.4f} |",
        f"| same most likely token | {quality.top1_agreement:.1%} ± {quality.top1_se:.1%} |",
        "",
    ]
