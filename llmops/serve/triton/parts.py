"""The pieces of a generated model repository: Python models, the graph, ensembles, and the files beside them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmops.checkpoint.onnx_facts import OnnxTensor
from llmops.serve.triton.pbtxt_write import Word, write
from llmops.serve.triton.spec import Middle, Served, TritonSpec

RUNTIME: Final = Path(__file__).with_name("runtime")
SHARED: Final = ("llm_model.py", "llm_decoder.py", "llm_sampling.py", "llm_chat.py")
ASSETS: Final = "assets"
TYPES: Final = {
    "FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "BFLOAT16": "TYPE_BF16", "DOUBLE": "TYPE_FP64", "INT64": "TYPE_INT64",
    "INT32": "TYPE_INT32", "BOOL": "TYPE_BOOL", "STRING": "TYPE_STRING",
}  # fmt: skip
_NOT_SERVED: Final = ("export.json", "model.plan.json")


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


class Parts:
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
        inputs, outputs = [graph_tensor(t) for t in served.inputs], [graph_tensor(t) for t in served.outputs]
        if served.task in ("embedding", "classification"):
            # One vector or one row of scores is asked for; the vectors of all tokens would only be carried around.
            outputs = [each for each in outputs if each["name"] != "last_hidden_state"]
        if middle == "python":
            inputs = [{**each, "allow_ragged_batch": True} for each in inputs if each["name"] != "token_type_ids"]
            padding = "left" if served.task.startswith("causal-lm") else "right"
            config = batched(spec, model, inputs, outputs, count=spec.instances)
            self.python(model, "engine.py", config, {"threads": str(spec.threads or 1), "padding": padding})
            return
        device = Word("KIND_GPU") if middle == "tensorrt" else Word("KIND_AUTO")
        config = batched(spec, model, inputs, outputs, count=spec.instances, batch=batch)
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


def batched(
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


def step_of(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }


def text_tensor(name: str) -> dict[str, Any]:
    return {"name": name, "data_type": Word("TYPE_STRING"), "dims": [1]}


def tensors(rows: Iterable[tuple[str, str, list[int]]]) -> list[dict[str, Any]]:
    return [{"name": name, "data_type": Word(kind), "dims": dims} for name, kind, dims in rows]


def graph_tensor(tensor: OnnxTensor) -> dict[str, Any]:
    """A tensor of the graph without its batch dimension, which Triton adds itself."""
    dims = [dim if isinstance(dim, int) else -1 for dim in (tensor.dims or ("", -1))[1:]]
    return {"name": tensor.name, "data_type": Word(TYPES.get(tensor.dtype, "TYPE_FP32")), "dims": dims}
