"""Which engine serves a model, and why; and what an engine cannot serve, said before it is started."""

from __future__ import annotations

from dataclasses import dataclass

from llmops.checkpoint.facts import ModelFacts
from llmops.errors import MachineError, UsageError
from llmops.planning.cpu import CPU_HEAD_DIMS
from llmops.serve.spec import Engine, EngineChoice


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine and the sentence that says why."""

    engine: Engine
    reason: str


def choose_engine(facts: ModelFacts, wanted: EngineChoice, *, gpus: int, nvidia: bool = True) -> Choice:
    """Pick the engine.

    Args:
        facts: Of the model.
        wanted: The user's choice, or ``auto``.
        gpus: Usable GPUs on this machine.
        nvidia: Whether they are NVIDIA's.

    Raises:
        UsageError: The engine cannot serve a model of this kind.
        MachineError: It could, on another machine.
    """
    _refuse_unservable(facts)
    choice = _pick(facts, gpus) if wanted == "auto" else Choice(wanted, "asked for with --engine")
    if choice.engine in ("vllm", "ray"):
        _check_vllm(facts, gpus)
    if choice.engine == "trtllm" and not (gpus and nvidia):
        raise MachineError(
            "TensorRT-LLM runs on NVIDIA GPUs, and this machine has none to use",
            "--engine transformers, or --engine vllm",
        )
    if (facts.format == "gguf") != (choice.engine == "llamacpp"):
        kind = "a .gguf file" if facts.format == "gguf" else "a Hugging Face checkpoint"
        right = "llamacpp" if facts.format == "gguf" else "transformers or --engine vllm"
        raise UsageError(f"the engine {choice.engine} cannot serve {kind}", f"--engine {right}")
    return choice


def _pick(facts: ModelFacts, gpus: int) -> Choice:
    if facts.format == "gguf":
        return Choice("llamacpp", "a .gguf file runs on llama.cpp")
    if gpus:
        return Choice("vllm", f"this machine has {gpus} usable GPU{'s' if gpus > 1 else ''}")
    return Choice("transformers", "no GPU here, and it needs nothing beside llmops; --engine vllm serves more at once")


def _refuse_unservable(facts: ModelFacts) -> None:
    if facts.format == "lora":
        base = facts.lora.base_model if facts.lora else None
        raise UsageError(
            f"{facts.path} is a LoRA adapter, not a model",
            f"llmops serve {base or 'BASE'} --engine vllm --lora NAME={facts.path}",
        )
    if facts.format not in ("hf", "gguf"):
        raise UsageError(
            f"{facts.path} is a {facts.format} file; an engine needs a checkpoint directory or a .gguf file"
        )
    if not facts.is_generative:
        raise UsageError(
            f"{facts.architecture} does not generate text",
            "export it and serve it with Triton: llmops export --help",
        )
    if facts.format == "hf" and not facts.tokenizer.present:
        raise UsageError(
            f"{facts.path} has no tokenizer files", "copy tokenizer.json and tokenizer_config.json beside the weights"
        )


def _check_vllm(facts: ModelFacts, gpus: int) -> None:
    _check_format(facts, gpus)
    if gpus:
        return
    bad = sorted({group.head_dim for group in facts.groups if group.kind in ("full", "sliding", "chunked")}
                 - set(CPU_HEAD_DIMS))  # fmt: skip
    if bad:
        raise MachineError(
            f"vLLM's CPU attention does not take head_dim {bad[0]}; it takes {', '.join(map(str, CPU_HEAD_DIMS))}",
            "--engine transformers",
        )


def _check_format(facts: ModelFacts, gpus: int) -> None:
    """Quantised formats that vLLM reads nowhere, or on GPUs only (read from version 0.32)."""
    quantized = facts.quantization
    if quantized is None:
        return
    settings = facts.config.get("quantization_config")
    if isinstance(settings, dict) and settings.get("desc_act") is True and quantized.group_size:
        raise UsageError("vLLM no longer reads GPTQ in activation order (desc_act)", "--engine transformers")
    if gpus:
        return
    if quantized.quant_method == "bitsandbytes":
        raise UsageError(
            "vLLM on a CPU does not read bitsandbytes checkpoints", "--engine transformers, or quantise with gptq"
        )
    weights_only = quantized.method in ("gptq", "w8a16")
    if weights_only and quantized.bits != 4:
        raise UsageError(
            f"vLLM on a CPU reads GPTQ of 4 bits, not of {quantized.bits:g}",
            "--engine transformers, or quantise with --bits 4 or --method w8a8",
        )
