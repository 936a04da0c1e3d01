"""Continuous batching over one graph: rows join and leave between any two tokens, with and without a KV cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from llm_sampling import Row

KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OrtGraph:
    """An ONNX graph in this process."""

    def __init__(self, path: str, threads: int, provider: str = "CPU") -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Waiting threads would take the cores from the other models of this server.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = f"{provider}ExecutionProvider"
        self._session = onnxruntime.InferenceSession(path, options, providers=[wanted])
        if self._session.get_providers()[0] != wanted:
            raise RuntimeError(f"ONNX Runtime fell back from {wanted} to {self._session.get_providers()[0]}")
        self.inputs = {each.name: each for each in self._session.get_inputs()}
        self.outputs = [each.name for each in self._session.get_outputs()]
        self.cached = any(name.startswith("past_key_values.") for name in self.inputs)

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        """All outputs by name; arrays that the graph does not take are left out."""
        done = self._session.run(self.outputs, {name: value for name, value in feed.items() if name in self.inputs})
        return dict(zip(self.outputs, done, strict=True))

    def empty_past(self, rows: int, head_dim: int) -> dict[str, Any]:
        """A past of length 0."""
        return {
            name: np.zeros(
                (rows, int(each.shape[1]), 0, each.shape[3] if isinstance(each.shape[3], int) else head_dim),
                KINDS[each.type],
            )
            for name, each in self.inputs.items()
            if name.startswith("past_key_values.")
        }


class TritonGraph:
    """A graph that another model of this server holds: a TensorRT engine, or ONNX Runtime's backend."""

    cached = False

    def __init__(self, model: str, inputs: list[str]) -> None:
        self._model, self._inputs = model, inputs

    def run(self, feed: dict[str, Any]) -> dict[str, Any]:
        """Ask the other model for its logits."""
        import triton_python_backend_utils as pb

        tensors = [pb.Tensor(name, feed[name]) for name in self._inputs]
        request = pb.InferenceRequest(model_name=self._model, requested_output_names=["logits"], inputs=tensors)
        response = request.exec()
        if response.has_error():
            raise RuntimeError(response.error().message())
        logits = pb.get_output_tensor_by_name(response, "logits")
        if not logits.is_cpu():
            import torch  # the server moves what it can; an engine's output may stay on the GPU

            return {"logits": torch.from_dlpack(logits.to_dlpack()).float().cpu().numpy()}
        return {"logits": logits.as_numpy()}


def left_padded(rows: list[list[int]]) -> tuple[Any, Any]:
    """Ids and mask of rows of different lengths."""
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for at, row in enumerate(rows):
        ids[at, width - len(row) :] = row
        mask[at, width - len(row) :] = 1
    return ids, mask


def positions(mask: Any) -> Any:
    """Position of each token among the unmasked ones."""
    return np.maximum(mask.cumsum(-1) - 1, 0)


class Decoder:
    """Rows that are decoded together."""

    def __init__(self, graph: Any, head_dim: int = 0) -> None:
        self._graph, self._head_dim = graph, head_dim
        self.rows: list[Row] = []
        self._waiting: list[Row] = []
        self._past: dict[str, Any] = {}
        self._mask: Any = None

    def add(self, row: Row) -> None:
        """The row joins with the next step."""
        self._waiting.append(row)

    @property
    def busy(self) -> bool:
        """Whether any row is not finished."""
        return bool(self.rows or self._waiting)

    @property
    def size(self) -> int:
        """Rows that are decoded or about to be."""
        return len(self.rows) + len(self._waiting)

    def step(self) -> list[Row]:
        """One more token for every row; returns the rows it gave one to. Finished rows leave."""
        touched = self._step_cached() if self._graph.cached else self._step_plain()
        self.drop([row for row in self.rows if row.finish is not None])
        return touched

    def drop(self, gone: list[Row]) -> None:
        """Take rows out, finished or given up by their clients."""
        self._waiting = [row for row in self._waiting if not any(row is each for each in gone)]
        keep = [at for at, row in enumerate(self.rows) if not any(row is each for each in gone)]
        if len(keep) == len(self.rows):
            return
        self.rows = [self.rows[at] for at in keep]
        if not self._past:
            return
        if not keep:
            self._past, self._mask = {}, None
            return
        mask = self._mask[keep]
        start = int(mask.any(0).argmax())  # columns that no row uses any more
        self._mask = mask[:, start:]
        self._past = {name: value[keep][:, :, start:] for name, value in self._past.items()}

    def _step_plain(self) -> list[Row]:
        self.rows += self._waiting
        self._waiting = []
        ids, mask = left_padded([row.prompt + row.tokens for row in self.rows])
        logits = self._graph.run({"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)})["logits"]
        for row, values in zip(self.rows, logits[:, -1], strict=True):
            row.take(values)
        return list(self.rows)

    def _step_cached(self) -> list[Row]:
        touched = list(self.rows)
        if self.rows:
            ids = np.array([[row.tokens[-1]] for row in self.rows], np.int64)
            self._mask = np.concatenate([self._mask, np.ones((len(self.rows), 1), np.int64)], 1)
            logits, self._past = self._run(ids, self._mask, self._past)
            for row, values in zip(self.rows, logits[:, -1], strict=True):
                row.take(values)
        if self._waiting:
            joined, self._waiting = self._waiting, []
            ids, mask = left_padded([row.prompt for row in joined])
            logits, past = self._run(ids, mask, self._graph.empty_past(len(joined), self._head_dim))
            for row, values in zip(joined, logits[:, -1], strict=True):
                row.take(values)
            self._join(joined, mask, past)
            touched += joined
        return touched

    def _run(self, ids: Any, mask: Any, past: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        place = positions(mask)[:, -ids.shape[1] :]
        done = self._graph.run({"input_ids": ids, "attention_mask": mask, "position_ids": place, **past})
        kept = {n.replace("present.", "past_key_values."): v for n, v in done.items() if n.startswith("present.")}
        return done["logits"], kept

    def _join(self, joined: list[Row], mask: Any, past: dict[str, Any]) -> None:
        self.rows += joined
        if self._mask is None:
            self._mask, self._past = mask, past
            return
        width = max(self._mask.shape[1], mask.shape[1])
        old, new = width - self._mask.shape[1], width - mask.shape[1]
        self._mask = np.concatenate([np.pad(self._mask, ((0, 0), (old, 0))), np.pad(mask, ((0, 0), (new, 0)))])
        self._past = {
            name: np.concatenate([_pad(value, old), _pad(past[name], new)]) for name, value in self._past.items()
        }


def _pad(value: Any, columns: int) -> Any:
    return np.pad(value, ((0, 0), (0, 0), (columns, 0), (0, 0))) if columns else value
