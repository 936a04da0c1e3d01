"""The adapter that runs an ONNX decoder: ``python -m llmops.bench.offline_onnx ORDER.json``.

Takes any causal language model with ``input_ids``; feeds its cache back where the graph has one, else runs the whole
sequence again each step, as such a graph must.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops import extras
from llmops.bench.offline_child import measure, run, say
from llmops.bench.offline_decoder import Roles

if TYPE_CHECKING:
    from llmops.bench.offline_decoder import Ids


class OnnxDecoder:
    """A session that keeps the cache of its sequence."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = {node.name: node for node in session.get_inputs()}
        self._outputs = [node.name for node in session.get_outputs()]
        self.roles = Roles.of(list(self._inputs), self._outputs)
        self._past: dict[str, Any] = {}

    @property
    def cached(self) -> bool:
        """Whether the graph keeps keys and values."""
        return bool(self.roles.past)

    @property
    def vocabulary(self) -> int | None:
        """The width of the scores."""
        width = next(node.shape[-1] for node in self._session.get_outputs() if node.name == self.roles.logits)
        return width if isinstance(width, int) else None

    def begin(self, batch: int) -> None:
        """Forget the last sequence."""
        self._past = {name: _empty(self._inputs[name], batch) for name in self.roles.past}

    def step(self, ids: Ids, length: int) -> Ids:
        """One run of the graph."""
        cached = any(value.shape[2] for value in self._past.values())
        feed = self.roles.feed(ids, length, cached=cached) | self._past
        found = dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        self._past = {name: found[present] for name, present in self.roles.past.items()}
        chosen: Ids = found[self.roles.logits][:, -1].argmax(-1).astype(np.int64)[:, None]
        return chosen


def work(order: dict[str, Any]) -> None:
    """Load once, then measure each batch size."""
    onnxruntime = extras.require("onnxruntime", "measuring with ONNX Runtime")
    path = Path(order["model"])
    file = path if path.is_file() else next(iter(sorted(path.rglob("*.onnx"))), path / "model.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=onnxruntime.get_available_providers())
    say({"versions": {"onnxruntime": onnxruntime.__version__}, "device": ", ".join(session.get_providers())})
    measure(OnnxDecoder(session), order, order["batches"] or (1, 2, 4))


def _empty(node: Any, batch: int) -> Any:
    """A cache of no tokens: batch first, the one other symbolic dimension (its length) is 0."""
    shape = [batch, *(size if isinstance(size, int) else 0 for size in node.shape[1:])]
    return np.zeros(shape, dtype=np.float16 if "float16" in node.type else np.float32)


if __name__ == "__main__":
    run(work)
