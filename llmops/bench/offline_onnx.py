"""The adapter that runs an ONNX decoder: ``python -m llmops.bench.offline_onnx ORDER.json``.

Takes any causal language model with ``input_ids``; feeds ``past_key_values`` back where the graph has them, else runs the
whole sequence again each step, as such a graph must. Prints one JSON line of facts, then one a repeat.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from llmops import extras


def main() -> None:
    """Load once, then one unmeasured run and the repeats for each batch size."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    onnxruntime = extras.require("onnxruntime", "measuring with ONNX Runtime")
    path = Path(order["model"])
    file = path if path.is_file() else next(iter(sorted(path.rglob("*.onnx"))), path / "model.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=onnxruntime.get_available_providers())
    _say({"versions": {"onnxruntime": onnxruntime.__version__}, "device": ", ".join(session.get_providers())})
    rng = np.random.default_rng(order["seed"])
    for batch in order["batches"]:
        ids = rng.integers(10, 1000, (batch, order["input_tokens"]), dtype=np.int64)
        for number in range(order["repeats"] + 1):
            row = _generate(session, ids, order["output_tokens"])
            if number:
                _say({"batch": batch, "input_tokens": order["input_tokens"], **row})


def _generate(session: Any, prompt: Any, tokens: int) -> dict[str, Any]:
    inputs = {node.name: node for node in session.get_inputs()}
    outputs = [node.name for node in session.get_outputs()]
    past = {name: _empty(node, prompt.shape[0]) for name, node in inputs.items() if "past" in name}
    ids, length, at = prompt, prompt.shape[1], []
    sequence = prompt
    began = time.perf_counter()
    for _ in range(tokens):
        found = dict(zip(outputs, session.run(outputs, _feed(inputs, ids, length, past)), strict=True))
        following = found[outputs[0]][:, -1].argmax(-1).astype(np.int64)[:, None]
        at.append(time.perf_counter())
        sequence = np.concatenate([sequence, following], axis=1)
        length += 1
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
        ids = following if past else sequence
    return {
        "output_tokens": tokens,
        "first_ms": (at[0] - began) * 1000,
        "total_ms": (at[-1] - began) * 1000,
        "step_ms": [(b - a) * 1000 for a, b in itertools.pairwise(at)],
    }


def _feed(inputs: dict[str, Any], ids: Any, length: int, past: dict[str, Any]) -> dict[str, Any]:
    feed = {"input_ids": ids, **past}
    if "attention_mask" in inputs:
        feed["attention_mask"] = np.ones((ids.shape[0], length), dtype=np.int64)
    if "position_ids" in inputs:
        feed["position_ids"] = np.broadcast_to(np.arange(length - ids.shape[1], length, dtype=np.int64), ids.shape)
    if "use_cache_branch" in inputs:
        feed["use_cache_branch"] = np.array([any(value.shape[2] for value in past.values())])
    return feed


def _empty(node: Any, batch: int) -> Any:
    """A cache of no tokens: batch first, the one other symbolic dimension (its length) is 0."""
    shape = [batch, *(size if isinstance(size, int) else 0 for size in node.shape[1:])]
    return np.zeros(shape, dtype=np.float16 if "float16" in node.type else np.float32)


def _say(row: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
