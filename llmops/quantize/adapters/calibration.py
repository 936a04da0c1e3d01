"""Calibration rows for the engines that need them, counted before the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .job import Channel, RefusedError
from .texts import read_documents, rows


def prepare(job: dict[str, Any], channel: Channel) -> tuple[list[list[int]], Any]:
    """Tokenise the job's calibration text; returns its rows and the tokenizer.

    Raises:
        RefusedError: The tokenizer cannot be loaded, or there are fewer tokens than the floor.
    """
    channel.phase("Tokenising the calibration text")
    tokenizer = load_tokenizer(job["model"])
    asked = job["calibration"]
    found, tokens = rows(
        read_documents(Path(asked["file"])),
        tokenizer,
        count=asked["samples"],
        length=asked["seq_len"],
        seed=asked["seed"],
    )
    if tokens < asked["floor_tokens"]:
        raise RefusedError(
            "calibration-too-short",
            f"the calibration text gives {tokens} tokens in rows of {asked['seq_len']}; "
            f"at least {asked['floor_tokens']} are needed",
            "add text to --calibration, or use --calibration builtin:ja-en",
        )
    channel.send("calibration", rows=len(found), tokens=tokens)
    return found, tokenizer


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer.

    Raises:
        RefusedError: transformers cannot load it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise RefusedError(
            "tokenizer", f"the tokenizer cannot be loaded: {first[:300]}", "copy tokenizer.json beside the weights"
        ) from error


def as_batches(found: list[list[int]]) -> list[dict[str, list[int]]]:
    """Rows in the form that the engines take."""
    return [{"input_ids": row, "attention_mask": [1] * len(row)} for row in found]


def count(job: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Only count: the adapter of a dry run."""
    found, _ = prepare(job, channel)
    return {"calibration": {"rows": len(found), "tokens": sum(map(len, found))}}


main = count
