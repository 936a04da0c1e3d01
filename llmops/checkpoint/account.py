"""Adds tensors up: parameters by part, bytes by type, linear layers, and shares for parallel plans."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from llmops.checkpoint.facts import PARTS, Linear, Part, PartName, Quantization, Share, Weights
from llmops.checkpoint.tensors import TORCH_NAME, Tensor, part_of, shard_of

_SIDECAR: Final = re.compile(
    r"(?:scales?|scale_inv|scale_2|qzeros|zeros|g_idx|zero_point|weight_shape|absmax|quant_map|nested_\w+|SCB|"
    r"weight_format|quant_state\.\w+|input_scale|weight_global_scale|input_global_scale|perm)$|\.quant_state\."
)
_PACKED: Final = re.compile(r"(?:qweight|weight_packed|_blocks|W_q)$")
_FLOATS: Final = ("F64", "F32", "F16", "BF16")
_SUFFIX: Final = re.compile(r"\.(?:weight|qweight|weight_packed|bias|W_q)$|_blocks$")


@dataclass(frozen=True, slots=True)
class Account:
    """The sums over a model's tensors."""

    parameters: int
    size_bytes: int
    parts: tuple[Part, ...]
    dtypes: tuple[tuple[str, int], ...]
    dtype: str
    linears: tuple[Linear, ...]
    weights: Weights


def add_up(tensors: Iterable[tuple[Tensor, bool | None]], quantization: Quantization | None, *, tied: bool) -> Account:
    """Sum up tensors.

    Args:
        tensors: Each with whether it is quantised; None lets its type and name decide.
        quantization: The model's scheme, for unpacking.
        tied: Whether the output head is the embedding; a stored head is then not loaded.
    """
    counts: dict[PartName, list[int]] = {part: [0, 0] for part in PARTS}
    dtypes: dict[str, int] = defaultdict(int)
    shares: dict[str, list[int]] = {role: [0, 0] for role in Weights.__slots__}
    linears: list[Linear] = []
    for tensor, known in tensors:
        part = part_of(tensor.name)
        quantized = _is_quantized(tensor) if known is None else known
        parameters = logical_elements(tensor, quantization) if known is None else tensor.elements
        counts[part][0] += parameters
        counts[part][1] += tensor.size_bytes
        dtypes[tensor.dtype] += tensor.size_bytes
        _share_out(shares, tensor, part, parameters, quantized=quantized, tied=tied)
        if linear := _linear(tensor, part, quantization, quantized=quantized, known=known):
            linears.append(linear)
    return Account(
        parameters=sum(count for count, _ in counts.values()),
        size_bytes=sum(dtypes.values()),
        parts=tuple(Part(name, count, size) for name, (count, size) in counts.items() if count or size),
        dtypes=tuple(sorted(dtypes.items(), key=lambda item: -item[1])),
        dtype=_main_float(dtypes),
        linears=tuple(linears),
        weights=Weights(**{role: Share(*values) for role, values in shares.items()}),
    )


def logical_elements(tensor: Tensor, quantization: Quantization | None) -> int:
    """Parameters that a stored tensor stands for: packed ones counted unpacked, scales and the like as none."""
    if _SIDECAR.search(tensor.name):
        return 0
    if _PACKED.search(tensor.name):
        bits = quantization.bits if quantization and quantization.bits else 4
        width = {"I32": 32, "U32": 32, "I16": 16}.get(tensor.dtype, 8)
        return int(tensor.elements * width / bits) if bits <= width else tensor.elements
    half_bytes = quantization is not None and quantization.method in ("nf4", "fp4", "nvfp4")
    if half_bytes and tensor.dtype == "U8" and tensor.name.endswith(".weight"):
        return tensor.elements * 2
    return tensor.elements


def scaled(account: Account, size_bytes: int) -> Weights:
    """The shares of ``account`` scaled so that they add up to a known total: the index's ``total_size``.

    Weights stored twice as wide as the configuration says (float32 behind a bfloat16 config) have as many elements.
    """
    ratio = size_bytes / account.size_bytes if account.size_bytes else 1.0
    ratio /= next((width for width in (2.0, 0.5) if abs(ratio / width - 1) < 0.03), 1.0)
    return Weights(
        **{
            role: Share(round(share.fixed_bytes * ratio), round(share.floats * ratio))
            for role in Weights.__slots__
            for share in [getattr(account.weights, role)]
        }
    )


def _is_quantized(tensor: Tensor) -> bool:
    name = tensor.name
    return bool(_PACKED.search(name) or _SIDECAR.search(name)) or tensor.dtype not in _FLOATS


def _main_float(dtypes: dict[str, int]) -> str:
    floats = {name: size for name, size in dtypes.items() if name in _FLOATS}
    if not floats:
        return "float16"
    return TORCH_NAME[max(floats, key=lambda name: floats[name])]


def _share_out(
    shares: dict[str, list[int]], tensor: Tensor, part: PartName, parameters: int, *, quantized: bool, tied: bool
) -> None:
    if part == "lm_head" and tied:
        return
    role = part if part in ("embedding", "lm_head", "vision") else shard_of(tensor.name, part)
    fixed = quantized or tensor.dtype not in _FLOATS
    shares[role][0 if fixed else 1] += tensor.size_bytes if fixed else parameters


def _linear(
    tensor: Tensor, part: PartName, quantization: Quantization | None, *, quantized: bool, known: bool | None
) -> Linear | None:
    """The matrix multiplication that a tensor is the weight of, None for biases, norms, embeddings and scales."""
    if part not in ("attention", "mlp", "experts", "lm_head", "vision", "other") or len(tensor.shape) not in (2, 3):
        return None
    if _SIDECAR.search(tensor.name) or tensor.name.endswith("bias") or "embed" in tensor.name.rsplit(".", 2)[-2:][0]:
        return None
    *copies, rows, columns = tensor.shape
    bits = int(quantization.bits) if quantization and quantization.bits >= 1 else 4
    out_features, in_features = rows, columns
    if known is None and tensor.name.endswith("qweight"):
        awq = quantization is not None and quantization.method == "awq"
        in_features, out_features = (rows, columns * 32 // bits) if awq else (rows * 32 // bits, columns)
    elif known is None and tensor.name.endswith("weight_packed"):
        in_features = columns * (32 // bits if tensor.dtype == "I32" else 2)
    elif known is None and quantized and tensor.dtype == "U8" and columns == 1:
        return None  # bitsandbytes flattens: the shape is in its quant_state only
    return Linear(
        _SUFFIX.sub("", tensor.name), in_features, out_features, part, tensor.dtype, tensor.size_bytes, quantized,
        copies[0] if copies else 1,
    )  # fmt: skip
