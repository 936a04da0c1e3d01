"""Counts the parameters of models by building them without memory; prints JSON. Run in a process of its own."""

import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

counts = {}
for name in sys.argv[1:]:
    config = json.loads(Path(name).read_text())["config"]
    config.pop("quantization_config", None)
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "config.json").write_text(json.dumps(config))
        loaded = AutoConfig.from_pretrained(scratch)
    with torch.device("meta"):
        kind = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
        model = kind.from_config(loaded)
    counts[name] = sum(parameter.numel() for parameter in model.parameters())
print(json.dumps(counts))
