"""``read_model``: facts of anything that a user may call a model, from its configuration and headers alone."""

from __future__ import annotations

import re
from pathlib import Path

from llmops.checkpoint import gguf_facts, huggingface, lora
from llmops.checkpoint.facts import ModelFacts
from llmops.errors import UsageError

_KINDS = "a directory with config.json, a LoRA adapter directory, a .safetensors or a .gguf file"


def read_model(path: Path) -> ModelFacts:
    """Read what can be known of a model without its weights.

    Damaged or missing weight files are findings of severity ``error`` in the result, not exceptions.

    Args:
        path: A Hugging Face directory (the index of the weights is enough), a LoRA adapter's directory, a
            ``.safetensors`` or a ``.gguf`` file, or a directory that holds one GGUF model.

    Raises:
        UsageError: There is nothing, or it is not a model, or it is an ONNX file.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}", _hint_for_missing(str(path)))
    if path.is_dir():
        return _read_directory(path)
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty", "fetch the file again")
    with path.open("rb") as file:
        magic = file.read(4)
    if path.suffix == ".gguf" or magic == b"GGUF":
        return gguf_facts.read_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".onnx":
        raise _onnx(path)
    if path.name == "config.json":
        return huggingface.read_directory(path.parent)
    raise UsageError(f"{path} is not a model", f"give {_KINDS}")


def _read_directory(directory: Path) -> ModelFacts:
    if (directory / "config.json").is_file():
        return huggingface.read_directory(directory)
    if (directory / "adapter_config.json").is_file():
        return lora.read_adapter(directory)
    ggufs = sorted(path for path in directory.glob("*.gguf") if not path.name.startswith("mmproj"))
    firsts = [path for path in ggufs if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", path.name)]
    if len(firsts) == 1:
        return gguf_facts.read_file(firsts[0])
    if firsts:
        names = ", ".join(path.name for path in firsts[:4])
        raise UsageError(f"{directory} holds {len(firsts)} GGUF models: {names}", f"name one: {firsts[0]}")
    if any(directory.glob("*.safetensors")):
        raise UsageError(f"{directory} has weights but no config.json", "fetch config.json of the model too")
    if onnx := next(iter(sorted(directory.glob("*.onnx"))), None):
        raise _onnx(onnx)
    raise UsageError(f"{directory} is not a model: it has no config.json", f"give {_KINDS}")


def _read_safetensors(path: Path) -> ModelFacts:
    facts = huggingface.read_single(path)
    broken = next((finding for finding in facts.findings if finding.rule == "shard-damaged"), None)
    if broken and "not a safetensors file" in broken.message:
        raise UsageError(f"{path} is not a safetensors file", "fetch the file again, or check its name")
    return facts


def _onnx(path: Path) -> UsageError:
    return UsageError(f"{path} is an ONNX file, which is not served or quantised", f"llmops inspect {path}")


def _hint_for_missing(text: str) -> str:
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return f"this reads local files; for a hub model: hf download {text} --local-dir {text.split('/')[1]}"
    return "check the path"
