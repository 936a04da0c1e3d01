"""Measured starts, kept so that the next plan of the same thing on this machine is exact.

A measurement is used only where everything that memory depends on is the same. Fitting a shared term to single starts
would make other plans worse.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from llmops.planning.readback import BootMemory
from llmops.planning.types import ModelPlan
from llmops.settings import settings

_KEEP: Final = 500
# Stands for a GPU's name where there is none.
CPU: Final = "cpu"


@dataclass(frozen=True, slots=True)
class Key:
    """What the memory of a start depends on, the share of the card and the context apart."""

    model: str
    size_bytes: int
    engine_version: str
    gpu: str
    tensor_parallel: int
    pipeline_parallel: int
    dtype: str
    kv_cache_dtype: str
    quantization: str | None
    max_num_seqs: int
    max_num_batched_tokens: int
    enforce_eager: bool
    loras: int


@dataclass(frozen=True, slots=True)
class Measured:
    """GiB of one device as an engine logged them; on the CPU ``non_torch_gib`` is what a start took beside the weights.

    Attributes:
        cudagraph_gib: None where the log does not say; a plan then keeps its own estimate.
    """

    key: Key
    weights_gib: float
    activation_gib: float
    non_torch_gib: float
    cudagraph_gib: float | None


def on_cpu(engine: str, version: str | None) -> str:
    """Engines are told apart on the CPU, where there are several."""
    return f"{engine} {version or ''}".strip()


def key_of(plan: ModelPlan, *, size_bytes: int, gpu: str, engine_version: str) -> Key:
    """The key of a plan."""
    return Key(
        model=plan.name,
        size_bytes=size_bytes,
        engine_version=engine_version,
        gpu=gpu,
        tensor_parallel=plan.tensor_parallel,
        pipeline_parallel=plan.pipeline_parallel,
        dtype=plan.dtype,
        kv_cache_dtype=plan.kv_cache_dtype,
        quantization=plan.quantization,
        max_num_seqs=plan.max_num_seqs,
        max_num_batched_tokens=plan.max_num_batched_tokens,
        enforce_eager=plan.enforce_eager,
        loras=len(plan.loras),
    )


def measurement(key: Key, boot: BootMemory, plan: ModelPlan | None = None) -> Measured | None:
    """A measurement from a start's log; None when the log lacks a term.

    Only debug logs name every term. Others name the weights and the cache, and what lies between them and the budget is
    then known as a sum: with ``plan``, its split of that sum is kept and the rest of it counted as activation.
    """
    if boot.weights_gib is None:
        return None
    if boot.activation_gib is not None and boot.non_torch_gib is not None:
        return Measured(key, boot.weights_gib, boot.activation_gib, boot.non_torch_gib, boot.cudagraph_gib)
    if plan is None or not plan.gpus or boot.kv_cache_gib is None:
        return None
    memory = plan.memory
    planned_rest = memory.weights_gib + memory.kv_cache_gib + memory.activation_gib
    others = memory.budget_gib - planned_rest  # non-torch memory, and graphs where this engine subtracts them
    activation = memory.budget_gib - boot.weights_gib - boot.kv_cache_gib - others
    return Measured(key, boot.weights_gib, max(0.0, activation), memory.non_torch_gib, None)


def cpu_measurement(key: Key, plan: ModelPlan, taken_gib: float) -> Measured:
    """What a start on the CPU took of main memory, as the engine's own beside the weights."""
    weights = plan.memory.weights_gib
    return Measured(key, weights, 0.0, round(max(0.1, taken_gib - weights), 3), None)


def default_path() -> Path:
    """Where this machine's measurements are kept: in the state directory."""
    return settings().state_dir / "calibration.jsonl"


def load(path: Path) -> tuple[Measured, ...]:
    """Measurements from a file of JSON lines, newest last; damaged lines and a missing file count as none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Measured))
        except msgspec.DecodeError:
            continue
    return tuple(found)


def record(path: Path, measured: Measured) -> None:
    """Add a measurement; it replaces an older one of the same key. Written whole or not at all.

    Two starts at the same moment may lose one of their measurements; the next start of it measures again.
    """
    kept = [old for old in load(path) if old.key != measured.key][-_KEEP + 1 :]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(b"".join(msgspec.json.encode(item) + b"\n" for item in (*kept, measured)))
    partial.replace(path)


def find(known: Iterable[Measured], wanted: Key) -> Measured | None:
    """The measurement of exactly this."""
    return next((item for item in known if item.key == wanted), None)
