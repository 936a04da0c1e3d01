"""The commands of every reviewed plan, and of fixed decisions, before vLLM's own parser and checks. Slow: vLLM is imported."""

import itertools
import json
import subprocess
from pathlib import Path

import pytest
from paper_models import facts
from test_plans import GOALS, HOSTS, MODELS

from llmops.errors import LlmopsError
from llmops.hardware.paper import host_from_gpus
from llmops.planning.plan import plan
from llmops.planning.types import LoraSpec, PlanSpec

pytestmark = pytest.mark.slow
FIXED = (
    PlanSpec(loras=(LoraSpec(name="french", path="/a"),), max_lora_rank=40),
    PlanSpec(kv_cache_dtype="fp8", dtype="float16", enforce_eager=True),
    PlanSpec(quantization="fp8", max_num_batched_tokens=128),
    PlanSpec(pipeline_parallel=2, max_num_seqs=16, max_model_len=1024, gpu_memory_utilization=0.5),
)


def commands() -> list[list[str]]:
    found = {}
    wanted = [(PlanSpec(goal=goal), host, model) for goal, host, model in itertools.product(GOALS, HOSTS, MODELS)]
    wanted += [(spec, host, MODELS[1]) for spec, host in itertools.product(FIXED, HOSTS)]
    for spec, host, model in wanted:
        try:
            one = plan(spec, [facts(model)], host_from_gpus(host)).models[0]
        except LlmopsError:
            continue
        if one.engine == "vllm" and one.fits:
            found[(one.argv[0], "MODEL", *one.argv[2:])] = None
    return [list(argv) for argv in found]


def ask(environment: dict[str, str], argvs: list[list[str]]) -> dict[str, str]:
    python = Path(environment["LLMOPS_ENGINES_DIR"]) / "vllm" / "bin" / "python"
    script = Path(__file__).with_name("vllm_takes.py")
    result = subprocess.run(
        [str(python), str(script)], input=json.dumps(argvs), capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("REFUSED "))
    return json.loads(line.removeprefix("REFUSED "))


def test_vllm_takes_every_planned_command(vllm_environment):
    planned = commands()
    assert len(planned) > 200
    bad = ["serve", "MODEL", "--max-model-len", "1024", "--max-num-seqs", "64", "--max-num-batched-tokens", "32"]
    unknown = [*bad[:4], "--no-such-flag"]
    refused = ask(vllm_environment, [*planned, bad, unknown])
    assert set(refused) == {" ".join(bad), " ".join(unknown)}, list(refused.items())[:3]
