"""What a quantisation and a comparison report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmops.findings import Finding
from llmops.quantize.gate import Gate, Quality


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and what both models wrote after it, greedily."""

    prompt: str
    base: str
    model: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measured comparison of a model with its original.

    Attributes:
        groups: Quality by language of the text.
        text: Name and SHA-256 of the held-out text.
        conditions: What must be equal for the figures to repeat: device, dtype, threads, chunks, chunk_tokens.
    """

    quality: Quality
    groups: tuple[tuple[str, Quality], ...]
    samples: tuple[Sample, ...]
    text: tuple[str, str]
    conditions: tuple[tuple[str, str | int], ...]
    seconds: float
    peak_rss_bytes: int
    versions: tuple[tuple[str, str], ...]

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "quality": asdict(self.quality),
            "by_language": {name: asdict(quality) for name, quality in self.groups},
            "samples": [asdict(sample) for sample in self.samples],
            "text": {"name": self.text[0], "sha256": self.text[1]},
            "conditions": dict(self.conditions),
            "seconds": self.seconds,
            "peak_rss_bytes": self.peak_rss_bytes,
            "versions": dict(self.versions),
        }


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """A finished quantisation.

    Attributes:
        out: Where the result is: ``OUT``, or ``OUT.rejected`` when the gate said no.
        seconds: The engine's process from start to end; ``phases_s`` its parts.
        peak_rss_bytes: Of the engine's process; ``device_peak_bytes`` on its GPU.
        worst_losses: The layers that lost most, where the engine measures it.
    """

    ok: bool
    findings: tuple[Finding, ...]
    model: str
    out: Path
    method: str
    engine: str
    bits: int
    group_size: int | None
    desc_act: bool
    before_bytes: int
    after_bytes: int
    seconds: float
    cpu_seconds: float
    phases_s: tuple[tuple[str, float], ...]
    peak_rss_bytes: int
    device_peak_bytes: int | None
    versions: tuple[tuple[str, str], ...]
    seed: int
    threads: int
    device: str
    calibration: dict[str, Any] | None
    worst_losses: tuple[tuple[str, float], ...]
    weights_sha256: str
    gate: Gate
    comparison: Comparison | None
    serve_command: str

    def data(self) -> dict[str, Any]:
        """The JSON ``data``, which is also what ``llmops-quantize.json`` holds."""
        return {
            "model": self.model,
            "out": str(self.out),
            "method": self.method,
            "engine": self.engine,
            "bits": self.bits,
            "group_size": self.group_size,
            "desc_act": self.desc_act,
            "sizes": {"before_bytes": self.before_bytes, "after_bytes": self.after_bytes},
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "phases_s": dict(self.phases_s),
            "peak_rss_bytes": self.peak_rss_bytes,
            "device_peak_bytes": self.device_peak_bytes,
            "versions": dict(self.versions),
            "seed": self.seed,
            "threads": self.threads,
            "device": self.device,
            "calibration": self.calibration,
            "worst_losses": dict(self.worst_losses),
            "weights_sha256": self.weights_sha256,
            "quality": None if self.comparison is None else asdict(self.comparison.quality),
            "comparison": None if self.comparison is None else self.comparison.data(),
            "gate": gate_data(self.gate),
            "serve_command": self.serve_command,
        }

    def at(self, out: Path) -> QuantizeReport:
        """The same report with the result in another place."""
        return replace(self, out=out)


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """The gate alone."""

    ok: bool
    findings: tuple[Finding, ...]
    model: str
    against: str
    bits: int
    gate: Gate
    comparison: Comparison

    def data(self) -> dict[str, Any]:
        """The JSON ``data``."""
        return {
            "model": self.model,
            "against": self.against,
            "bits": self.bits,
            "gate": gate_data(self.gate),
            **self.comparison.data(),
        }


def gate_data(gate: Gate) -> dict[str, Any]:
    """The gate as JSON; ``passed`` is null when nothing was measured."""
    return {"passed": gate.passed, "thresholds": None if gate.thresholds is None else asdict(gate.thresholds)}
