"""A LoRA adapter's directory, written by hand."""

import json
import struct
from pathlib import Path


def adapter(directory: Path, *, rank: int) -> Path:
    """Weights of one matrix at ``rank``."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    at = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    header = {
        at + "A.weight": {"dtype": "F32", "shape": [rank, 8], "data_offsets": [0, rank * 32]},
        at + "B.weight": {"dtype": "F32", "shape": [8, rank], "data_offsets": [rank * 32, rank * 64]},
    }
    raw = json.dumps(header).encode()
    (directory / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(rank * 64))
    return directory
