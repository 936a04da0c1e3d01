"""The adapter that runs a TensorRT decoder: ``python -m llmops.bench.offline_tensorrt ORDER.json``.

Works with ``tensorrt`` and ``tensorrt_rtx``. What an engine takes is asked of the engine itself (names, shapes, profiles),
and what the library can do of its objects, never of its version. PyTorch holds the tensors, so the cache stays on the GPU:
what one step puts out is what the next one takes in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmops import extras
from llmops.bench.offline_child import measure, run, say
from llmops.bench.offline_decoder import Roles
from llmops.bench.offline_profiles import Limits, check, choose, default_batches, limits_of
from llmops.errors import MachineError, OutsideError, UsageError
from llmops.hardware.detect import detect

if TYPE_CHECKING:
    from llmops.bench.offline_decoder import Ids

MODULES: Final = ("tensorrt", "tensorrt_rtx")
_TORCH_NAME: Final = {
    "HALF": "float16", "BF16": "bfloat16", "FLOAT": "float32", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
    "INT8": "int8", "UINT8": "uint8", "FP8": "float8_e4m3fn",
}  # fmt: skip
_SLOWEST: Final = 10


class EngineDecoder:
    """An execution context that keeps the cache of its sequence on ``device``."""

    def __init__(self, trt: Any, torch: Any, engine: Any, device: str = "cuda") -> None:
        self._trt, self._torch, self._engine, self._device = trt, torch, engine, device
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        output = trt.TensorIOMode.OUTPUT
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == output]
        inputs = [name for name in names if name not in self._outputs]
        self.roles = Roles.of(inputs, self._outputs)
        self._types = {name: self._type(name) for name in names}
        self.profiles = tuple(self._limits(number) for number in range(max(1, engine.num_optimization_profiles)))
        self._context = engine.create_execution_context()
        if self._context is None:
            raise OutsideError("TensorRT gives no execution context", "is there memory left on the GPU? llmops gpus")
        self._profile = 0
        self._nothing = torch.empty(256, device=device)  # an address for tensors without elements
        self._past: dict[str, Any] = {}

    @property
    def cached(self) -> bool:
        """Whether the engine keeps keys and values."""
        return bool(self.roles.past)

    @property
    def vocabulary(self) -> int | None:
        """The width of the scores."""
        width = int(self._engine.get_tensor_shape(self.roles.logits)[-1])
        return width if width > 0 else None

    def begin(self, batch: int) -> None:
        """Forget the last sequence."""
        self._past = {}
        for name in self.roles.past:
            shape = [int(size) for size in self._engine.get_tensor_shape(name)]
            shape = [batch, *(max(0, size) for size in shape[1:])]
            self._past[name] = self._torch.empty(shape, dtype=self._types[name], device=self._device)

    def step(self, ids: Ids, length: int) -> Ids:
        """One run of the engine."""
        import numpy as np

        past = next((int(value.shape[2]) for value in self._past.values()), 0)
        feed = {
            name: self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device, self._types[name])
            for name, array in self.roles.feed(ids, length, cached=past > 0).items()
        }
        found = self._run(feed | self._past, (ids.shape[0], ids.shape[1], past))
        self._past = {name: found[present] for name, present in self.roles.past.items()}
        chosen: Ids = found[self.roles.logits][:, -1].float().argmax(-1).cpu().numpy().astype(np.int64)[:, None]
        return chosen

    def layer_times(self, ids: Ids) -> list[dict[str, Any]]:
        """The slowest layers of one prefill in ms; empty where the library has no profiler."""
        if not hasattr(self._trt, "IProfiler") or not hasattr(self._context, "profiler"):
            return []
        seen: dict[str, float] = {}

        base = self._trt.IProfiler

        class Profiler(base):  # type: ignore[misc, valid-type]  # the binding's class
            def __init__(self) -> None:
                base.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                seen[layer_name] = seen.get(layer_name, 0.0) + ms

        profiler = Profiler()
        self._context.profiler = profiler
        self.begin(ids.shape[0])
        self.step(ids, ids.shape[1])
        slowest = sorted(seen.items(), key=lambda row: -row[1])[:_SLOWEST]
        return [{"name": name[:60], "ms": round(ms, 4)} for name, ms in slowest]

    # The execution context

    def _run(self, feed: dict[str, Any], size: tuple[int, int, int]) -> dict[str, Any]:
        context, torch = self._context, self._torch
        stream = torch.cuda.current_stream().cuda_stream if self._device == "cuda" else 0
        self._use_profile(*size, stream)
        for name, tensor in feed.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise OutsideError(f"TensorRT refuses the shape {tuple(tensor.shape)} of {name}", "-vv shows its log")
        found = {}
        for name in self._outputs:
            shape = tuple(int(size) for size in context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise OutsideError(f"the shape of {name} is only known after the run", "export without such outputs")
            found[name] = torch.empty(shape, dtype=self._types[name], device=self._device)
        tensors = feed | found
        for name, tensor in tensors.items():
            held = tensor if tensor.numel() else self._nothing
            if hasattr(context, "set_tensor_address"):
                context.set_tensor_address(name, held.data_ptr())
        if hasattr(context, "execute_async_v3"):
            done = context.execute_async_v3(stream)
        else:
            names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
            done = context.execute_v2([(tensors[n] if tensors[n].numel() else self._nothing).data_ptr() for n in names])
        if not done:
            raise OutsideError("TensorRT could not run the engine", "-vv shows its log; llmops diagnose reads it")
        return found

    def _use_profile(self, batch: int, tokens: int, past: int, stream: int) -> None:
        wanted = choose(self.profiles, batch, tokens, past)
        if wanted is not None and wanted != self._profile:
            self._context.set_optimization_profile_async(wanted, stream)
            self._profile = wanted

    def _limits(self, profile: int) -> Limits:
        bounded = {}
        for name in (self.roles.ids, *self.roles.past):
            shape = tuple(int(size) for size in self._engine.get_tensor_shape(name))
            dynamic = any(size < 0 for size in shape)
            triple = self._engine.get_tensor_profile_shape(name, profile) if dynamic else (shape,) * 3
            bounded[name] = [tuple(int(size) for size in bound) for bound in triple]
        return limits_of(self.roles, bounded)

    def _type(self, name: str) -> Any:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _TORCH_NAME:
            raise UsageError(f"the tensor {name} of the engine is {kind}, which cannot be fed from outside")
        return getattr(self._torch, _TORCH_NAME[kind])


def module_of(engine: Path) -> str:
    """Which package the engine was built with, by the record beside it; else the one that is installed.

    Raises:
        MachineError: Neither is installed, or not the one that it was built with.
    """
    record = engine.with_name(engine.name + ".json")
    named = None
    if record.is_file():
        try:
            named = json.loads(record.read_text(encoding="utf-8")).get("module")
        except (ValueError, AttributeError):
            named = None
    if named in MODULES:
        extras.require_installed(named, f"measuring {engine.name}")
        return str(named)
    installed = [module for module in MODULES if extras.available(module)]
    if not installed:
        raise MachineError(
            "measuring a TensorRT engine needs the package tensorrt or tensorrt_rtx, and neither is installed",
            "pip install tensorrt, or for TensorRT-RTX: " + extras.install_hint("tensorrt_rtx"),
        )
    return installed[0]


def load(trt: Any, path: Path) -> Any:
    """The engine of a file.

    Raises:
        OutsideError: TensorRT refuses it; with its first complaint.
    """
    complaints: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]  # the binding's class
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                complaints.append(msg)

    log = Log()
    engine = trt.Runtime(log).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        why = complaints[0].splitlines()[0] if complaints else "TensorRT does not say why"
        raise OutsideError(f"{path.name} cannot be loaded: {why}", "llmops build tensorrt builds it anew for this GPU")
    return engine


def _need_gpu(there: bool, what: str) -> None:
    if not there:
        raise MachineError(f"measuring a TensorRT engine needs {what}, and there is none here", "llmops gpus")


def work(order: dict[str, Any]) -> None:
    """Load the engine, measure each batch size, then one prefill layer by layer."""
    path = Path(order["model"])
    module = module_of(path)
    _need_gpu(any(gpu.vendor == "nvidia" for gpu in detect(sample_s=0).usable_gpus), "an NVIDIA GPU")
    trt = extras.require(module, "measuring a TensorRT engine")
    torch = extras.require("torch", "measuring a TensorRT engine (PyTorch holds the tensors)")
    _need_gpu(torch.cuda.is_available(), "a PyTorch that can use the GPU")
    import numpy as np

    decoder = EngineDecoder(trt, torch, load(trt, path))
    batches = tuple(order["batches"]) or default_batches(decoder.profiles)
    check(decoder.profiles, decoder.roles, batches, order["input_tokens"], order["output_tokens"])
    versions = {trt.__name__: trt.__version__, "torch": torch.__version__}
    takes = "; ".join(limits.words for limits in decoder.profiles)
    say({"versions": versions, "device": torch.cuda.get_device_name(), "takes": takes})
    measure(decoder, order, batches)
    layers = decoder.layer_times(np.zeros((batches[0], order["input_tokens"]), dtype=np.int64))
    say({"layers": layers})


if __name__ == "__main__":
    run(work)
