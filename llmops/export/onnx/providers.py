"""ONNX Runtime's execution providers: one that is not there would only be a warning to it, and then a slow run on the CPU."""

from __future__ import annotations

from typing import Final

from llmops.errors import MachineError
from llmops.extras import require

_SUFFIX: Final = "ExecutionProvider"
_KNOWN: Final = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt", "nvtensorrtrtx": "NvTensorRTRTX", "rocm": "ROCM"}


def provider_name(provider: str) -> str:
    """``cuda`` or ``CUDAExecutionProvider`` -> ``CUDAExecutionProvider``."""
    short = provider.removesuffix(_SUFFIX)
    return _KNOWN.get(short.lower(), short) + _SUFFIX


def require_provider(provider: str) -> str:
    """The provider's full name.

    Raises:
        MachineError: This ONNX Runtime does not have it.
    """
    wanted = provider_name(provider)
    have = require("onnxruntime", "checking an export").get_available_providers()
    if wanted not in have:
        names = ", ".join(each.removesuffix(_SUFFIX) for each in have)
        raise MachineError(f"this ONNX Runtime has no {wanted}", f"it has: {names}")
    return wanted
