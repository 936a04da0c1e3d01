"""Facts of the models that starts are logged of, from the configurations in ``models/``."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from llmops.checkpoint.facts import ModelFacts
from llmops.checkpoint.reader import read_model

HERE = Path(__file__).resolve().parent


def load_models(scratch: Path) -> dict[str, ModelFacts]:
    """Facts by model name, each read from a directory that has only a config.json."""
    found: dict[str, ModelFacts] = {}
    for file in sorted((HERE / "models").glob("*.json")):
        entry = json.loads(file.read_text(encoding="utf-8"))
        directory = scratch / file.stem
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(entry["config"]), encoding="utf-8")
        facts = read_model(directory)
        found |= {key: facts for name in entry["models"] for key in (name.lower(), name.lower().split("/")[-1])}
    return found


def find_model(name: str, known: dict[str, ModelFacts]) -> ModelFacts:
    """Facts for a point's model name, which may carry a remark in brackets.

    A name that is in no file may still be the base or a tuned form of one that is, which has the same shape, or such a
    model quantised, which its name then says.
    """
    plain = re.sub(r"\s*\(.*\)$", "", name).strip().lower()
    for key in (plain, plain.split("/")[-1]):
        if key in known:
            return known[key]
    family, method = _family(plain)
    for key, facts in known.items():
        if (facts.quantization is None or method is None) and _family(key)[0] == family:
            return facts if method is None or facts.quantization else _quantised(facts, method)
    raise LookupError(f"no facts of {name!r}")


# Words of a name that do not change a model's shape.
_TUNED = {"instruct", "it", "pt", "chat", "hf", "base", "meta", "thinking", "preview", "2507", "0528"}
# Words that say how a model is quantised -> files whose quantisation is meant.
_METHODS = {
    "awq": "qwen2.5-72b-instruct-awq",
    "w4a16": "llama-3.3-70b-instruct-quantized.w4a16",
    "gptq": "llama-3.3-70b-instruct-quantized.w4a16",
    "w8a8": "llama-3.3-70b-instruct-quantized.w8a8",
    "fp8": "qwen2.5-7b-instruct-fp8-dynamic",
}


def _family(name: str) -> tuple[frozenset[str], str | None]:
    """Words of a name that tell its shape, and how it is quantised."""
    words = set(re.split(r"[-_. ]+", name.rsplit("/", maxsplit=1)[-1]))
    method = next((method for method in _METHODS if method in words), None)
    noise = {"quantized", "dynamic", "int4", "int8", "marlin", "block", method or ""}
    return frozenset(words - _TUNED - (noise if method else set())), method


def _quantised(facts: ModelFacts, method: str) -> ModelFacts:
    """The same model quantised as others of this kind are."""
    models = {
        file.stem: json.loads(file.read_text(encoding="utf-8"))["config"] for file in (HERE / "models").glob("*.json")
    }
    config = next(each for stem, each in models.items() if stem == facts.name)
    with tempfile.TemporaryDirectory() as scratch:
        config["quantization_config"] = models[_METHODS[method]]["quantization_config"]
        (Path(scratch) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return read_model(Path(scratch))
