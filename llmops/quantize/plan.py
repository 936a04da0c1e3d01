"""The plan of a quantisation: everything decided, nothing done. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmops.checkpoint.facts import ModelFacts
from llmops.findings import Finding
from llmops.hardware.host import Host
from llmops.quantize import options, preflight
from llmops.quantize.estimates import Estimate, Scheme, estimate, to_quantise
from llmops.quantize.gate import Thresholds, thresholds
from llmops.quantize.groups import largest_group
from llmops.quantize.material import TextFacts
from llmops.quantize.methods import ENGINES, METHODS, Engine, Format, default_method, target_refusal
from llmops.quantize.refusals import raise_first
from llmops.quantize.runtime import Runtime
from llmops.quantize.spec import GateSpec, QuantizeSpec


@dataclass(frozen=True, slots=True)
class QuantizePlan:
    """What a run will do.

    Attributes:
        why: Why this method, when it was not asked for.
        layers: Transformer layers; ``linears`` of their matrices get quantised.
        text: Calibration text; None for methods that need none.
        limits: Thresholds of the gate; None with ``--no-gate``.
        dtype: Type in which the rest of the model is kept and both models are compared.
        serve_with: The engine that serves the result.
    """

    model: str
    out: Path
    method: str
    why: str
    bits: int
    group_size: int | None
    desc_act: bool
    engine: str
    runtime: Runtime
    device: str
    dtype: str
    threads: int
    layers: int
    linears: int
    samples: int
    seq_len: int
    seed: int
    text: TextFacts | None
    eval_text: TextFacts | None
    limits: Thresholds | None
    quality: GateSpec
    need: Estimate
    serve_with: str
    findings: tuple[Finding, ...]
    ok: bool = True

    def data(self) -> dict[str, Any]:
        """The plan as the JSON ``data`` of a dry run."""
        need = asdict(self.need)
        return {
            "dry_run": True,
            "method": self.method,
            "why": self.why,
            "engine": self.engine,
            "engine_python": str(self.runtime.python),
            "versions": dict(self.runtime.versions),
            "bits": self.bits,
            "group_size": self.group_size,
            "desc_act": self.desc_act,
            "device": self.device,
            "threads": self.threads,
            "layers": self.layers,
            "linears": self.linears,
            "sizes": {"before_bytes": need["before_bytes"], "after_bytes": need["after_bytes"]},
            "needs": {k: need[k] for k in ("memory_bytes", "disk_bytes", "seconds")},
            "calibration": None
            if self.text is None
            else {
                "name": self.text.name,
                "sha256": self.text.sha256,
                "documents": self.text.documents,
                "samples": self.samples,
                "seq_len": self.seq_len,
                "seed": self.seed,
            },
            "thresholds": None if self.limits is None else asdict(self.limits),
            "out": str(self.out),
        }


def method_of(spec: QuantizeSpec, host: Host) -> tuple[str, str]:
    """The method, and why when it was chosen for the user."""
    if spec.method is not None:
        return options.known_method(spec.method).name, ""
    return default_method(host)


def device_of(wanted: str, host: Host) -> str:
    """The device to work on."""
    if wanted != "auto":
        return "cuda:0" if wanted == "cuda" else wanted
    return f"cuda:{host.usable_gpus[0].index}" if host.usable_gpus else "cpu"


def threads_of(wanted: int | None, host: Host) -> int:
    """CPU threads: the cores that this process may use, whatever runs on them now, so that results repeat."""
    if wanted is not None:
        return wanted
    allowed = min(host.cpu.allowed, host.cpu.physical or host.cpu.allowed)
    return max(1, min(allowed, int(host.cpu.quota)) if host.cpu.quota else allowed)


def dtype_of(facts: ModelFacts, device: str) -> str:
    """float16 stays float16 on a GPU; everything else is handled in bfloat16, which CPUs are fast in."""
    return "float16" if facts.dtype == "float16" and device != "cpu" else "bfloat16"


def serving_engine(made: Format, engine: Engine, host: Host) -> str:
    """Where vLLM loads the result, vLLM; but on a CPU transformers, unless the format needs packages that llmops lacks."""
    loads = target_refusal(made, "vllm", host) is None
    return "vllm" if loads and (host.usable_gpus or engine.own_environment) else "transformers"


@dataclass(frozen=True, slots=True)
class Materials:
    """What a plan rests on besides the model: the machine, the engine, the texts (None where not needed)."""

    host: Host
    runtime: Runtime
    text: TextFacts | None
    eval_text: TextFacts | None
    free_disk_bytes: int


def plan_quantize(spec: QuantizeSpec, facts: ModelFacts, materials: Materials) -> QuantizePlan:
    """Decide everything, or refuse.

    Raises:
        UsageError: The options, the model or the text are wrong; the error's findings name everything at once.
        MachineError: Memory, disk or GPU do not suffice.
    """
    host, runtime, text = materials.host, materials.runtime, materials.text
    name, why = method_of(spec, host)
    method = METHODS[name]
    engine: Engine = ENGINES[runtime.engine]
    raise_first(
        [
            *options.check_options(spec, method),
            *preflight.check_model(spec, method, facts),
            *preflight.check_text(method, text),
        ]
    )
    device, threads = device_of(spec.device, host), threads_of(spec.threads, host)
    bits = spec.bits or method.bits[0]
    group = largest_group(facts, spec.tensor_parallel) if spec.group_size is None else spec.group_size
    need = estimate(
        facts,
        Scheme(name, engine.name, bits, group),
        tokens=min(spec.samples * spec.seq_len, text.size_bytes) if text else 0,  # no token is shorter than a byte
        threads=threads,
        on_gpu=device != "cpu",
        compared=spec.gate,
    )
    raise_first(
        [
            *preflight.check_engine(facts, runtime),
            *preflight.check_machine(
                spec, method, host, need, free_disk_bytes=materials.free_disk_bytes, device=device
            ),
        ]
    )
    return QuantizePlan(
        model=spec.model,
        out=spec.out,
        method=name,
        why=why,
        bits=bits,
        group_size=group if method.grouped else None,
        desc_act=spec.desc_act,
        engine=engine.name,
        runtime=runtime,
        device=device,
        dtype=dtype_of(facts, device),
        threads=threads,
        layers=facts.layers,
        linears=len(to_quantise(facts)),
        samples=spec.samples,
        seq_len=spec.seq_len,
        seed=spec.seed,
        text=text,
        eval_text=materials.eval_text,
        quality=spec.quality,
        limits=thresholds(spec.quality, bits) if spec.gate else None,
        need=need,
        serve_with=serving_engine(preflight.made(spec, method), engine, host),
        findings=preflight.warnings(spec, method, group, text, host),
    )
