"""An engine measured without a server: tokens a second at batch sizes, in a child process of its own."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from llmops import extras, process
from llmops.bench import stats
from llmops.bench.spec import BenchSpec
from llmops.errors import ExitCode, LlmopsError, OutsideError, UsageError, did_you_mean
from llmops.findings import Finding
from llmops.progress import Progress

# Engine -> (adapter, module that must be installed; None: the adapter chooses between several). Each adapter runs alone in
# a child, so that a crash of a native library is a result, and its memory goes back.
ENGINES: Final[dict[str, tuple[str, str | None]]] = {
    "transformers": ("llmops.bench.offline_transformers", "transformers"),
    "onnxruntime": ("llmops.bench.offline_onnx", "onnxruntime"),
    "tensorrt": ("llmops.bench.offline_tensorrt", None),
}
DEFAULT_REPEATS: Final = 3
_TIMEOUT_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch size.

    Attributes:
        first_ms: From the call to the first new token, of the whole batch.
        step_ms: Median time of a decoding step (one token for each row).
        output_tokens_per_s: Over all repeats.
        output_ci95: Its 95 % interval over the repeats, None for fewer than two.
    """

    batch: int
    input_tokens: int
    output_tokens: int
    first_ms: float
    step_ms: float
    output_tokens_per_s: float
    output_ci95: tuple[float, float] | None
    repeats: int


@dataclass(frozen=True, slots=True)
class OfflineReport:
    """Tokens a second of an engine at batch sizes.

    Attributes:
        takes: The batches and lengths that the engine's own profiles allow; empty where it has none.
        layers: The slowest layers of one prefill, where the engine can tell.
    """

    ok: bool
    findings: tuple[Finding, ...]
    engine: str
    model: str
    batches: tuple[Batch, ...]
    versions: dict[str, str]
    device: str
    takes: str = ""
    layers: tuple[dict[str, Any], ...] = ()


def offline(engine: str, model: str, spec: BenchSpec, progress: Progress) -> OfflineReport:
    """Measure ``model`` in ``engine``.

    ``sweep`` gives the batch sizes (else the adapter chooses), ``requests`` the repeats of each, ``input_tokens`` and
    ``output_tokens`` the lengths.

    Raises:
        UsageError: Unknown engine, no such model, or sizes that the engine does not take.
        MachineError: The engine is not installed, or there is no GPU for it.
        OutsideError: The engine died; its last line is the message.
    """
    if engine not in ENGINES:
        raise UsageError(f"there is no offline engine {engine!r}", did_you_mean(engine, ENGINES))
    adapter, module = ENGINES[engine]
    if not Path(model).exists():
        raise UsageError(f"there is no model at {model}", "give a checkpoint directory, an .onnx or an engine file")
    if module is not None:
        extras.require_installed(module, f"measuring with {engine}")
    elif not Path(model).is_file():
        raise UsageError(f"{model} is no engine file", "llmops build tensorrt MODEL.onnx -o MODEL.engine makes one")
    batches = [int(size) for size in spec.sweep]
    repeats = spec.requests or DEFAULT_REPEATS
    progress.phase(f"{engine}: load {model}")
    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as directory:
        order = Path(directory) / "order.json"
        order.write_bytes(
            msgspec.json.encode(
                {
                    "model": model, "batches": batches, "repeats": repeats, "seed": spec.seed,
                    "input_tokens": spec.input_tokens[1], "output_tokens": spec.output_tokens[1],
                }
            )
        )  # fmt: skip
        return _read(engine, model, _run(adapter, order, progress, len(batches) * repeats or None))


def _run(adapter: str, order: Path, progress: Progress, total: int | None) -> list[dict[str, Any]]:
    log = order.with_name("log")
    command = process.Command((sys.executable, "-m", adapter, str(order)), log)
    rows: list[dict[str, Any]] = []
    with process.start(command, pipe_stdout=True) as child:
        for line in child.stdout:
            if line.startswith("{"):
                rows.append(msgspec.json.decode(line))
                _refuse(rows[-1].get("refused"))
                done = sum("batch" in row for row in rows)
                progress.update(done, total, f"batch {rows[-1].get('batch', '')}")
        code = child.wait(_TIMEOUT_S)
    if code:
        last = next((line for line in reversed(process.tail(log)) if line.strip()), "no output")
        raise OutsideError(
            f"the engine ended with {code}: {last.strip()}", "-vv shows more; llmops diagnose reads logs"
        )
    return rows


def _refuse(refused: dict[str, Any] | None) -> None:
    """Raise here what the adapter refused there."""
    if refused is not None:
        raise LlmopsError(refused["message"], refused["hint"], exit_code=ExitCode(refused["code"]))


def _read(engine: str, model: str, rows: list[dict[str, Any]]) -> OfflineReport:
    unknown: dict[str, Any] = {"versions": {}, "device": "unknown"}
    facts = next((row for row in rows if "versions" in row), unknown)
    sizes = dict.fromkeys(row["batch"] for row in rows if "batch" in row)
    layers = next((row["layers"] for row in rows if "layers" in row), ())
    batches = tuple(_batch([row for row in rows if row.get("batch") == size]) for size in sizes)
    return OfflineReport(
        ok=bool(batches),
        findings=(),
        engine=engine,
        model=model,
        batches=batches,
        versions=facts["versions"],
        device=facts["device"],
        takes=facts.get("takes", ""),
        layers=tuple(layers),
    )


def _batch(rows: list[dict[str, Any]]) -> Batch:
    speeds = [row["batch"] * row["output_tokens"] / (row["total_ms"] / 1000) for row in rows]
    steps = sorted(step for row in rows for step in row["step_ms"])
    firsts = sorted(row["first_ms"] for row in rows)
    return Batch(
        batch=rows[0]["batch"],
        input_tokens=rows[0]["input_tokens"],
        output_tokens=rows[0]["output_tokens"],
        first_ms=round(stats.percentile(firsts, 0.5), 3),
        step_ms=round(stats.percentile(steps, 0.5), 3) if steps else 0.0,
        output_tokens_per_s=round(sum(speeds) / len(speeds), 3),
        output_ci95=stats.mean_interval(speeds),
        repeats=len(rows),
    )
