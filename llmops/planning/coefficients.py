"""Numbers that change between engine versions, each with where it comes from.

Rows hold from their version until the next row. Add a row instead of changing one: a plan for an old engine must not
change when a new one appears.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from llmops.errors import UsageError

Version = tuple[int, int, int]
# Planned for when the user names no version: the newest row that logs confirm.
DEFAULT_VERSION: Final = "0.19.0"
_V0_REMOVED: Final = (0, 11, 0)


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Memory behaviour of vLLM from one version on.

    Attributes:
        forward: Bytes a token at the forward pass's peak, in units of the type's width: of the hidden size, of the inner
            size, and a constant in GiB.
        experts_kept: Whether the experts' work buffers stay after the forward pass and so add to the sampler's peak.
        sampler_bytes: Bytes a (sequence x vocabulary entry) at the warm-up's peak, logits in the model's type not counted.
        non_torch_gib: Memory outside PyTorch (context growth, NCCL): on one GPU, with tensor parallelism, with
            pipeline parallelism only.
        start_gib: Memory used before the engine measures what is free: on one GPU, with several.
        graphs_subtracted: Whether the CUDA graph estimate is taken from the KV cache's share.
        profile_whole_context: Whether the warm-up prefills the whole context at once (engine V0).
        default_utilization: The engine's own default of gpu_memory_utilization.
        derived_tokens: Whether the reported tokens of hybrid models are max_concurrency x max_model_len.
        large_gpu_seqs: Default max_num_seqs of the API server on GPUs of 70 GiB and more.
    """

    since: Version
    sampler_bytes: float
    forward: tuple[float, float, float]
    experts_kept: bool
    non_torch_gib: tuple[float, float, float]
    start_gib: tuple[float, float]
    graphs_subtracted: bool
    profile_whole_context: bool
    default_utilization: float
    large_gpu_seqs: int
    derived_tokens: bool
    source: str


_ROWS: Final = (
    Coefficients(
        (0, 0, 0), 36.4, (3, 3, 0.0), False, (0.16, 0.55, 0.16), (0.5, 0.7), graphs_subtracted=False, profile_whole_context=True,
        default_utilization=0.9, large_gpu_seqs=256, derived_tokens=False,
        source="vLLM 0.6-0.7 (engine V0): peaks at two contexts on RTX 3090 (issue 10517), H100 logs",
    ),
    Coefficients(
        (0, 8, 0), 36.4, (4, 3, 0.1), False, (0.13, 0.55, 0.13), (0.5, 1.0), graphs_subtracted=False, profile_whole_context=False,
        default_utilization=0.9, large_gpu_seqs=1024, derived_tokens=False,
        source="vLLM 0.11.0 start-up logs on H100, 5 models",
    ),
    Coefficients(
        (0, 17, 0), 12.95, (4, 3, 0.1), True, (0.25, 2.13, 0.07), (0.51, 1.55), graphs_subtracted=False, profile_whole_context=False,
        default_utilization=0.9, large_gpu_seqs=1024, derived_tokens=False,
        source="vLLM 0.19.0 debug logs on H100, 25 starts of 12 models",
    ),
    Coefficients(
        (0, 21, 0), 12.95, (4, 3, 0.1), True, (0.25, 2.13, 0.07), (0.51, 1.55), graphs_subtracted=True, profile_whole_context=False,
        default_utilization=0.92, large_gpu_seqs=1024, derived_tokens=True,
        source="vLLM 0.19.0 debug logs, with the CUDA graph estimate subtracted as 0.21 and later do",
    ),
)  # fmt: skip


def coefficients(version: str | None, capability: tuple[int, int] | None = None) -> Coefficients:
    """The row for an engine version such as ``0.19.0``, ``v0.11`` or ``0.8 V0``.

    Cards older than ``capability`` 8.0 kept engine V0 until 0.11, which removed it.

    Raises:
        UsageError: The text is no version.
    """
    wanted = parse_version(version or DEFAULT_VERSION)
    row = max((row for row in _ROWS if row.since <= wanted), key=lambda row: row.since)
    if capability is not None and capability < BF16_FLOOR and wanted < _V0_REMOVED:
        return _ROWS[0]
    if version and re.search(r"\bV0\b", version):
        return _ROWS[0]
    if version and re.search(r"\bV1\b", version) and row is _ROWS[0]:
        return _ROWS[1]
    return row


def parse_version(text: str) -> Version:
    """``0.19.0`` as three numbers.

    Raises:
        UsageError: The text is no version.
    """
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        raise UsageError(f"{text!r} is no engine version", "write it as 0.19.0")
    return int(match[1]), int(match[2]), int(match[3] or 0)


@dataclass(frozen=True, slots=True)
class Floor:
    """The lowest compute capability on which a kind of quantised model runs, from an engine version on."""

    method: str
    since: Version
    capability: tuple[int, int]
    note: str


# From vLLM's source, read in 0.8.5, 0.10.2, 0.12 to 0.14, 0.16, 0.18, 0.19, 0.21 to 0.24, 0.26 to 0.29 and 0.32. There a
# method passes two checks: get_min_capability of its class in model_executor/layers/quantization (for compressed-tensors
# of the scheme in compressed_tensors/schemes), and for what only Marlin computes check_marlin_supported in
# utils/marlin_utils.py. A row holds from the version where both first let a card through. 0.6's is from its documents.
FLOORS: Final = (
    # GPTQConfig says 6.0 and computes with ExLlama, on every card that the engine takes. AutoGPTQConfig, which replaced it
    # and gptq_marlin in 0.22, still says 6.0, but its layers ask for Marlin, which needs 7.5.
    Floor("gptq", (0, 0, 0), (7, 0), "Marlin kernels from 8.0 on"),
    Floor("gptq", (0, 14, 0), (7, 0), "Marlin kernels from 7.5 on"),
    Floor("gptq", (0, 22, 0), (7, 5), "Marlin kernels only"),
    Floor("awq", (0, 0, 0), (7, 5), "AWQ's own kernels"),
    # compressed_tensors_wNa16.
    Floor("w4a16", (0, 0, 0), (8, 0), "Marlin"),
    Floor("w4a16", (0, 12, 0), (7, 5), "Marlin"),
    Floor("w8a16", (0, 0, 0), (8, 0), "Marlin"),
    Floor("w8a16", (0, 12, 0), (7, 5), "Marlin"),
    Floor("w8a8", (0, 0, 0), (7, 5), "int8 tensor cores"),
    Floor("fp8", (0, 0, 0), (8, 9), "8-bit float tensor cores"),
    Floor("fp8", (0, 6, 0), (8, 0), "weight-only through Marlin below 8.9"),
    # Fp8Config from 0.14 on; compressed_tensors_w8a16_fp8 says 8.0 in 0.14 and 7.5 in 0.16.
    Floor("fp8", (0, 16, 0), (7, 5), "weight-only through Marlin below 8.9"),
    Floor("nf4", (0, 0, 0), (7, 0), "bitsandbytes"),
    Floor("fp4", (0, 0, 0), (7, 0), "bitsandbytes"),
    Floor("int8", (0, 0, 0), (7, 5), "bitsandbytes"),  # 7.0 in vLLM, but the library's int8 kernels need 7.5
    Floor("mxfp4", (0, 0, 0), (8, 0), "Marlin below 9.0"),
    Floor("nvfp4", (0, 0, 0), (10, 0), "4-bit float tensor cores"),
    Floor("nvfp4", (0, 9, 0), (8, 0), "weight-only through Marlin below 10.0"),
    Floor("nvfp4", (0, 16, 0), (7, 5), "weight-only through Marlin below 10.0"),
)
# From here on fp8 weights are made one layer at a time while a plain checkpoint is loaded (device="meta" in fp8.py). Before,
# the whole model was first there in 16 bit (0.14's source; a 72B on 141 GB ran out of memory so in 0.13).
ONLINE_STREAMED: Final[Version] = (0, 16, 0)
# From here on vLLM has no bitsandbytes of its own: the package vllm-bnb-plugin brings it.
BITSANDBYTES_LEFT: Final[Version] = (0, 28, 0)
# From here on GPTQ is AutoGPTQConfig's, whose TYPE_MAP has symmetric 4 and 8 bit alone.
GPTQ_NARROWED: Final[Version] = (0, 22, 0)
# The most by which a plan was above the log on 30 of 31 starts was 0.23 GiB: a context that the plan itself chooses up to
# the last token would then be refused by the engine.
RESERVE_GIB: Final = 0.25
# Unquantised: the engine's own floor, and bfloat16's.
ENGINE_FLOOR: Final = (7, 0)
BF16_FLOOR: Final = (8, 0)
# Ampere is the first generation whose FP8 KV cache kernels the engine has; below it the cache stays 16 bit.
FP8_KV_FLOOR: Final = (8, 0)


def capability_floor(method: str, version: str | None) -> Floor | None:
    """The row for a quantisation method and engine version; None for methods without one."""
    wanted = parse_version(version or DEFAULT_VERSION)
    rows = [row for row in FLOORS if row.method == method and row.since <= wanted]
    return max(rows, key=lambda row: row.since) if rows else None
