"""What a user asks of an engine build. Values are checked against the graph and the machine in ``plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

Precision = Literal["as-is", "fp16", "bf16", "fp8"]


class EngineBuildSpec(BaseModel):
    """One engine build.

    Attributes:
        onnx: The .onnx file, or an exported directory with ``model.onnx`` in it.
        out: The engine file to write; ``OUT.json`` is written beside it.
        min, opt, max: Shapes as ``name:1x512``, one an input.
        batch: ``MIN:OPT:MAX`` of the dimension named batch (or the first one).
        seq: ``MIN:OPT:MAX`` of the dimension named sequence (or the second one).
        past: ``MIN:OPT:MAX`` of a KV cache's length; None follows ``seq``.
        profiles: Further whole profiles: ``1x1/8x512/16x2048`` for all inputs, or ``name:MIN/OPT/MAX,name:…``.
        workspace: Most device memory that a layer may use while the engine is built and run.
        precision: ``as-is`` keeps the graph's types; ``fp16`` and ``bf16`` let matrix products run in 16 bit; ``fp8`` needs a graph
            with quantise and dequantise nodes.
        opt_level: 0 to 5; None takes TensorRT's own (3).
        timing_cache: File of measured kernel times, read and written.
        version_compatible: The engine loads in later versions of TensorRT.
        hardware_compatible: The engine runs on other GPUs of the same or later generations.
        refit: Weights can be replaced in the built engine.
        strip: Leave the weights out of the engine; they are put back when it is loaded.
        layer_info: Write what each layer became to this file (needs a GPU).
        backend: ``auto`` takes tensorrt where a GPU and the package are, else tensorrt_rtx.
        compute_capabilities: GPUs to build for, such as ``8.9``; RTX only, None means all it knows.
        force: Replace an existing ``out``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    onnx: Path
    out: Path
    min: tuple[str, ...] = ()
    opt: tuple[str, ...] = ()
    max: tuple[str, ...] = ()
    batch: str | None = None
    seq: str | None = None
    past: str | None = None
    profiles: tuple[str, ...] = ()
    workspace: str = "16GiB"
    precision: Precision = "as-is"
    opt_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    refit: bool = False
    strip: bool = False
    layer_info: Path | None = None
    backend: Literal["auto", "tensorrt", "rtx"] = "auto"
    compute_capabilities: tuple[str, ...] = ()
    force: bool = False
