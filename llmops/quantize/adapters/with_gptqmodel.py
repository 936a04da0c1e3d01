"""GPTQ through GPTQModel."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from .calibration import as_batches, prepare
from .job import Channel, device_peak_bytes, restore_config, seed_everything, versions
from .loading import check_shapes


class Layers:
    """GPTQModel's layer callback: reports each finished layer with the mean loss of its modules."""

    def __init__(self, channel: Channel, total: int) -> None:
        self._channel = channel
        self._total = total
        self._done: set[int] = set()
        self.log: list[dict[str, Any]] = []

    def layer_complete(self, layer_idx: int, submodule_finalized: bool) -> None:
        """Called twice a layer; only the second time are its weights final."""
        if not submodule_finalized or layer_idx in self._done:
            return
        self._done.add(layer_idx)
        self._channel.progress(len(self._done), self._total, self._loss(layer_idx))

    def _loss(self, layer: int) -> str:
        losses = [_number(row.get("loss")) for row in self.log if str(row.get("layer")) == str(layer)]
        known = [loss for loss in losses if loss is not None]
        return f"loss {sum(known) / len(known):.4f}" if known else ""


def main(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Quantise ``job["model"]`` into ``job["out"]``."""
    rows, tokenizer = prepare(job, channel)
    check_shapes(job["model"])
    channel.phase("Loading GPTQModel and the model")
    from gptqmodel import GPTQModel, QuantizeConfig

    seed_everything(job["seed"], job["threads"])
    began = time.monotonic()
    config = QuantizeConfig(
        bits=job["bits"],
        group_size=job["group_size"],
        desc_act=job["desc_act"],
        sym=True,
        device=job["device"],
        offload_to_disk_path=job["scratch"],
    )
    model = GPTQModel.load(job["model"], config)
    model.tokenizer = model.tokenizer or tokenizer
    watch = Layers(channel, job["layers"])
    model.layer_callback = watch
    loaded = time.monotonic()
    channel.phase(f"Quantising {job['layers']} layers to {job['bits']} bit")
    _share_log(watch)
    log = model.quantize(as_batches(rows), batch_size=1)
    done = time.monotonic()
    channel.phase("Writing the checkpoint")
    model.save(job["out"])
    restore_config(Path(job["model"]), Path(job["out"]))
    return {
        "versions": versions("gptqmodel", "torch", "transformers", "optimum"),
        "phases_s": {"load": loaded - began, "quantize": done - loaded, "save": time.monotonic() - done},
        "calibration": {"rows": len(rows), "tokens": sum(map(len, rows))},
        "losses": _losses(log),
        "device_peak_bytes": device_peak_bytes(job["device"]),
        "pid": os.getpid(),
    }


def _share_log(watch: Layers) -> None:
    """Let the callback see each module's loss as it is measured; without it progress has no losses, no more."""
    try:
        from gptqmodel.looper.loop_processor import LoopProcessor
    except ImportError:
        return
    original = LoopProcessor.log_new_row

    def log_new_row(self: Any, stat: dict[str, Any]) -> Any:
        watch.log.append(stat)
        return original(self, stat)

    LoopProcessor.log_new_row = log_new_row


def _losses(log: Any) -> list[dict[str, Any]]:
    rows: list[Any] = next(iter(log.values()), []) if isinstance(log, dict) else []
    return [
        {"layer": row.get("layer"), "module": row.get("module"), "loss": _number(row.get("loss"))}
        for row in rows
        if isinstance(row, dict)
    ]


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
