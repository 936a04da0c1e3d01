"""Load an engine and run it through its execution context. Runs in a worker; needs a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmops.checkpoint.engine_file import Loader, read_record, require_loadable
from llmops.errors import LlmopsError, UsageError
from llmops.export.tensorrt.causes import explain
from llmops.extras import require
from llmops.progress import Progress


def work(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """``action`` ``layers`` writes what each layer became; ``run`` computes outputs for the arrays in ``job["feed"]`` (.npz).

    Raises:
        UsageError: The engine was not made for this machine, or it is damaged.
        MachineError: There is no GPU.
    """
    module = str(job["module"])
    trt = require(module, "loading an engine")
    progress.phase("loading the engine")
    path = Path(job["engine"])
    require_loadable(path, Loader(module, trt.__version__, gpu_capability()))
    record = read_record(path) or {}
    engine, lines = load(trt, module, path, with_code=bool(record.get("version_compatible")))
    if job["action"] == "layers":
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        Path(job["layer_info"]).write_text(text, encoding="utf-8")
        return {"layer_info": str(job["layer_info"])}
    import numpy as np

    feed = dict(np.load(job["feed"]))
    outputs = infer(trt, engine, feed, lines, module)
    np.savez(job["outputs"], **outputs)
    return {"outputs": str(job["outputs"])}


def gpu_capability() -> tuple[int, int] | None:
    """Compute capability of the first usable GPU."""
    from llmops.hardware.detect import detect

    gpu = next((gpu for gpu in detect(sample_s=0).usable_gpus if gpu.vendor == "nvidia"), None)
    return gpu.compute_capability if gpu else None


# What TensorRT calls its types, and torch; the rest is float32.
_TORCH: Final = {"HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32", "BOOL": "bool"}


def load(trt: Any, module: str, path: Path, *, with_code: bool = False) -> tuple[Any, list[str]]:
    """Deserialise an engine; returns it with the logger's error lines, which keep growing.

    Args:
        trt: The module itself.
        module: Its name.
        path: The engine.
        with_code: It was built for later versions too and carries a runtime of its own, which is a program: allowed only where the
            record beside it says so and its hash holds.

    Raises:
        LlmopsError: TensorRT refuses it.
    """
    lines: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]  # the binding's class
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                lines.append(msg)

    try:
        runtime = trt.Runtime(Log())
        if with_code:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
    except Exception as error:
        raise explain([*lines, str(error)], "the engine could not be loaded", backend=module) from error
    if engine is None:
        raise explain(lines, f"{path} could not be loaded, and TensorRT did not say why", backend=module)
    return engine, lines


def infer(trt: Any, engine: Any, feed: Mapping[str, Any], lines: list[str], module: str) -> dict[str, Any]:
    """One run: shapes of the inputs, addresses of all tensors, the first profile.

    Raises:
        LlmopsError: A shape lies outside the profile, or the run fails.
    """
    import torch

    context = engine.create_execution_context()
    stream = torch.cuda.current_stream()
    held = {}
    for name, array in feed.items():
        held[name] = torch.from_numpy(array).cuda().contiguous()
        if not context.set_input_shape(name, tuple(array.shape)):
            raise _out_of_profile(engine, name, tuple(array.shape), lines, module)
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for name in names:
        if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
            kind = getattr(torch, _TORCH.get(engine.get_tensor_dtype(name).name, "float32"))
            held[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=kind, device="cuda")
        context.set_tensor_address(name, held[name].data_ptr())
    if not context.execute_async_v3(stream.cuda_stream):
        raise explain(lines, "the engine could not be run", backend=module)
    stream.synchronize()
    return {name: held[name].float().cpu().numpy() for name in names if name not in feed}


def _out_of_profile(engine: Any, name: str, shape: tuple[int, ...], lines: list[str], module: str) -> LlmopsError:
    try:
        low, _, high = engine.get_tensor_profile_shape(name, 0)
    except (AttributeError, RuntimeError):
        return explain(lines, f"{name} cannot have the shape {shape}", backend=module)
    return UsageError(
        f"{name} cannot have the shape {list(shape)}: the engine takes {list(low)} to {list(high)}",
        "build the engine with a profile that covers it",
    )
