"""What a user asks for. Values are checked by ``preflight``, where each refusal has its remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

BUILTIN: Final = "builtin:ja-en"


class GateSpec(BaseModel):
    """How quality is measured and what is good enough.

    Attributes:
        eval_text: Held-out text (``.jsonl`` or plain); None takes the project's own, Japanese and English in turn.
        chunks: Chunks of ``chunk_tokens`` tokens; the second half of each is scored.
        max_kl: Largest mean KL divergence (nats a token); None takes the default for the bits.
        max_ppl_ratio: Largest ratio of the perplexities; likewise.
        min_agreement: Least share of tokens whose most likely next token is the same, 0 to 1; likewise.
        sample_tokens: Tokens of each greedy continuation that is shown side by side; 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    eval_text: Path | None = None
    chunks: int = 8
    chunk_tokens: int = 512
    max_kl: float | None = None
    max_ppl_ratio: float | None = None
    min_agreement: float | None = None
    sample_tokens: int = 24


class QuantizeSpec(BaseModel):
    """One quantisation.

    Attributes:
        model: A Hugging Face directory, a GGUF file, or a hub id.
        out: The directory to make.
        method: One of ``methods.METHODS``; None follows the detected GPU.
        bits: 4 or 8; None takes the method's own.
        group_size: Weights that share a scale: 32, 64, 128, or -1 for a whole row; None takes the largest that every
            layer allows.
        desc_act: GPTQ's activation order: better, slower to serve.
        calibration: A file, or ``builtin:ja-en``.
        samples: Rows of calibration text; ``seq_len`` tokens each.
        seed: Order of the calibration text. Same input, seed and threads give the same bytes.
        engine: ``auto`` or the name of an engine; ``engine_python`` runs it with an interpreter of your own.
        device: ``auto``, ``cpu`` or ``cuda:N``.
        target: What must be able to load the result: vllm, transformers or triton.
        tensor_parallel: Degrees of tensor parallelism that the result must allow.
        gate: Measure the result and fail when it is worse than the thresholds.
        threads: CPU threads; None takes the cores that this process may use.
        model_card: Also write README.md, a section for a model card.
        force: Replace an existing ``out``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    out: Path
    method: str | None = None
    bits: int | None = None
    group_size: int | None = None
    desc_act: bool = False
    calibration: str = BUILTIN
    samples: int = 128
    seq_len: int = 512
    seed: int = 0
    engine: str = "auto"
    engine_python: Path | None = None
    device: str = "auto"
    target: str | None = None
    tensor_parallel: tuple[int, ...] = (1,)
    gate: bool = True
    quality: GateSpec = GateSpec()
    threads: int | None = None
    model_card: bool = False
    force: bool = False


class EvaluateSpec(BaseModel):
    """The gate alone: ``model`` against ``against``.

    Attributes:
        bits: Bits whose default thresholds apply; None reads them from the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    against: str
    bits: int | None = None
    quality: GateSpec = GateSpec()
    engine_python: Path | None = None
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
