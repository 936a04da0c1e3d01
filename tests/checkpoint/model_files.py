"""Writes small model files in the formats that the project reads, without any of the libraries that usually do."""

import json
import struct
from pathlib import Path

BITS = {"F32": 32, "F16": 16, "BF16": 16, "I8": 8, "U8": 8, "F8_E4M3": 8, "I32": 32, "I64": 64}


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]], *, cut: int = 0, extra: bytes = b"") -> Path:
    """Write tensors of zeros: name -> (type, shape). ``cut`` drops bytes from the end."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        size = BITS[dtype] // 8
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    data = struct.pack("<Q", len(raw)) + raw + bytes(offset) + extra
    path.write_bytes(data[: len(data) - cut])
    return path


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
    "max_position_embeddings": 512, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def llama_tensors(layers: int = 2, dtype: str = "BF16") -> dict[str, tuple[str, list[int]]]:
    """The tensors of ``LLAMA``."""
    tensors = {"model.embed_tokens.weight": (dtype, [256, 64]), "lm_head.weight": (dtype, [256, 64])}
    for index in range(layers):
        at = f"model.layers.{index}."
        tensors |= {
            at + "self_attn.q_proj.weight": (dtype, [64, 64]),
            at + "self_attn.k_proj.weight": (dtype, [32, 64]),
            at + "self_attn.v_proj.weight": (dtype, [32, 64]),
            at + "self_attn.o_proj.weight": (dtype, [64, 64]),
            at + "mlp.gate_proj.weight": (dtype, [128, 64]),
            at + "mlp.up_proj.weight": (dtype, [128, 64]),
            at + "mlp.down_proj.weight": (dtype, [64, 128]),
            at + "input_layernorm.weight": (dtype, [64]),
            at + "post_attention_layernorm.weight": (dtype, [64]),
        }
    return tensors | {"model.norm.weight": (dtype, [64])}


def checkpoint(directory: Path, config: dict | None = None, tensors: dict | None = None) -> Path:
    """A directory with config.json and one weights file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config or LLAMA))
    safetensors(directory / "model.safetensors", tensors or llama_tensors())
    return directory


def sharded(directory: Path) -> Path:
    """The same model in two shards with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(LLAMA))
    everything = llama_tensors()
    names = sorted(everything)
    halves = {"model-00001-of-00002.safetensors": names[:11], "model-00002-of-00002.safetensors": names[11:]}
    total = 0
    for file, part in halves.items():
        safetensors(directory / file, {name: everything[name] for name in part})
    for dtype, shape in everything.values():
        size = BITS[dtype] // 8
        for extent in shape:
            size *= extent
        total += size
    weight_map = {name: file for file, part in halves.items() for name in part}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def only_config(directory: Path, config: dict) -> Path:
    """A directory with nothing but config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    assert isinstance(value, list)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return struct.pack("<IIQ", 9, 4, len(value)) + b"".join(struct.pack("<I", item) for item in value)


GGUF_META = {
    "general.architecture": "llama", "general.name": "Tiny", "general.file_type": 7, "general.license": "apache-2.0",
    "llama.block_count": 1, "llama.embedding_length": 64, "llama.feed_forward_length": 128,
    "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.context_length": 512,
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": [f"t{i}" for i in range(256)],
}  # fmt: skip
# name -> (ggml type, shape, bytes): 8 is Q8_0 (34 bytes for 32), 0 is F32
GGUF_TENSORS = {
    "token_embd.weight": (8, [256, 64], 256 * 64 // 32 * 34),
    "blk.0.attn_q.weight": (8, [64, 64], 64 * 64 // 32 * 34),
    "blk.0.attn_k.weight": (8, [32, 64], 32 * 64 // 32 * 34),
    "blk.0.attn_v.weight": (8, [32, 64], 32 * 64 // 32 * 34),
    "blk.0.attn_output.weight": (8, [64, 64], 64 * 64 // 32 * 34),
    "blk.0.ffn_up.weight": (8, [128, 64], 128 * 64 // 32 * 34),
    "blk.0.ffn_down.weight": (8, [64, 128], 128 * 64 // 32 * 34),
    "blk.0.attn_norm.weight": (0, [64], 256),
    "output_norm.weight": (0, [64], 256),
}


def gguf(path: Path, meta: dict | None = None, tensors: dict | None = None, *, cut: int = 0) -> Path:
    """Write a GGUF version 3 file with tensors of zeros."""
    meta, tensors = meta or GGUF_META, tensors or GGUF_TENSORS
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta))
    head += b"".join(_text(key) + _value(value) for key, value in meta.items())
    offset = 0
    for name, (kind, shape, size) in tensors.items():
        head += _text(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", extent) for extent in reversed(shape)) + struct.pack("<IQ", kind, offset)
        offset += -(-size // 32) * 32
    data = head + bytes(-len(head) % 32) + bytes(offset)
    path.write_bytes(data[: len(data) - cut])
    return path
