"""GPTQ, AWQ, int8 and float8 through llm-compressor, in the compressed-tensors format of vLLM."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from .calibration import load_tokenizer, prepare
from .job import Channel, device_peak_bytes, seed_everything, versions
from .loading import load_model

_STEP = re.compile(r"\((\d+)/(\d+)\): (\w+)")


def main(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Quantise ``job["model"]`` into ``job["out"]``."""
    rows: list[list[int]] = []
    if "calibration" in job:
        rows, tokenizer = prepare(job, channel)
    else:
        tokenizer = load_tokenizer(job["model"])
    channel.phase("Loading llm-compressor and the model")
    from llmcompressor import oneshot

    seed_everything(job["seed"], job["threads"])
    began = time.monotonic()
    model = load_model(job["model"], job)
    loaded = time.monotonic()
    channel.phase(f"Quantising {job['layers']} layers to {job['method']}, {job['bits']} bit")
    watch_progress(channel)
    if job["device"] == "cpu":
        never_pin()
    data: dict[str, Any] = {}
    if rows:
        data = {
            "dataset": dataset(rows),
            "max_seq_length": max(map(len, rows)),
            "num_calibration_samples": len(rows),
            "shuffle_calibration_samples": False,
        }
    oneshot(model=model, tokenizer=tokenizer, recipe=recipe(job), **data)
    done = time.monotonic()
    channel.phase("Writing the checkpoint")
    model.save_pretrained(job["out"], save_compressed=True)
    tokenizer.save_pretrained(job["out"])
    return {
        "versions": versions("llmcompressor", "compressed-tensors", "torch", "transformers"),
        "phases_s": {"load": loaded - began, "quantize": done - loaded, "save": time.monotonic() - done},
        "calibration": {"rows": len(rows), "tokens": sum(map(len, rows))},
        "device_peak_bytes": device_peak_bytes(job["device"]),
    }


def recipe(job: dict[str, Any]) -> list[Any]:
    """llm-compressor's modifiers for the method; the output head is never quantised."""
    from llmcompressor.modifiers.quantization import QuantizationModifier

    shared = {"targets": ["Linear"], "ignore": ["lm_head"]}
    if job["method"] == "w8a8":
        return [QuantizationModifier(scheme="W8A8", **shared)]
    if job["method"] == "fp8":
        return [QuantizationModifier(scheme="FP8_DYNAMIC", **shared)]
    groups = {"group_0": {"targets": ["Linear"], "weights": weights(job)}}
    if job["method"] == "awq":
        from llmcompressor.modifiers.transform.awq import AWQModifier

        return [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=["lm_head"])]
    from llmcompressor.modifiers.gptq import GPTQModifier

    order = "group" if job["desc_act"] else None
    return [GPTQModifier(config_groups=groups, ignore=["lm_head"], actorder=order)]


def weights(job: dict[str, Any]) -> dict[str, Any]:
    """How a weight matrix is stored: AWQ with zero points, GPTQ symmetric."""
    scheme: dict[str, Any] = {"num_bits": job["bits"], "type": "int", "symmetric": job["method"] != "awq"}
    if job["group_size"] == -1:
        return scheme | {"strategy": "channel"}
    return scheme | {"strategy": "group", "group_size": job["group_size"]}


def dataset(rows: list[list[int]]) -> Any:
    """Rows in the library's form."""
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})


def never_pin() -> None:
    """AWQ pins its cache for copies to an accelerator even where there is none, and dies of it."""
    from llmcompressor.pipelines.cache import IntermediatesCache

    IntermediatesCache.pin_memory = lambda *_arguments, **_named: None


def watch_progress(channel: Channel) -> None:
    """Report the layer that llm-compressor's own progress bar names; without that bar there is no progress, no more."""
    try:
        from llmcompressor.pipelines.sequential import pipeline
    except ImportError:
        return
    original: Callable[..., Any] = pipeline.tqdm

    def tqdm(iterable: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        step = _STEP.match(str(kwargs.get("desc", "")))
        if step and step[3] == "Calibrating":
            channel.progress(int(step[1]) - 1, int(step[2]))
        yield from original(iterable, *args, **kwargs)

    pipeline.tqdm = tqdm
