"""Run the comparison of a model with its original in the engine's interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from llmops.findings import Finding
from llmops.progress import Progress
from llmops.quantize import child
from llmops.quantize.gate import Quality
from llmops.quantize.material import TextFacts
from llmops.quantize.report import Comparison, Sample
from llmops.quantize.spec import GateSpec

PROMPTS: Final = (
    "The three most important points when washing a wool sweater are",
    "日本の伝統的な織物には、",
)
_LEAST_CHUNKS: Final = 2


@dataclass(frozen=True, slots=True)
class Comparing:
    """What is compared on, and where and how.

    Attributes:
        local: Whether both models are directories of this machine, so that no hub is to be asked.
    """

    text: TextFacts
    spec: GateSpec
    python: Path
    device: str
    dtype: str
    threads: int
    seed: int
    local: bool = True


def compare(base: Path, model: Path, how: Comparing, *, work: Path, progress: Progress) -> Comparison:
    """Measure ``model`` against ``base``.

    Raises:
        UsageError: The text is too short for two chunks, or the architecture changes its logits in an unknown way.
        MachineError: Out of memory.
        OutsideError: A model cannot be loaded or run.
    """
    text, spec = how.text, how.spec
    job = {
        "base": str(base.absolute()),
        "model": str(model.absolute()),
        "text": str(text.path.absolute()),
        "chunks": spec.chunks,
        "chunk_tokens": spec.chunk_tokens,
        "least_chunks": _LEAST_CHUNKS,
        "device": how.device,
        "dtype": how.dtype,
        "threads": how.threads,
        "seed": how.seed,
        "prompts": PROMPTS if spec.sample_tokens else (),
        "sample_tokens": spec.sample_tokens,
    }
    env = child.environment(how.threads, how.python, local=how.local)
    result = child.run_adapter("compare", job, python=how.python, work=work, env=env, progress=progress)
    return Comparison(
        quality=_quality(result["quality"]),
        groups=tuple((name, _quality(metrics)) for name, metrics in result["groups"].items()),
        samples=tuple(Sample(**sample) for sample in result["samples"]),
        text=(text.name, text.sha256),
        conditions=(
            ("device", how.device),
            ("dtype", how.dtype),
            ("threads", how.threads),
            ("chunks", result["chunks"]),
            ("chunk_tokens", spec.chunk_tokens),
        ),
        seconds=result["seconds"],
        peak_rss_bytes=result["peak_rss_bytes"],
        versions=tuple(sorted(result["versions"].items())),
    )


def shortage(spec: GateSpec, comparison: Comparison) -> tuple[Finding, ...]:
    """A note when the text had fewer chunks than were asked for."""
    had = int(dict(comparison.conditions)["chunks"])
    if had >= spec.chunks:
        return ()
    text = f"the held-out text gives {had} chunks of {spec.chunk_tokens} tokens, not {spec.chunks}"
    return (Finding("evaluation-short", "note", text, "give a longer --eval-text for smaller errors"),)


def _quality(metrics: Mapping[str, Any]) -> Quality:
    return Quality(**{field.name: metrics[field.name] for field in fields(Quality)})
