"""What each engine is told for many models on many machines, as it was reviewed; nothing is started."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "planning"))
from paper_models import facts
from test_plans import HOSTS

from llmops.checkpoint.facts import Tokenizer
from llmops.errors import LlmopsError
from llmops.hardware.paper import host_from_gpus
from llmops.serve.choose import choose_engine
from llmops.serve.launch import launch
from llmops.serve.sizing import Wanted, size
from llmops.serve.spec import ServeSpec

GOLDEN = Path(__file__).with_name("golden_argv.json")
MODELS = ("opt-125m", "llama-3.1-8b-instruct", "mistral-7b-instruct-v0.3", "llama-3.3-70b-instruct", "gpt-oss-20b")
ENGINES = ("auto", "vllm", "ray", "trtllm")


def told(model: str, host: str, engine: str) -> str:
    """Variables and arguments as one line, or why it is refused."""
    machine = host_from_gpus(host)
    one = replace(facts(model), tokenizer=Tokenizer(present=True), path=Path("/models") / model)
    spec = ServeSpec(model=one.path, engine=engine, name=model)
    try:
        usable = machine.usable_gpus
        nvidia = all(gpu.vendor == "nvidia" for gpu in usable)
        choice = choose_engine(one, engine, gpus=len(usable), nvidia=nvidia)
        version = "0.19.0" if choice.engine in ("vllm", "ray") else None
        (plan,) = size([Wanted(spec, one, choice.engine, 8000, version)], machine)
    except LlmopsError as error:
        return f"{type(error).__name__}: {error.message}"
    made = launch(spec, one, plan, Path("/env/bin/python"), 8000, engine=choice.engine)
    common = {"PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "NO_COLOR", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"}
    own = [f"{name}={value}" for name, value in made.env.items() if name not in common]
    words = [Path(word).name if word.endswith("ray_server.py") else word for word in made.argv]
    return " ".join([*own, *words])


def test_arguments_are_those_that_were_reviewed():
    """Set LLMOPS_UPDATE_GOLDEN=1 to write the file anew, then review its diff."""
    found = {
        f"{model} on {host} with {engine}": told(model, host, engine)
        for host in HOSTS
        for model in MODELS
        for engine in ENGINES
    }
    if os.environ.get("LLMOPS_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
    expected = json.loads(GOLDEN.read_text())
    changed = {name: (found[name], expected.get(name)) for name in found if found[name] != expected.get(name)}
    assert not changed, f"{len(changed)} changed, such as {next(iter(changed.items()))}"
    assert set(expected) == set(found)
