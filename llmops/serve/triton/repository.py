"""A model repository as plain values: every file with its text or the file it is a link to. Pure; ``write`` acts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmops.checkpoint.onnx_file import OnnxTensor
from llmops.errors import UsageError
from llmops.serve.triton.pbtxt import Word, write
from llmops.serve.triton.spec import Middle, Served, TritonSpec

RUNTIME: Final = Path(__file__).with_name("runtime")
SHARED: Final = ("llm_model.py", "llm_decoder.py", "llm_sampling.py", "llm_chat.py")
ASSETS: Final = "assets"
_TYPES: Final = {
    "FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "BFLOAT16": "TYPE_BF16", "DOUBLE": "TYPE_FP64", "INT64": "TYPE_INT64",
    "INT32": "TYPE_INT32", "BOOL": "TYPE_BOOL", "STRING": "TYPE_STRING",
}  # fmt: skip
_NOT_SERVED: Final = ("export.json", "model.plan.json")
# Encoders pad to multiples of this, so that requests of similar lengths share a batch in backends that want equal shapes.
PAD_TO: Final = 16


@dataclass(frozen=True, slots=True)
class Repository:
    """Files to write.

    Attributes:
        texts: Path in the repository -> text.
        links: Path in the repository -> the file that goes there (a link where the file system allows, else a copy).
        directories: Empty directories (the versions of ensembles).
        models: What a client may call, with a word on what it is.
    """

    texts: Mapping[str, str]
    links: Mapping[str, Path]
    directories: tuple[str, ...]
    models: Mapping[str, str]


def choose_middle(spec: TritonSpec, served: Served, backends: frozenset[str] | None) -> Middle:
    """Who computes the middle step.

    Raises:
        UsageError: The choice does not fit the files.
    """
    have = backends or frozenset({"python"})
    if spec.middle == "auto":
        if served.has_plan and "tensorrt" in have:
            return "tensorrt"
        # For text the Python backend keeps the KV cache and batches continuously; a graph backend would do neither.
        return "onnxruntime" if "onnxruntime" in have and not served.task.startswith("causal-lm") else "python"
    if spec.middle == "tensorrt" and not served.has_plan:
        raise UsageError(
            f"{served.directory} has no model.plan",
            f"llmops build tensorrt {served.directory} -o {served.directory}/model.plan",
        )
    if spec.middle in ("tensorrt", "onnxruntime") and served.task == "causal-lm-cache":
        raise UsageError(f"the {spec.middle} backend cannot carry a KV cache from step to step",
                         "export it with --task causal-lm, or --triton-backend python")  # fmt: skip
    return spec.middle


def make_repository(spec: TritonSpec, served: Served, middle: Middle, name: str) -> Repository:
    """All files for a model."""
    if served.task in ("causal-lm", "causal-lm-cache"):
        return _generator(spec, served, middle, name)
    return _encoder(spec, served, middle, name)


def vllm_repository(spec: TritonSpec, name: str) -> Repository:
    """One decoupled model of the vLLM backend, which brings its own batching and streaming.

    ``model.json`` holds arguments of vLLM's engine by their own names; the backend passes them on and refuses unknown ones.
    """
    assert spec.model is not None
    config = {
        "name": name,
        "backend": "vllm",
        "model_transaction_policy": {"decoupled": True},
        "instance_group": [{"count": 1, "kind": Word("KIND_MODEL")}],
    }
    wanted = {
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_batch_size if "max_batch_size" in spec.model_fields_set else None,
        "dtype": None if spec.dtype == "auto" else spec.dtype,
        "tensor_parallel_size": spec.tensor_parallel,
        "gpu_memory_utilization": spec.gpu_memory_utilization or 0.9,
        "enforce_eager": spec.enforce_eager,
    }
    values = {"model": str(spec.model.absolute())} | {key: value for key, value in wanted.items() if value is not None}
    texts = {f"{name}/config.pbtxt": write(config), f"{name}/1/model.json": json.dumps(values, indent=2) + "\n"}
    return Repository(texts, {}, (), {name: "text to text, streaming (vLLM backend)"})


# ---- text generation ----


def _generator(spec: TritonSpec, served: Served, middle: Middle, name: str) -> Repository:
    if not (spec.stream or spec.ensemble):
        raise UsageError("neither the ensemble nor the streaming model is asked for", "leave one of them in")
    parts = _Parts(name if spec.stream else f"{name}_ensemble")
    engine = f"{name}_engine" if middle != "python" else ""
    common = {
        "eos_token_ids": json.dumps(list(served.eos)),
        "max_total_tokens": str(served.max_tokens),
        "head_dim": str(served.head_dim),
        "threads": str(spec.threads or 1),
        "defaults": json.dumps({"max_tokens": spec.max_tokens}),
        **({"engine_model": engine, "engine_inputs": json.dumps([t.name for t in served.inputs])} if engine else {}),
    }
    if engine:
        parts.engine(engine, spec, served, middle)
    if spec.stream:
        parts.python(name, "stream.py", _stream_config(name), {**common, "max_rows": str(spec.max_batch_size)})
        parts.models[name] = "text to text, a token at a time: /generate and /generate_stream"
    if spec.ensemble:
        _text_ensemble(parts, spec, served, name, common)
    parts.assets(served, with_graph=not engine)
    return parts.done()


def _text_ensemble(parts: _Parts, spec: TritonSpec, served: Served, name: str, common: dict[str, str]) -> None:
    ids = [("input_ids", "TYPE_INT64", [-1]), ("attention_mask", "TYPE_INT64", [-1])]
    step = {"padding": "left", "max_tokens_in": str(served.max_tokens - 1)}
    parts.python(
        f"{name}_tokenizer",
        "tokenizer.py",
        _batched(spec, f"{name}_tokenizer", [_text("text")], _tensors(ids), wait=False),
        step,
    )
    inputs = [{**each, "allow_ragged_batch": True} for each in _tensors(ids)]
    generate = _batched(
        spec, f"{name}_generate", inputs, _tensors([("output_ids", "TYPE_INT64", [-1])]), count=spec.instances
    )
    parts.python(f"{name}_generate", "generate.py", generate, common)
    last = _batched(
        spec, f"{name}_postprocessor", _tensors([("output_ids", "TYPE_INT64", [-1])]), [_text("output")], wait=False
    )
    parts.python(f"{name}_postprocessor", "postprocessor.py", last, {"defaults": common["defaults"]})
    steps = [
        _step(f"{name}_tokenizer", {"text": "text"}, {"input_ids": "ids", "attention_mask": "mask"}),
        _step(f"{name}_generate", {"input_ids": "ids", "attention_mask": "mask"}, {"output_ids": "new_ids"}),
        _step(f"{name}_postprocessor", {"output_ids": "new_ids"}, {"output": "output"}),
    ]
    parts.ensemble(f"{name}_ensemble", spec, [_text("text")], [_text("output")], steps)
    parts.models[f"{name}_ensemble"] = "text to text in one answer, batched: /infer and /generate"


def _stream_config(name: str) -> dict[str, Any]:
    options = [("stream", "TYPE_BOOL"), ("max_tokens", "TYPE_INT32"), ("temperature", "TYPE_FP32"), ("top_p", "TYPE_FP32"),
               ("top_k", "TYPE_INT32"), ("random_seed", "TYPE_INT64"), ("presence_penalty", "TYPE_FP32"),
               ("frequency_penalty", "TYPE_FP32"), ("sampling_parameters", "TYPE_STRING")]  # fmt: skip
    # One of the two must be there; the model sees to that.
    texts = [{**_text(each), "optional": True} for each in ("text_input", "messages")]
    inputs = [*texts, *({**each, "optional": True} for each in _tensors((n, t, [1]) for n, t in options))]
    inputs.append({"name": "stop", "data_type": Word("TYPE_STRING"), "dims": [-1], "optional": True})
    outputs = [_text("text_output"), _text("finish_reason"),
               *_tensors([("num_input_tokens", "TYPE_UINT32", [1]), ("num_output_tokens", "TYPE_UINT32", [1])])]  # fmt: skip
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,  # it batches by itself, between any two tokens
        "model_transaction_policy": {"decoupled": True},
        "input": inputs,
        "output": outputs,
        "instance_group": [{"kind": Word("KIND_CPU"), "count": 1}],
    }


# ---- encoders ----


def _encoder(spec: TritonSpec, served: Served, middle: Middle, name: str) -> Repository:
    parts = _Parts(name)
    engine = f"{name}_engine"
    parts.engine(engine, spec, served, middle)
    ids = [("input_ids", "TYPE_INT64", [-1]), ("attention_mask", "TYPE_INT64", [-1])]
    step = {"padding": "right", "truncate": "true", "max_tokens_in": str(served.max_tokens), "pad_to": str(PAD_TO)}
    first = _batched(spec, f"{name}_tokenizer", [_text("text_input")], _tensors(ids), wait=False)
    parts.python(f"{name}_tokenizer", "tokenizer.py", first, step)
    wanted = {"input_ids": "ids", "attention_mask": "mask"}
    if served.task == "embedding":
        width = _last_dim(served, "sentence_embedding")
        steps = [
            _step(f"{name}_tokenizer", {"text_input": "text_input"}, {"input_ids": "ids", "attention_mask": "mask"}),
            _step(engine, wanted, {"sentence_embedding": "embedding"}),
        ]
        kind = next((_TYPES[t.dtype] for t in served.outputs if t.name == "sentence_embedding"), "TYPE_FP32")
        parts.ensemble(name, spec, [_text("text_input")], _tensors([("embedding", kind, [width])]), steps)
        parts.models[name] = "text to embedding: /infer"
    else:
        width = _last_dim(served, "logits")
        outputs = [_text("label"), *_tensors([("score", "TYPE_FP32", [1]), ("scores", "TYPE_FP32", [width])])]
        kind = next((_TYPES[t.dtype] for t in served.outputs if t.name == "logits"), "TYPE_FP32")
        last = _batched(spec, f"{name}_labels", _tensors([("logits", kind, [width])]), outputs, wait=False)
        parts.python(f"{name}_labels", "labels.py", last, {})
        steps = [
            _step(f"{name}_tokenizer", {"text_input": "text_input"}, {"input_ids": "ids", "attention_mask": "mask"}),
            _step(engine, wanted, {"logits": "logits"}),
            _step(f"{name}_labels", {"logits": "logits"}, {n: n for n in ("label", "score", "scores")}),
        ]
        parts.ensemble(name, spec, [_text("text_input")], outputs, steps)
        parts.models[name] = "text to label: /infer"
    parts.assets(served, with_graph=middle == "python")
    return parts.done()


def _last_dim(served: Served, output: str) -> int:
    dims = next((tensor.dims for tensor in served.outputs if tensor.name == output), None) or (-1,)
    return dims[-1] if isinstance(dims[-1], int) else -1


# ---- pieces ----


class _Parts:
    """Collects the files of one repository."""

    def __init__(self, owner: str) -> None:
        self.texts: dict[str, str] = {}
        self.links: dict[str, Path] = {}
        self.directories: list[str] = []
        self.models: dict[str, str] = {}
        # Beside the version directories of the model that clients call; the server ignores it.
        self._assets = f"{owner}/{ASSETS}"

    def python(self, model: str, program: str, config: dict[str, Any], parameters: Mapping[str, str]) -> None:
        """A model of the Python backend, with the files that it imports."""
        values = {"assets": self._assets, **parameters}
        listed = [{"key": key, "value": {"string_value": value}} for key, value in values.items()]
        self.texts[f"{model}/config.pbtxt"] = write({**config, "parameters": listed})
        self.links[f"{model}/1/model.py"] = RUNTIME / program
        self.links |= {f"{model}/1/{file}": RUNTIME / file for file in SHARED}

    def engine(self, model: str, spec: TritonSpec, served: Served, middle: Middle) -> None:
        """The graph as a model of its own."""
        batch = min(spec.max_batch_size, served.max_batch)
        inputs, outputs = [_graph_tensor(t) for t in served.inputs], [_graph_tensor(t) for t in served.outputs]
        if served.task in ("embedding", "classification"):
            # One vector or one row of scores is asked for; the vectors of all tokens would only be carried around.
            outputs = [each for each in outputs if each["name"] != "last_hidden_state"]
        if middle == "python":
            inputs = [{**each, "allow_ragged_batch": True} for each in inputs if each["name"] != "token_type_ids"]
            padding = "left" if served.task.startswith("causal-lm") else "right"
            config = _batched(spec, model, inputs, outputs, count=spec.instances)
            self.python(model, "engine.py", config, {"threads": str(spec.threads or 1), "padding": padding})
            return
        device = Word("KIND_GPU") if middle == "tensorrt" else Word("KIND_AUTO")
        config = _batched(spec, model, inputs, outputs, count=spec.instances, batch=batch)
        group: dict[str, Any] = {"kind": device, "count": spec.instances}
        if middle == "tensorrt" and served.plan_profiles > 1:  # the server chooses among them by the request's shape
            group["profile"] = [str(number) for number in range(served.plan_profiles)]
        config |= {"backend": middle, "instance_group": [group]}
        self.texts[f"{model}/config.pbtxt"] = write(config)
        # The engine's record goes with it: it says where the engine may be loaded.
        prefix = "model.plan" if middle == "tensorrt" else "model.onnx"
        wanted = tuple(file for file in served.files if file.startswith(prefix))
        self.links |= {f"{model}/1/{file}": served.directory / file for file in wanted}

    def ensemble(
        self,
        model: str,
        spec: TritonSpec,
        inputs: list[dict[str, Any]],
        outputs: list[dict[str, Any]],
        steps: list[dict[str, Any]],
    ) -> None:
        """An ensemble and its empty version directory."""
        config = {"name": model, "platform": "ensemble", "max_batch_size": spec.max_batch_size, "input": inputs,
                  "output": outputs, "ensemble_scheduling": {"step": steps}}  # fmt: skip
        self.texts[f"{model}/config.pbtxt"] = write(config)
        self.directories.append(f"{model}/1")

    def assets(self, served: Served, *, with_graph: bool) -> None:
        """The files that the Python models read."""
        for file in served.files:
            is_graph = file.startswith("model.onnx")
            if file in _NOT_SERVED or file == "model.plan" or (is_graph and not with_graph):
                continue
            self.links[f"{self._assets}/{file}"] = served.directory / file

    def done(self) -> Repository:
        """The finished value."""
        return Repository(self.texts, self.links, tuple(self.directories), self.models)


def _batched(
    spec: TritonSpec, model: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]],
    *, wait: bool = True, count: int = 1, batch: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A batching model. Only the step that computes waits for company; the others take what is there."""
    most = batch or spec.max_batch_size
    batching: dict[str, Any] = {"max_queue_delay_microseconds": round(spec.queue_delay_ms * 1000) if wait else 0}
    preferred = sorted({size for size in spec.preferred if 0 < size <= most})
    if wait and preferred:
        batching = {"preferred_batch_size": preferred, **batching}
    return {
        "name": model,
        "backend": "python",
        "max_batch_size": most,
        "input": inputs,
        "output": outputs,
        "instance_group": [{"kind": Word("KIND_CPU"), "count": count}],
        "dynamic_batching": batching,
    }


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }


def _text(name: str) -> dict[str, Any]:
    return {"name": name, "data_type": Word("TYPE_STRING"), "dims": [1]}


def _tensors(rows: Iterable[tuple[str, str, list[int]]]) -> list[dict[str, Any]]:
    return [{"name": name, "data_type": Word(kind), "dims": dims} for name, kind, dims in rows]


def _graph_tensor(tensor: OnnxTensor) -> dict[str, Any]:
    """A tensor of the graph without its batch dimension, which Triton adds itself."""
    dims = [dim if isinstance(dim, int) else -1 for dim in (tensor.dims or ("", -1))[1:]]
    return {"name": tensor.name, "data_type": Word(_TYPES.get(tensor.dtype, "TYPE_FP32")), "dims": dims}


# ---- acting ----


def write_repository(repository: Repository, directory: Path) -> None:
    """Write a repository whole: through ``NAME.partial`` and a rename, replacing an older one of ours.

    Raises:
        UsageError: The directory holds something else.
    """
    if directory.exists() and not (directory / MARKER).is_file() and any(directory.iterdir()):
        raise UsageError(f"{directory} holds files that llmops did not write", "give an empty directory with --repository, "
                         "or leave the model out to serve it as it is")  # fmt: skip
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name in repository.directories:
            (partial / name).mkdir(parents=True)
        for name, text in repository.texts.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
        for name, source in repository.links.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            _place(source, partial / name)
        (partial / MARKER).write_text(
            json.dumps({"models": dict(repository.models)}, indent=2) + "\n", encoding="utf-8"
        )
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


MARKER: Final = ".llmops-repository.json"


def _place(source: Path, target: Path) -> None:
    """A hard link for large files, so that a repository costs no space; a copy elsewhere."""
    if source.suffix != ".py":
        try:
            os.link(source.resolve(), target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
