"""Does the graph compute what the checkpoint computes? Runs in a process of its own, after the export has freed its memory.

The reference is the checkpoint in float32, called through transformers directly and not through the exported wrapper, so
that an error of the wrapper shows. It runs first and is freed before ONNX Runtime loads the graph.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmops.errors import MachineError, OutsideError
from llmops.export.onnx.compare import compare, summary
from llmops.export.onnx.convert import FILE, has_segments, load, one_line, versions
from llmops.export.onnx.plan import cases
from llmops.export.onnx.providers import require_provider
from llmops.extras import require
from llmops.progress import Progress

GREEDY_STEPS: Final = 8


def work(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Compare the export in ``job["out"]`` with the checkpoint in ``job["model"]``.

    Raises:
        MachineError: A package or the execution provider is missing.
        OutsideError: ONNX's checker or ONNX Runtime refuses the graph.
    """
    torch = require("torch", "checking an export")
    onnx = require("onnx", "checking an export")
    require("onnxruntime", "checking an export")
    torch.set_num_threads(int(job["threads"]))
    path = Path(job["out"]) / FILE
    progress.phase("checking the graph")
    if job["format"] == "onnx":  # the other builder uses operators that only ONNX Runtime knows
        try:
            onnx.checker.check_model(str(path))
        except Exception as error:
            raise OutsideError(f"ONNX's checker refuses {path}: {one_line(error)}", "export it again") from error
    batches = make_batches(job)
    progress.phase("computing the reference with PyTorch")
    began = time.monotonic()
    reference = _reference(torch, job, batches, progress)
    torch_s = time.monotonic() - began
    gc.collect()
    progress.phase("computing the same with ONNX Runtime")
    began = time.monotonic()
    session = open_session(widened(path, job), job["provider"], int(job["threads"]))
    rows, greedy = _measure(session, job, batches, reference, progress)
    return {
        "cases": rows,
        "greedy": greedy,
        **summary(rows, greedy),
        "provider": session.get_providers()[0],
        "torch_s": round(torch_s, 2),
        "onnxruntime_s": round(time.monotonic() - began, 2),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": versions("torch", "transformers", "onnx", "onnxruntime"),
    }


def make_batches(job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Random token ids from a fixed seed, padded on the left (decoders) or on the right (encoders)."""
    import numpy as np

    random = np.random.default_rng(0)
    left = str(job["task"]).startswith("causal-lm")
    batches = []
    for lengths in cases(tuple(job["batch"]), tuple(job["seq"]), job.get("window"), padding=job["format"] == "onnx"):
        width = max(lengths)
        ids = random.integers(0, max(2, int(job["vocab"])), size=(len(lengths), width), dtype=np.int64)
        mask = np.zeros((len(lengths), width), np.int64)
        for row, length in enumerate(lengths):
            mask[row, width - length :] = 1 if left else 0
            mask[row, :length] = mask[row, :length] if left else 1
        batches.append({"lengths": lengths, "input_ids": ids, "attention_mask": mask})
    return batches


def positions(mask: Any) -> Any:
    """Position of each token among the unmasked ones of its row."""
    import numpy as np

    return np.maximum(mask.cumsum(-1) - 1, 0)


# ---- the reference ----


def _reference(torch: Any, job: Mapping[str, Any], batches: list[dict[str, Any]], progress: Progress) -> dict[str, Any]:
    model = load(job["model"], job["task"], "float32")
    outputs = []
    with torch.no_grad():
        for index, batch in enumerate(batches):
            outputs.append(_torch_output(torch, model, job, batch))
            progress.update(index + 1, len(batches))
        tokens = [_torch_greedy(torch, model, batch) for batch in _prompts(batches)] if _cached(job) else []
        segments = job["task"] == "classification" and has_segments(model.config)
    return {"outputs": outputs, "greedy": tokens, "segments": segments}


def _torch_output(torch: Any, model: Any, job: Mapping[str, Any], batch: dict[str, Any]) -> Any:
    ids, mask = torch.from_numpy(batch["input_ids"]), torch.from_numpy(batch["attention_mask"])
    if job["task"] == "classification":
        return model(input_ids=ids, attention_mask=mask).logits.numpy()
    if job["task"] == "embedding":
        from llmops.export.onnx.wrappers import pool

        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        return pool(hidden, mask, job["pooling"], job["normalize"]).numpy()
    return _torch_logits(model, ids, mask).numpy()


def _torch_logits(model: Any, ids: Any, mask: Any) -> Any:
    place = (mask.cumsum(-1) - 1).clamp(min=0)
    return model(input_ids=ids, attention_mask=mask, position_ids=place, use_cache=False).logits


def _torch_greedy(torch: Any, model: Any, batch: dict[str, Any]) -> Any:
    """Each step computes the whole text again: slow, and independent of any cache."""
    ids, mask = torch.from_numpy(batch["input_ids"]), torch.from_numpy(batch["attention_mask"])
    width = ids.shape[1]
    for _ in range(GREEDY_STEPS):
        best = _torch_logits(model, ids, mask)[:, -1:].argmax(-1)
        ids, mask = torch.cat([ids, best], 1), torch.cat([mask, torch.ones_like(best)], 1)
    return ids[:, width:].numpy()


def _cached(job: Mapping[str, Any]) -> bool:
    return bool(job["task"] == "causal-lm-cache")


def _prompts(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One plain prompt and one padded batch."""
    return [batches[1], batches[2]]


# ---- the graph ----


def widened(path: Path, job: Mapping[str, Any]) -> Path:
    """A float32 copy of a bfloat16 graph for the CPU, whose kernels do not know that type; other graphs as they are."""
    if job["dtype"] != "bfloat16" or not str(job["provider"]).upper().startswith("CPU"):
        return path
    from llmops.export.onnx.widen import widen

    return widen(path, Path(job["scratch"]))


def open_session(path: Path, provider: str, threads: int) -> Any:
    """An ONNX Runtime session on exactly the provider that was asked for.

    Raises:
        MachineError: ONNX Runtime does not have the provider, or fell back to another.
        OutsideError: It refuses the graph.
    """
    import onnxruntime

    wanted = require_provider(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[wanted])
    except Exception as error:
        raise OutsideError(
            f"ONNX Runtime cannot load {path}: {one_line(error)}", "llmops inspect " + str(path)
        ) from error
    if session.get_providers()[0] != wanted:
        raise MachineError(
            f"ONNX Runtime fell back from {wanted} to {session.get_providers()[0]}",
            "its driver or CUDA libraries are missing; --provider CPU checks on the CPU",
        )
    return session


def _measure(
    session: Any, job: Mapping[str, Any], batches: list[dict[str, Any]], reference: dict[str, Any], progress: Progress
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows = []
    for index, batch in enumerate(batches):
        want = reference["outputs"][index]
        reference["outputs"][index] = None
        got = _onnx_output(session, job, batch, segments=reference["segments"])
        rows.append({"lengths": list(batch["lengths"]), **compare(job["task"], want, got, batch["attention_mask"])})
        progress.update(index + 1, len(batches))
    greedy = []
    for batch, expected in zip(_prompts(batches), reference["greedy"], strict=False):
        tokens = _onnx_greedy(session, batch, job["head_dim"])
        greedy.append(
            {"lengths": list(batch["lengths"]), "steps": GREEDY_STEPS, "agree": bool((tokens == expected).all())}
        )
    return rows, greedy


def _onnx_output(session: Any, job: Mapping[str, Any], batch: dict[str, Any], *, segments: bool) -> Any:
    import numpy as np

    ids, mask = batch["input_ids"], batch["attention_mask"]
    feed = {"input_ids": ids, "attention_mask": mask}
    if job["task"] == "embedding":
        return session.run(["sentence_embedding"], feed)[0]
    if job["task"] == "classification":
        return session.run(["logits"], feed | ({"token_type_ids": np.zeros_like(ids)} if segments else {}))[0]
    if not _cached(job):
        return session.run(["logits"], feed | {"position_ids": positions(mask)})[0]
    # In two pieces, so that the second has a past: the split must not change the result.
    # The fused attention of the genai format takes several rows after a past only one token at a time.
    cut = ids.shape[1] // 2 if job["format"] == "onnx" else ids.shape[1] - 1
    first, past = (
        (None, empty_past(session, len(ids), job["head_dim"]))
        if cut == 0
        else _step(session, ids[:, :cut], mask[:, :cut], empty_past(session, len(ids), job["head_dim"]))
    )
    rest, _ = _step(session, ids[:, cut:], mask, past)
    return rest if first is None else np.concatenate([first, rest], 1)


def empty_past(session: Any, rows: int, head_dim: int) -> dict[str, Any]:
    """A past of length 0 for each layer, as the graph's own inputs describe it (``head_dim`` where they leave it open)."""
    import numpy as np

    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    return {
        each.name: np.zeros(
            (rows, each.shape[1], 0, each.shape[3] if isinstance(each.shape[3], int) else head_dim), kinds[each.type]
        )
        for each in session.get_inputs()
        if each.name.startswith("past_key_values.")
    }


def _step(session: Any, ids: Any, mask: Any, past: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Run the tokens ``ids`` after ``past``; ``mask`` covers both."""
    place = positions(mask)[:, -ids.shape[1] :]
    names = [each.name for each in session.get_outputs()]
    known = {each.name for each in session.get_inputs()}
    feed = {"input_ids": ids, "attention_mask": mask, "position_ids": place} | past
    done = session.run(names, {name: value for name, value in feed.items() if name in known})
    presents = {
        name.replace("present.", "past_key_values."): value for name, value in zip(names[1:], done[1:], strict=True)
    }
    return done[0], presents


def _onnx_greedy(session: Any, batch: dict[str, Any], head_dim: int) -> Any:
    import numpy as np

    ids, mask = batch["input_ids"], batch["attention_mask"]
    past, tokens = empty_past(session, len(ids), head_dim), []
    for _ in range(GREEDY_STEPS):
        logits, past = _step(session, ids, mask, past)
        ids = logits[:, -1:].argmax(-1).astype(np.int64)
        tokens.append(ids)
        mask = np.concatenate([mask, np.ones_like(ids)], 1)
    return np.concatenate(tokens, 1)
