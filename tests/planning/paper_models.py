"""Facts of public models, read from the configs kept for the benchmark."""

import functools
import json
import tempfile
from pathlib import Path

from llmops.checkpoint.facts import ModelFacts
from llmops.checkpoint.reader import read_model

MODELS = Path(__file__).parents[2] / "benchmarks" / "planning" / "models"


@functools.cache
def facts(name: str) -> ModelFacts:
    """Facts of ``benchmarks/planning/models/NAME.json`` from its config.json alone."""
    config = json.loads((MODELS / f"{name}.json").read_text())["config"]
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        return read_model(directory)


def write(name: str, directory: Path) -> Path:
    """The same as a directory for the command line."""
    out = directory / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(json.loads((MODELS / f"{name}.json").read_text())["config"]))
    return out
