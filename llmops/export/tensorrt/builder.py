"""Build one engine with the module ``tensorrt`` or ``tensorrt_rtx``. Runs in a worker, because a builder can end its process.

Features are found by asking the module for names, never by its version: TensorRT 10 has precision flags, 11 and RTX take
the types from the graph.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmops.errors import LlmopsError, UsageError
from llmops.export.tensorrt.causes import explain
from llmops.extras import require
from llmops.progress import Progress

ERRORS: Final = ("ERROR", "INTERNAL_ERROR")


def work(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Build ``job["onnx"]`` into ``job["out"]``.

    Raises:
        MachineError: The module cannot be imported, or there is no GPU where it wants one.
        LlmopsError: With the cause that TensorRT's log names.
    """
    module = str(job["module"])
    trt = require(module, f"building with {module}")
    build = Build(trt, module, progress)
    began = time.monotonic()
    engine = build.run(job)
    Path(job["out"]).write_bytes(engine)
    return {
        "version": trt.__version__,
        "size_bytes": Path(job["out"]).stat().st_size,
        "build_s": round(time.monotonic() - began, 2),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "layers": build.layers,
        "flags": build.flags,
        "tensors": build.tensors,
        "converted": build.converted,
        "warnings": build.lines.get("WARNING", [])[:20],
    }


class Build:
    """One build and what its logger said."""

    def __init__(self, trt: Any, module: str, progress: Progress) -> None:
        self.trt, self.module, self.progress = trt, module, progress
        self.lines: dict[str, list[str]] = {}
        self.flags: list[str] = []
        self.tensors: list[dict[str, Any]] = []
        self.layers = 0
        self.by_flag = hasattr(trt.BuilderFlag, "FP16")
        self.converted: dict[str, int] = {}
        self._held: Any = None

    def run(self, job: Mapping[str, Any]) -> Any:
        """Parse, configure, build; returns the engine's bytes."""
        trt = self.trt
        logger = self._logger()
        self.progress.phase(f"reading the graph with {self.module} {trt.__version__}")
        builder = self._try(lambda: trt.Builder(logger), "the builder could not be made")
        network = builder.create_network(self._network_flags(job))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(self._graph_file(job))):
            errors = [parser.get_error(i) for i in range(parser.num_errors)]
            raise self._failed([str(error) for error in errors], "the ONNX file could not be read")
        self.layers = network.num_layers
        self.tensors = [_tensor(network.get_input(i), "input") for i in range(network.num_inputs)]
        self.tensors += [_tensor(network.get_output(i), "output") for i in range(network.num_outputs)]
        config = self._config(builder, job)
        self._add_profiles(builder, config, job)
        self.progress.phase(f"building the engine ({self.layers} layers)")
        engine = self._try(lambda: builder.build_serialized_network(network, config), "the engine could not be built")
        if engine is None:
            raise self._failed([], "the engine could not be built, and TensorRT did not say why")
        self._save_timing(config, job)
        return memoryview(engine)

    def _graph_file(self, job: Mapping[str, Any]) -> Path:
        """The graph to read: with its types changed where the builder itself has no flag for that."""
        path = Path(job["onnx"])
        if job["precision"] not in ("fp16", "bf16") or self.by_flag:
            return path
        require("onnx", f"--precision {job['precision']}")
        from llmops.export.tensorrt.precision import convert

        self.progress.phase(f"changing matrix products to {job['precision']}")
        target = Path(job["scratch"]) / "model.onnx"
        self.converted = convert(path, target, str(job["precision"]))
        return target

    # ---- configuration ----

    def _network_flags(self, job: Mapping[str, Any]) -> int:
        """In TensorRT 10 typing must be asked for; later it is always strong, and the flag is gone or ignored."""
        kinds = self.trt.NetworkDefinitionCreationFlag
        weak = job["precision"] in ("fp16", "bf16", "fp8") and self.by_flag
        if hasattr(self.trt.BuilderFlag, "FP16") and hasattr(kinds, "STRONGLY_TYPED") and not weak:
            return 1 << int(kinds.STRONGLY_TYPED)
        return 0

    def _config(self, builder: Any, job: Mapping[str, Any]) -> Any:
        trt = self.trt
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(job["workspace_bytes"]))
        if job["opt_level"] is not None:
            config.builder_optimization_level = int(job["opt_level"])
        wanted = {"VERSION_COMPATIBLE": job["version_compatible"], "REFIT": job["refit"], "STRIP_PLAN": job["strip"]}
        if self.by_flag and job["precision"] != "as-is":
            wanted[str(job["precision"]).upper()] = True
        for name, asked in wanted.items():
            if asked:
                self._flag(config, name)
        if job["hardware_compatible"]:
            if not hasattr(trt, "HardwareCompatibilityLevel"):
                raise UsageError(f"{self.module} has no hardware compatibility", "leave --hardware-compatible out")
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        self._targets(config, job)
        if job["layer_info"]:
            config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if job["timing_cache"]:
            self._load_timing(config, Path(job["timing_cache"]))
        if hasattr(trt, "IProgressMonitor"):
            self._held = config.progress_monitor = self._monitor()  # the binding calls it later and need not keep it
        return config

    def _flag(self, config: Any, name: str) -> None:
        if not hasattr(self.trt.BuilderFlag, name):
            raise UsageError(
                f"{self.module} {self.trt.__version__} has no builder flag {name}", "leave that option out"
            )
        config.set_flag(getattr(self.trt.BuilderFlag, name))
        self.flags.append(name)

    def _targets(self, config: Any, job: Mapping[str, Any]) -> None:
        if not job["compute_capabilities"]:
            return
        config.num_compute_capabilities = len(job["compute_capabilities"])
        for index, (major, minor) in enumerate(job["compute_capabilities"]):
            config.set_compute_capability(getattr(self.trt.ComputeCapability, f"SM{major}{minor}"), index)

    def _add_profiles(self, builder: Any, config: Any, job: Mapping[str, Any]) -> None:
        for number, shapes in enumerate(job["profiles"]):
            profile = builder.create_optimization_profile()
            for name, bounds in shapes.items():
                self._try(
                    lambda name=name, bounds=bounds, profile=profile: profile.set_shape(
                        name, tuple(bounds["min"]), tuple(bounds["opt"]), tuple(bounds["max"])
                    ),
                    f"profile {number}: the shapes of {name} were refused",
                )
            if config.add_optimization_profile(profile) < 0:
                raise self._failed([], f"profile {number} is not valid")

    def _load_timing(self, config: Any, path: Path) -> None:
        cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        if not config.set_timing_cache(cache, False):
            raise UsageError(
                f"{path} is no timing cache of this {self.module} and GPU", "remove it, or name another file"
            )

    def _save_timing(self, config: Any, job: Mapping[str, Any]) -> None:
        cache = config.get_timing_cache() if job["timing_cache"] else None
        if cache is not None:
            path = Path(job["timing_cache"])
            partial = path.with_name(path.name + ".partial")
            partial.write_bytes(memoryview(cache.serialize()))
            partial.replace(path)

    # ---- what TensorRT says ----

    def _logger(self) -> Any:
        trt, lines = self.trt, self.lines

        class Log(trt.ILogger):  # type: ignore[misc, name-defined]  # the binding's class
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                # Only a line of the lowest severity says that the workspace was too small; the error speaks of memory.
                kind = "BUDGET" if "Exceeded mem budget" in msg else severity.name
                lines.setdefault(kind, []).append(msg)
                print(f"[{severity.name}] {msg}", flush=True)  # noqa: T201 - the worker's log file

        return Log()

    def _monitor(self) -> Any:
        trt, progress = self.trt, self.progress

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # the binding's class
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self._steps: dict[str, int] = {}

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                self._steps[phase_name] = num_steps
                if parent_phase is None:
                    progress.update(0, num_steps, phase_name)

            def step_complete(self, phase_name: str, step: int) -> bool:
                progress.update(step + 1, self._steps.get(phase_name), phase_name)
                return True

            def phase_finish(self, phase_name: str) -> None:
                self._steps.pop(phase_name, None)

        return Monitor()

    def _try(self, call: Any, what: str) -> Any:
        """Call into the binding. What it raises says little; the logger's lines come first."""
        try:
            return call()
        except LlmopsError:
            raise
        except Exception as error:
            raise self._failed([f"{type(error).__name__}: {error}"], what) from error

    def _failed(self, more: list[str], what: str) -> LlmopsError:
        logged = [line for name in ("BUDGET", *ERRORS) for line in self.lines.get(name, [])]
        return explain([*logged, *more], what, backend=self.module)


def _tensor(tensor: Any, kind: str) -> dict[str, Any]:
    return {"name": tensor.name, "kind": kind, "dtype": tensor.dtype.name, "dims": list(tensor.shape)}
