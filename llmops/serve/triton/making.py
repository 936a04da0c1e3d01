"""From a model and a server to a repository: which models, who computes, and what to say of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from llmops.checkpoint import read_model
from llmops.errors import UsageError
from llmops.findings import Finding
from llmops.hardware.host import Host
from llmops.serve.triton.locate import Server
from llmops.serve.triton.parts import Repository
from llmops.serve.triton.placing import write_repository
from llmops.serve.triton.plans import with_engine
from llmops.serve.triton.repository import choose_middle, make_repository, vllm_repository
from llmops.serve.triton.spec import Served, TritonSpec, read_served
from llmops.settings import settings

_COMPATIBLE: Final = "--backend-config=tensorrt,version-compatible=true"


@dataclass(frozen=True, slots=True)
class Made:
    """A generated repository: who computes, what clients may call, what to say, and words for the server."""

    middle: str
    models: dict[str, str]
    findings: tuple[Finding, ...] = ()
    flags: tuple[str, ...] = ()


def make(spec: TritonSpec, server: Server, host: Host, directory: Path, *, write: bool) -> Made:
    """Decide the models for ``spec.model``; ``write=False`` writes nothing.

    Raises:
        UsageError: The model or an option is wrong, or an engine was made for another machine.
        MachineError: There is no GPU for an engine.
    """
    made, repository = _with_vllm(spec, server) if spec.middle == "vllm" else _exported(spec, server, host)
    if write:
        write_repository(repository, directory)
    return made


def _with_vllm(spec: TritonSpec, server: Server) -> tuple[Made, Repository]:
    assert spec.model is not None
    if server.backends is not None and "vllm" not in server.backends:
        raise UsageError("this server has no vllm backend", "--mode docker takes an image that has it")
    facts = read_model(spec.model)
    damage = next((finding for finding in facts.findings if finding.severity == "error"), None)
    if damage is not None or not facts.complete or facts.format != "hf":
        said = damage.message if damage else "vLLM's backend needs a whole Hugging Face checkpoint"
        raise UsageError(f"{spec.model}: {said}", f"llmops inspect {spec.model}")
    repository = vllm_repository(spec, spec.served_name)
    return Made("vllm", dict(repository.models)), repository


def _exported(spec: TritonSpec, server: Server, host: Host) -> tuple[Made, Repository]:
    assert spec.model is not None
    served = read_served(spec.model)
    middle = choose_middle(spec, served, server.backends)
    if server.kind == "container" and spec.image is None:
        raise UsageError(
            f"{server.image} lacks the packages that the generated models use (tokenizers, onnxruntime)",
            "llmops engines install triton needs no container; or give --image one with them (docs/export.md: two lines)",
        )
    findings: tuple[Finding, ...] = ()
    if middle == "tensorrt":
        served = with_engine(served, server, host)
    elif served.has_plan and spec.middle == "auto":
        text = f"model.plan is not used: this server has no tensorrt backend, ONNX Runtime computes the graph ({middle} backend)"
        findings = (
            Finding("engine-not-used", "warning", text, "--mode docker --image NAME, with an image that has it"),
        )
    served = _shortened(spec, served)
    if middle != "python" and spec.max_batch_size > served.max_batch:
        text = f"batches hold at most {served.max_batch} requests, as the {'engine' if middle == 'tensorrt' else 'graph'} takes"
        findings += (Finding("batch-size", "note", text),)
        spec = spec.model_copy(update={"max_batch_size": served.max_batch})
    flags = (_COMPATIBLE,) if served.version_compatible else ()
    repository = make_repository(spec, served, middle, spec.served_name)
    return Made(middle, dict(repository.models), findings, flags), repository


def _shortened(spec: TritonSpec, served: Served) -> Served:
    if spec.max_model_len is None:
        return served
    if spec.max_model_len > served.max_tokens:
        raise UsageError(
            f"--max-model-len {spec.max_model_len}: {spec.model} takes at most {served.max_tokens} tokens",
            f"export it with --seq 1:{spec.max_model_len}, if the model goes that far",
        )
    return replace(served, max_tokens=spec.max_model_len)


def own_repository(spec: TritonSpec) -> Path:
    """Where a generated repository goes when the user does not say."""
    return settings().state_dir / "triton" / "repositories" / spec.served_name
