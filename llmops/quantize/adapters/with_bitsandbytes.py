"""NF4 and LLM.int8() through bitsandbytes, as transformers saves and reloads them."""

from __future__ import annotations

import logging
import time
from typing import Any

from .calibration import load_tokenizer
from .job import Channel, device_peak_bytes, seed_everything, versions
from .loading import check_shapes, load_model


def main(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Quantise ``job["model"]`` into ``job["out"]`` while loading it; needs no calibration."""
    quieten()
    channel.phase("Loading bitsandbytes and quantising the weights")
    tokenizer = load_tokenizer(job["model"])
    seed_everything(job["seed"], job["threads"])
    began = time.monotonic()
    check_shapes(job["model"])
    model = load_model(job["model"], job, quantization_config=quantization(job["method"]))
    loaded = time.monotonic()
    channel.phase("Writing the checkpoint")
    model.save_pretrained(job["out"])
    tokenizer.save_pretrained(job["out"])
    return {
        "versions": versions("bitsandbytes", "torch", "transformers", "accelerate"),
        "phases_s": {"quantize": loaded - began, "save": time.monotonic() - loaded},
        "device_peak_bytes": device_peak_bytes(job["device"]),
    }


def quantization(method: str) -> Any:
    """The configuration that transformers takes for the method."""
    import torch
    from transformers import BitsAndBytesConfig

    if method == "bnb-int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def quieten() -> None:
    """Silence what bitsandbytes warns of a cast at every single matrix multiplication of int8; the cast is what int8 does."""
    import warnings

    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
