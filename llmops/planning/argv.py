"""Command lines and variables of engines from decisions already made. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmops.planning.types import LoraSpec

# Variables that say which GPUs a process sees.
DEVICES: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


@dataclass(frozen=True, slots=True)
class VllmFlags:
    """What ``vllm serve`` is told. None leaves the engine's default."""

    path: str
    served_name: str
    host: str
    port: int
    dtype: str
    tensor_parallel: int
    pipeline_parallel: int
    max_model_len: int
    utilization: float | None
    max_num_seqs: int
    max_num_batched_tokens: int | None
    kv_cache_dtype: str
    quantization: str | None
    enforce_eager: bool
    loras: tuple[LoraSpec, ...]
    max_lora_rank: int
    max_loras: int
    chat_template: str | None = None


def vllm_argv(flags: VllmFlags) -> tuple[str, ...]:
    """Arguments after ``vllm``."""
    argv = [
        "serve",
        flags.path,
        "--served-model-name",
        flags.served_name,
        "--host",
        flags.host,
        "--port",
        str(flags.port),
    ]
    argv += [
        "--dtype",
        flags.dtype,
        "--max-model-len",
        str(flags.max_model_len),
        "--max-num-seqs",
        str(flags.max_num_seqs),
    ]
    if flags.max_num_batched_tokens is not None:
        argv += ["--max-num-batched-tokens", str(flags.max_num_batched_tokens)]
    if flags.utilization is not None:
        argv += ["--gpu-memory-utilization", f"{flags.utilization:g}"]
    if flags.tensor_parallel > 1:
        argv += ["--tensor-parallel-size", str(flags.tensor_parallel)]
    if flags.pipeline_parallel > 1:
        argv += ["--pipeline-parallel-size", str(flags.pipeline_parallel)]
    if flags.kv_cache_dtype != "auto":
        argv += ["--kv-cache-dtype", flags.kv_cache_dtype]
    if flags.quantization:
        argv += ["--quantization", flags.quantization]
    if flags.enforce_eager:
        argv.append("--enforce-eager")
    if flags.loras:
        argv += ["--enable-lora", "--max-lora-rank", str(flags.max_lora_rank), "--max-loras", str(flags.max_loras)]
        argv += ["--lora-modules", *(f"{lora.name}={lora.path}" for lora in flags.loras)]
    return tuple(argv)


def cuda_env(indices: tuple[int, ...], *, amd: bool = False) -> Mapping[str, str]:
    """Which GPUs a replica sees, by index: vLLM fails on UUIDs. The order is the bus's, as the indices are."""
    listed = ",".join(map(str, indices))
    if amd:
        return {"HIP_VISIBLE_DEVICES": listed}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": listed}


def vllm_cpu_env(kv_gib: int, threads: int, *, alone: bool) -> Mapping[str, str]:
    """Variables of vLLM's CPU build: it takes its cache size in whole GiB and its threads from OpenMP.

    Left alone it sets the number of threads itself and ties them to the first cores of the machine, one thread to a core
    (``vllm/utils/ompmultiprocessing.py``). That is best where the machine is its own. A second server would be tied to
    the very same cores, and a share of the machine is no share for it: ``nobind`` keeps it to ``threads``.
    """
    bound = {} if alone else {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return bound | {
        "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_NO_USAGE_STATS": "1",
    }
