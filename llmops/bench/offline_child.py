"""The child's side of an offline measurement: one JSON line a fact, and an error as a line too."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llmops.bench.offline_decoder import Decoder, generate
from llmops.errors import LlmopsError


def run(work: Callable[[dict[str, Any]], None]) -> None:
    """Read the order and work on it; what llmops itself refuses goes to the parent with its hint."""
    try:
        work(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except LlmopsError as error:
        say({"refused": {"message": error.message, "hint": error.hint, "code": int(error.exit_code)}})


def measure(decoder: Decoder, order: dict[str, Any], batches: Iterable[int]) -> None:
    """For each batch size one unmeasured run, then the repeats, with random prompts of a seed."""
    import numpy as np

    rng = np.random.default_rng(order["seed"])
    highest = min(1000, decoder.vocabulary or 1000)  # the ids that every vocabulary has
    for batch in batches:
        ids = rng.integers(0, highest, (batch, order["input_tokens"]), dtype=np.int64)
        for number in range(order["repeats"] + 1):
            row = generate(decoder, ids, order["output_tokens"])
            if number:
                say({"batch": batch, "input_tokens": order["input_tokens"], **row})


def say(row: dict[str, Any]) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()
