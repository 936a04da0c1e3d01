"""Trace a checkpoint and write it as ONNX. Runs in a worker process, because it takes several times the model's memory."""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmops.errors import OutsideError
from llmops.extras import require
from llmops.progress import Progress

FILE: Final = "model.onnx"


def work(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Write ``model.onnx`` and its weights into ``job["out"]``.

    Raises:
        MachineError: A package is missing.
        OutsideError: The model cannot be loaded, or the exporter cannot trace it.
    """
    torch = require("torch", "exporting to ONNX")
    require("transformers", "exporting to ONNX")
    require("onnxscript", "exporting to ONNX")
    torch.set_num_threads(int(job["threads"]))
    progress.phase("loading the weights")
    model = load(job["model"], job["task"], job["dtype"])
    wrapped, examples, signature = prepare(model, job)
    progress.phase("tracing and converting the model")
    began = time.monotonic()
    path = Path(job["out"]) / FILE
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            _export(wrapped, examples, signature, path, job)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise explain(error, str(job["exporter"])) from error
    export_s = round(time.monotonic() - began, 2)
    save_tokenizer(Path(job["model"]), Path(job["out"]))
    return {
        "export_s": export_s,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": versions("torch", "transformers", "onnx", "onnxscript"),
    }


def load(path: str, task: str, dtype: str) -> Any:
    """The model, ready to be called.

    Raises:
        OutsideError: transformers cannot load it.
    """
    import torch
    import transformers

    kind = {"embedding": "AutoModel", "classification": "AutoModelForSequenceClassification"}
    loader = getattr(transformers, kind.get(task, "AutoModelForCausalLM"))
    try:
        model = loader.from_pretrained(path, dtype=getattr(torch, dtype), local_files_only=True)
    except Exception as error:
        raise OutsideError(f"transformers cannot load {path}: {one_line(error)}", f"llmops inspect {path}") from error
    return model.eval()


def save_tokenizer(model: Path, out: Path) -> None:
    """Write tokenizer.json when the checkpoint's own is missing, or lacks what its configuration adds (a first token, say).

    A server reads only that file, transformers the configuration too: both must give the same tokens.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(str(model), local_files_only=True).backend_tokenizer
    except Exception:  # noqa: BLE001 - a checkpoint may have no tokenizer, or one without a fast form
        return
    own = model / "tokenizer.json"
    sample = "The quick brown fox."
    if not own.is_file() or Tokenizer.from_file(str(own)).encode(sample).ids != backend.encode(sample).ids:
        backend.save(str(out / "tokenizer.json"))


def prepare(model: Any, job: Mapping[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The wrapped model, example inputs (no dynamic axis of size 1, which would become a constant) and the names."""
    import torch

    from llmops.export.onnx import wrappers

    rows, tokens = 2, 8
    ids = torch.arange(rows * tokens).reshape(rows, tokens) % max(2, model.config.get_text_config().vocab_size - 1)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    axes = {0: "batch", 1: "sequence"}
    names = ["input_ids", "attention_mask"]
    shapes: dict[str, Any] = {"input_ids": axes, "attention_mask": axes}
    task = job["task"]
    if task == "embedding":
        wrapped = wrappers.Embedding(model, job["pooling"], job["normalize"])
        outputs = {"last_hidden_state": axes, "sentence_embedding": {0: "batch"}}
        return wrapped, (ids, mask), _signature(names, outputs, shapes)
    if task == "classification":
        inputs: tuple[Any, ...] = (ids, mask)
        if has_segments(model.config):
            names, inputs = [*names, "token_type_ids"], (ids, mask, torch.zeros_like(ids))
            shapes["token_type_ids"] = axes
        return wrappers.Classification(model), inputs, _signature(names, {"logits": {0: "batch"}}, shapes)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    names.append("position_ids")
    shapes["position_ids"] = axes
    if task == "causal-lm":
        return wrappers.CausalLm(model), (ids, mask, positions), _signature(names, {"logits": axes}, shapes)
    return _with_cache(model, ids, positions, names, shapes)


def _with_cache(
    model: Any, ids: Any, positions: Any, names: list[str], shapes: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    import torch

    from llmops.export.onnx import wrappers

    rows, tokens, past_tokens = ids.shape[0], ids.shape[1], 4
    past = [
        tuple(torch.zeros(rows, heads, past_tokens, dim, dtype=model.dtype) for dim in (key_dim, value_dim))
        for heads, key_dim, value_dim in cache_shapes(model)
    ]
    mask = torch.ones(rows, past_tokens + tokens, dtype=torch.long)
    mask[0, :2] = 0
    layers = range(len(past))
    names = names + [f"past_key_values.{i}.{part}" for i in layers for part in ("key", "value")]
    shapes = shapes | {"attention_mask": {0: "batch", 1: "total_sequence"}}
    shapes["past"] = [({0: "batch", 2: "past_sequence"},) * 2 for _ in layers]
    outputs: dict[str, Any] = {"logits": {0: "batch", 1: "sequence"}}
    outputs |= {f"present.{i}.{part}": {0: "batch", 2: "total_sequence"} for i in layers for part in ("key", "value")}
    return wrappers.CausalLmCache(model), (ids, mask, positions + past_tokens, past), _signature(names, outputs, shapes)


def cache_shapes(model: Any) -> list[tuple[int, int, int]]:
    """Heads, key size and value size of each layer's cache, asked of the model itself with one token."""
    import torch
    from transformers import DynamicCache

    with torch.no_grad():
        done = model(input_ids=torch.zeros(1, 1, dtype=torch.long), past_key_values=DynamicCache(), use_cache=True)
    layers = done.past_key_values.layers
    return [(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers]


def has_segments(config: Any) -> bool:
    """Whether the model tells first from second text (BERT class)."""
    return int(getattr(config, "type_vocab_size", 0) or 0) > 1


def _signature(names: list[str], outputs: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": names, "outputs": outputs, "shapes": shapes}


def _export(
    wrapped: Any, examples: tuple[Any, ...], signature: dict[str, Any], path: Path, job: Mapping[str, Any]
) -> None:
    import torch

    common = {
        "input_names": signature["inputs"],
        "output_names": list(signature["outputs"]),
        "opset_version": job["opset"],
    }
    if job["exporter"] == "dynamo":
        torch.onnx.export(
            wrapped, examples, str(path), dynamo=True, dynamic_shapes=signature["shapes"],
            external_data=True, optimize=True, verbose=False, **common,
        )  # fmt: skip
        return
    torch.onnx.export(
        wrapped, examples, str(path), dynamo=False, dynamic_axes=_flat_axes(signature),
        do_constant_folding=True, **common,
    )  # fmt: skip
    _externalise(path)


def _flat_axes(signature: dict[str, Any]) -> dict[str, dict[int, str]]:
    """TorchScript wants the axes of every input and output by its own name."""
    shapes = dict(signature["shapes"])
    past = shapes.pop("past", [])
    pairs = [
        (layer, part, axis)
        for layer, pair in enumerate(past)
        for part, axis in zip(("key", "value"), pair, strict=True)
    ]
    axes: dict[str, dict[int, str]] = shapes | signature["outputs"]
    return axes | {f"past_key_values.{layer}.{part}": axis for layer, part, axis in pairs}


def _externalise(path: Path) -> None:
    """Move the weights beside the graph, as the other exporter does, whatever form the exporter chose."""
    import onnx

    model = onnx.load(str(path))
    for stale in path.parent.iterdir():
        if stale.is_file() and (stale.name.startswith("onnx__") or "." not in stale.name or "weight" in stale.name):
            stale.unlink()
    onnx.save_model(
        model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=path.name + ".data"
    )


def explain(error: Exception, exporter: str) -> OutsideError:
    """What an exporter's failure means. The outermost text says only which step failed; the cause stands inside."""
    deepest: BaseException = error
    while deepest.__cause__ is not None and not isinstance(deepest.__cause__, (KeyboardInterrupt, SystemExit)):
        deepest = deepest.__cause__
    text = one_line(deepest)
    other = "torchscript" if exporter == "dynamo" else "dynamo"
    hint = f"--exporter {other}"
    if "data-dependent" in text or "GuardOnDataDependent" in type(deepest).__name__:
        return OutsideError(f"the model branches on the value of a tensor, which cannot be traced: {text}", hint)
    if "UnsupportedOperator" in type(deepest).__name__ or "No ONNX function found" in text:
        return OutsideError(f"the model uses an operation that ONNX does not have: {text}", hint)
    return OutsideError(f"the {exporter} exporter failed: {type(deepest).__name__}: {text}", hint)


def one_line(error: BaseException) -> str:
    """The first line of an exception's text that says something."""
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def versions(*packages: str) -> dict[str, str]:
    """Installed versions."""
    from importlib import metadata

    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
