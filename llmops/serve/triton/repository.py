"""Which models make up the repository of an exported model. Pure; ``parts`` has the pieces, ``placing`` writes them."""

from __future__ import annotations

import json
from typing import Any, Final

from llmops.errors import UsageError
from llmops.serve.triton.first import EMBEDDING, ENSEMBLE, LABEL, STREAM, VLLM
from llmops.serve.triton.parts import TYPES, Parts, Repository, batched, step_of, tensors, text_tensor
from llmops.serve.triton.pbtxt_write import Word, write
from llmops.serve.triton.spec import Middle, Served, TritonSpec

# Encoders pad to multiples of this, so that requests of similar lengths share a batch in backends that want equal shapes.
PAD_TO: Final = 16


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
    return Repository(texts, {}, (), {name: VLLM})


# ---- text generation ----


def _generator(spec: TritonSpec, served: Served, middle: Middle, name: str) -> Repository:
    if not (spec.stream or spec.ensemble):
        raise UsageError("neither the ensemble nor the streaming model is asked for", "leave one of them in")
    parts = Parts(name if spec.stream else f"{name}_ensemble")
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
        parts.models[name] = STREAM
    if spec.ensemble:
        _text_ensemble(parts, spec, served, name, common)
    parts.assets(served, with_graph=not engine)
    return parts.done()


def _text_ensemble(parts: Parts, spec: TritonSpec, served: Served, name: str, common: dict[str, str]) -> None:
    ids = [("input_ids", "TYPE_INT64", [-1]), ("attention_mask", "TYPE_INT64", [-1])]
    step = {"padding": "left", "max_tokens_in": str(served.max_tokens - 1)}
    parts.python(
        f"{name}_tokenizer",
        "tokenizer.py",
        batched(spec, f"{name}_tokenizer", [text_tensor("text")], tensors(ids), wait=False),
        step,
    )
    inputs = [{**each, "allow_ragged_batch": True} for each in tensors(ids)]
    generate = batched(
        spec, f"{name}_generate", inputs, tensors([("output_ids", "TYPE_INT64", [-1])]), count=spec.instances
    )
    parts.python(f"{name}_generate", "generate.py", generate, common)
    last = batched(
        spec,
        f"{name}_postprocessor",
        tensors([("output_ids", "TYPE_INT64", [-1])]),
        [text_tensor("output")],
        wait=False,
    )
    parts.python(f"{name}_postprocessor", "postprocessor.py", last, {"defaults": common["defaults"]})
    steps = [
        step_of(f"{name}_tokenizer", {"text": "text"}, {"input_ids": "ids", "attention_mask": "mask"}),
        step_of(f"{name}_generate", {"input_ids": "ids", "attention_mask": "mask"}, {"output_ids": "new_ids"}),
        step_of(f"{name}_postprocessor", {"output_ids": "new_ids"}, {"output": "output"}),
    ]
    parts.ensemble(f"{name}_ensemble", spec, [text_tensor("text")], [text_tensor("output")], steps)
    parts.models[f"{name}_ensemble"] = ENSEMBLE


def _stream_config(name: str) -> dict[str, Any]:
    options = [("stream", "TYPE_BOOL"), ("max_tokens", "TYPE_INT32"), ("temperature", "TYPE_FP32"), ("top_p", "TYPE_FP32"),
               ("top_k", "TYPE_INT32"), ("random_seed", "TYPE_INT64"), ("presence_penalty", "TYPE_FP32"),
               ("frequency_penalty", "TYPE_FP32"), ("sampling_parameters", "TYPE_STRING")]  # fmt: skip
    # One of the two must be there; the model sees to that.
    texts = [{**text_tensor(each), "optional": True} for each in ("text_input", "messages")]
    inputs = [*texts, *({**each, "optional": True} for each in tensors((n, t, [1]) for n, t in options))]
    inputs.append({"name": "stop", "data_type": Word("TYPE_STRING"), "dims": [-1], "optional": True})
    outputs = [text_tensor("text_output"), text_tensor("finish_reason"),
               *tensors([("num_input_tokens", "TYPE_UINT32", [1]), ("num_output_tokens", "TYPE_UINT32", [1])])]  # fmt: skip
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
    parts = Parts(name)
    engine = f"{name}_engine"
    parts.engine(engine, spec, served, middle)
    ids = [("input_ids", "TYPE_INT64", [-1]), ("attention_mask", "TYPE_INT64", [-1])]
    step = {"padding": "right", "truncate": "true", "max_tokens_in": str(served.max_tokens), "pad_to": str(PAD_TO)}
    first = batched(spec, f"{name}_tokenizer", [text_tensor("text_input")], tensors(ids), wait=False)
    parts.python(f"{name}_tokenizer", "tokenizer.py", first, step)
    wanted = {"input_ids": "ids", "attention_mask": "mask"}
    if served.task == "embedding":
        width = _last_dim(served, "sentence_embedding")
        steps = [
            step_of(f"{name}_tokenizer", {"text_input": "text_input"}, {"input_ids": "ids", "attention_mask": "mask"}),
            step_of(engine, wanted, {"sentence_embedding": "embedding"}),
        ]
        kind = next((TYPES[t.dtype] for t in served.outputs if t.name == "sentence_embedding"), "TYPE_FP32")
        parts.ensemble(name, spec, [text_tensor("text_input")], tensors([("embedding", kind, [width])]), steps)
        parts.models[name] = EMBEDDING
    else:
        width = _last_dim(served, "logits")
        outputs = [text_tensor("label"), *tensors([("score", "TYPE_FP32", [1]), ("scores", "TYPE_FP32", [width])])]
        kind = next((TYPES[t.dtype] for t in served.outputs if t.name == "logits"), "TYPE_FP32")
        last = batched(spec, f"{name}_labels", tensors([("logits", kind, [width])]), outputs, wait=False)
        parts.python(f"{name}_labels", "labels.py", last, {})
        steps = [
            step_of(f"{name}_tokenizer", {"text_input": "text_input"}, {"input_ids": "ids", "attention_mask": "mask"}),
            step_of(engine, wanted, {"logits": "logits"}),
            step_of(f"{name}_labels", {"logits": "logits"}, {n: n for n in ("label", "score", "scores")}),
        ]
        parts.ensemble(name, spec, [text_tensor("text_input")], outputs, steps)
        parts.models[name] = LABEL
    parts.assets(served, with_graph=middle == "python")
    return parts.done()


def _last_dim(served: Served, output: str) -> int:
    dims = next((tensor.dims for tensor in served.outputs if tensor.name == output), None) or (-1,)
    return dims[-1] if isinstance(dims[-1], int) else -1
