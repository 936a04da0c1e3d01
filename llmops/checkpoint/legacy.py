"""Layouts of checkpoints that older tools wrote, as libraries of today read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from llmops.checkpoint import sidecars

_WEIGHTS: Final = "model.safetensors"


def as_read_today(directory: Path, work: Path) -> Path:
    """``directory``, or a view of it under ``work`` that transformers reads.

    auto-gptq named its weights after bits and groups (``gptq_model-4bit-128g.safetensors``), and its early versions wrote
    ``quantize_config.json`` without a word in config.json. The view is links to the same files, under today's names.
    """
    config = sidecars.read_optional(directory / "config.json")
    settings = sidecars.read_optional(directory / "quantize_config.json")
    weights = sorted(directory.glob("*.safetensors"))
    renamed = len(weights) == 1 and weights[0].name != _WEIGHTS and not [*directory.glob("*.safetensors.index.json")]
    unsaid = bool(settings) and "quantization_config" not in config
    if not (config and (renamed or unsaid)):
        return directory
    view = work / "as-read-today"
    view.mkdir()
    for path in directory.iterdir():
        name = _WEIGHTS if renamed and path == weights[0] else path.name
        if path.is_file() and name != "config.json":
            (view / name).symlink_to(path.absolute())
    if unsaid:
        config = {**config, "quantization_config": {"quant_method": "gptq", **settings}}
    (view / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return view
