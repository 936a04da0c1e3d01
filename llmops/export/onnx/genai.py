"""The optional format of onnxruntime-genai: its own builder makes the graph, with fused attention and 4-bit weights."""

from __future__ import annotations

import re
import shutil
import sys
import time
from typing import Any, Final

from llmops.errors import OutsideError
from llmops.export.children import first_error
from llmops.export.onnx.convert import versions
from llmops.export.onnx.plan import genai_precision
from llmops.export.onnx.record import Work
from llmops.extras import require_installed
from llmops.process import run_logged, tail
from llmops.progress import Progress

MODULE: Final = "onnxruntime_genai.models.builder"
_PROVIDERS: Final = {"cpu": "cpu", "cuda": "cuda", "nvtensorrtrtx": "NvTensorRtRtx"}


def build(work: Work, progress: Progress) -> dict[str, Any]:
    """Run the builder into the partial directory.

    Raises:
        MachineError: onnxruntime-genai is not installed.
        OutsideError: The builder failed; it does not know every architecture.
    """
    require_installed("onnxruntime_genai", "--format genai")
    progress.phase("building with onnxruntime-genai")
    spec, out = work.spec, work.partial
    cache = out.with_name(out.name + ".cache")
    provider = _PROVIDERS.get(spec.provider.lower(), "cpu")
    argv = [sys.executable, "-m", MODULE, "-i", str(spec.model.absolute()), "-o", str(out)]
    argv += ["-p", genai_precision(spec), "-e", provider, "-c", str(cache)]
    began = time.monotonic()
    try:
        code = run_logged(argv, work.log, env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(work.plan.threads)})
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    if code != 0 or not (out / "model.onnx").is_file():
        line = first_error(tail(work.log, 200)) or f"it ended with code {code}"
        known = re.search(r"KeyError|NotImplementedError|not supported|ImportError", line)
        hint = "it does not know this architecture: --format onnx" if known else f"its log: {work.log}"
        raise OutsideError(f"onnxruntime-genai's builder failed: {line}", hint)
    return {"export_s": round(time.monotonic() - began, 2), "versions": versions("onnxruntime-genai", "transformers")}
