"""Where in its start an engine is, read from a line of its log. Pure."""

from __future__ import annotations

import re
from typing import Final

from llmops.serve.spec import Engine

# In the order of a start; the first match of a line counts, and a phase never goes back.
_VLLM: Final = (
    (r"\bversion \d+\.\d+", "reading the configuration"),
    (r"Initializing a V1 LLM engine", "starting the engine process"),
    (r"Starting to load model|Loading model from scratch", "loading weights"),
    (r"Loading weights took|Model loading took", "weights loaded"),
    (r"Dynamo bytecode transform|Compiling a graph|torch\.compile takes", "compiling"),
    (r"KV cache size|Available KV cache memory", "KV cache made"),
    (r"[Gg]raph captur|Capturing CUDA graphs", "capturing CUDA graphs"),
    (r"Starting vLLM (?:API )?server|Started server process", "opening the port"),
    (r"Application startup complete", "listening"),
)
_PHASES: Final[dict[Engine, tuple[tuple[str, str], ...]]] = {
    "vllm": _VLLM,
    "ray": (
        (r"Started a local Ray instance", "Ray is up"),
        (r"Deploying new app|Deploying app", "deploying to Ray Serve"),
        *_VLLM[1:7],
        (r"is ready at|Application .* is ready", "listening"),
    ),
    "trtllm": (
        (r"TensorRT[- ]LLM version", "reading the configuration"),
        (r"Loading weights|Prefetching", "loading weights"),
        (r"Max KV Cache|Allocated .* for (?:max tokens in )?paged KV cache", "KV cache made"),
        (r"Capturing CUDA graphs|Running autotuner|CUDA graph warmup", "capturing CUDA graphs"),
        (r"Application startup complete", "listening"),
    ),
    "transformers": (
        (r"Importing torch", "importing torch"),
        (r"Loading weights of", "loading weights"),
        (r"Loading weights took", "weights loaded"),
        (r"KV cache holds", "KV cache made"),
        (r"Application startup complete", "listening"),
    ),
    "llamacpp": (
        (r"llama_model_loader|loading model", "loading weights"),
        (r"KV (?:buffer|cache)|kv_unified|llama_kv_cache", "KV cache made"),
        (r"warming up", "warming up"),
        (r"server is listening|serving on", "listening"),
    ),
}
_COMPILED: Final = {
    engine: tuple((re.compile(pattern), name) for pattern, name in phases) for engine, phases in _PHASES.items()
}
_SHARDS = re.compile(r"(?:Loading safetensors checkpoint shards|Loading weights):\s+(\d+)%")
_KV_TOKENS = re.compile(r"(?:(?:GPU|CPU) KV cache size: |KV cache holds )([\d,]+) tokens")


class PhaseReader:
    """Follows one start.

    Args:
        engine: Whose log it is.
    """

    def __init__(self, engine: Engine) -> None:
        self._phases = _COMPILED[engine]
        self._at = -1
        self.kv_tokens: int | None = None
        self.percent: int | None = None

    def feed(self, line: str) -> str | None:
        """Take a line; returns the name of the phase that begins with it, or None."""
        tokens = _KV_TOKENS.search(line)
        if tokens:
            self.kv_tokens = int(tokens[1].replace(",", ""))
        shards = _SHARDS.search(line)
        self.percent = int(shards[1]) if shards else self.percent
        for index in range(self._at + 1, len(self._phases)):
            if self._phases[index][0].search(line):
                self._at, self.percent = index, None
                return self._phases[index][1]
        return None
