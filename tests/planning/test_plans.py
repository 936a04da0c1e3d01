"""Plans over many machines and models on paper: fixed results, and rules that hold for all of them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from paper_models import facts

from llmops.errors import LlmopsError, MachineError, UsageError
from llmops.hardware.paper import host_from_gpus
from llmops.planning.limits import padded_vocab
from llmops.planning.plan import plan
from llmops.planning.types import PlanSpec, ServePlan

GOLDEN = Path(__file__).with_name("golden_plans.json")
HOSTS = (
    "T4*1", "T4*4", "V100-16GB*2", "RTX3090*2", "RTX4090*1", "RTX4090*8", "L4*4", "L40S*2", "A10G*1", "RTX5090*1",
    "A100-40GB*4,nvlink", "A100-80GB*2", "H100*1", "H100*8", "H200*8", "B200*1", "MI300X*1", "H100*4,pcie", "H100*3",
    "A100-40GB*4,RTX4090*8", "none",
)  # fmt: skip
MODELS = (
    "opt-125m", "llama-3.1-8b-instruct", "meta-llama-3.1-8b-instruct-fp8-dynamic", "mistral-7b-instruct-v0.3",
    "qwen2.5-14b-instruct", "llama-3.3-70b-instruct", "llama-3.3-70b-instruct-quantized.w4a16",
    "qwen2.5-72b-instruct-awq", "qwen3-30b-a3b", "gpt-oss-20b", "gpt-oss-120b", "gemma-3-27b-it", "deepseek-v2-lite",
    "deepseek-r1", "mixtral-8x7b-instruct-v0.1",
)  # fmt: skip
GOALS = ("latency", "throughput", "context")


def summary(found: ServePlan) -> list[dict]:
    """What a plan decides, without paths."""
    return [
        {
            "engine": one.engine, "gpus": list(one.gpus), "tp": one.tensor_parallel, "pp": one.pipeline_parallel,
            "replicas": one.replicas, "dtype": one.dtype, "quantization": one.quantization,
            "kv_dtype": one.kv_cache_dtype, "max_model_len": one.max_model_len, "max_num_seqs": one.max_num_seqs,
            "utilization": one.gpu_memory_utilization, "kv_gib": round(one.memory.kv_cache_gib, 1),
            "fits": one.fits, "argv": " ".join(one.argv[2:]), "env": " ".join(f"{k}={v}" for k, v in one.env.items()),
        }
        for one in found.models
    ]  # fmt: skip


def outcome(host: str, model: str, goal: str = "throughput") -> list[dict] | str:
    """The summary, or the reason for a refusal."""
    try:
        return summary(plan(PlanSpec(goal=goal), [facts(model)], host_from_gpus(host)))
    except LlmopsError as error:
        return f"{type(error).__name__}: {error.message}"


def test_plans_are_those_that_were_reviewed():
    """Set LLMOPS_UPDATE_GOLDEN=1 to write the file anew, then review its diff."""
    found = {f"{model} on {host}": outcome(host, model) for host in HOSTS for model in MODELS}
    if os.environ.get("LLMOPS_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
    expected = json.loads(GOLDEN.read_text())
    changed = {name: (found[name], expected.get(name)) for name in found if found[name] != expected.get(name)}
    assert not changed, f"{len(changed)} plans changed, such as {next(iter(changed.items()))}"
    assert set(expected) == set(found)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("host", HOSTS)
def test_no_plan_that_the_engine_would_refuse(host, goal):
    machine = host_from_gpus(host)
    for model in MODELS:
        try:
            found = plan(PlanSpec(goal=goal), [facts(model)], machine)
        except MachineError:
            continue
        (one,) = found.models
        if one.engine != "vllm" or not one.fits:
            assert one.fits or (one.shortfall_gib > 0 and one.remedies)
            continue
        shape = facts(model)
        assert shape.heads % one.tensor_parallel == 0
        assert padded_vocab(shape.vocab) % one.tensor_parallel == 0
        assert shape.kv_heads % one.tensor_parallel == 0 or one.tensor_parallel % shape.kv_heads == 0
        assert one.pipeline_parallel <= shape.layers
        assert one.max_model_len <= (shape.context_length or one.max_model_len)
        assert len(one.gpus) == one.tensor_parallel * one.pipeline_parallel * one.replicas
        assert len(set(one.gpus)) == len(one.gpus) <= len(machine.gpus)
        cards = [gpu for gpu in machine.gpus if gpu.index in one.gpus]
        assert len({gpu.name for gpu in cards}) == 1
        assert one.gpu_memory_utilization * cards[0].total_gib <= cards[0].free_gib - 0.3
        assert one.max_concurrency >= 1
        assert one.max_num_batched_tokens >= one.max_num_seqs
        assert one.memory.kv_cache_gib > 0
        if one.dtype == "bfloat16" and cards[0].compute_capability:
            assert cards[0].compute_capability >= (8, 0)
        assert one.argv[0] == "serve"
        assert one.env.get("CUDA_VISIBLE_DEVICES", one.env.get("HIP_VISIBLE_DEVICES", "")).replace(",", "").isdigit()


def only(spec: PlanSpec, model: str, host: str):
    return plan(spec, [facts(model)], host_from_gpus(host)).models[0]


def test_the_smallest_split_then_replicas():
    one = only(PlanSpec(), "llama-3.1-8b-instruct", "RTX4090*8")
    assert (one.tensor_parallel, one.replicas) == (1, 8)
    one = only(PlanSpec(concurrency=4), "llama-3.1-8b-instruct", "H100*8")
    assert one.replicas == 1


def test_latency_takes_the_widest_island():
    one = only(PlanSpec(goal="latency"), "llama-3.1-8b-instruct", "H100*8")
    assert (one.tensor_parallel, one.replicas) == (8, 1)
    one = only(PlanSpec(goal="latency"), "llama-3.1-8b-instruct", "RTX4090*8")
    assert one.tensor_parallel == 1


def test_context_aims_at_the_whole_context():
    one = only(PlanSpec(goal="context"), "llama-3.1-8b-instruct", "H100*2")
    assert one.max_model_len == 131072
    one = only(PlanSpec(goal="context"), "llama-3.1-8b-instruct", "RTX4090*1")
    assert 32000 < one.max_model_len < 131072
    assert one.fits


def test_the_operations_site_is_packed_as_its_people_did():
    spec = PlanSpec()
    models = [facts(name) for name in ("llama-3.3-70b-instruct", "llama-3.1-8b-instruct", "mistral-7b-instruct-v0.3")]
    found = plan(spec, models, host_from_gpus("A100-40GB*4,RTX4090*8"))
    assert found.ok
    large, eight, seven = found.models
    assert (large.gpus, large.tensor_parallel) == ((0, 1, 2, 3), 4)
    assert (eight.gpus, seven.gpus) == ((4, 5, 6, 7), (8, 9, 10, 11))
    assert len({port for one in found.models for port in one.ports}) == 9


def test_more_models_than_cards_are_refused():
    with pytest.raises(MachineError, match="2 models need a GPU each"):
        plan(PlanSpec(), [facts("opt-125m"), facts("llama-3.1-8b-instruct")], host_from_gpus("L4"))


def test_a_small_step_holds_a_token_of_each_sequence():
    one = only(PlanSpec(max_num_batched_tokens=512), "llama-3.1-8b-instruct", "H100*1")
    assert (one.max_num_batched_tokens, one.max_num_seqs) == (512, 512)


def test_fixed_values_are_kept():
    spec = PlanSpec(tensor_parallel=2, max_model_len=4096, gpu_memory_utilization=0.8, max_num_seqs=64,
                    max_num_batched_tokens=4096, kv_cache_dtype="fp8", dtype="float16", replicas=1)  # fmt: skip
    one = only(spec, "llama-3.1-8b-instruct", "H100*4")
    flags = dict(zip(one.argv[2::2], one.argv[3::2], strict=True))
    assert flags["--tensor-parallel-size"] == "2"
    assert flags["--max-model-len"] == "4096"
    assert flags["--gpu-memory-utilization"] == "0.8"
    assert flags["--max-num-seqs"] == "64"
    assert flags["--max-num-batched-tokens"] == "4096"
    assert flags["--kv-cache-dtype"] == "fp8"
    assert flags["--dtype"] == "float16"
    assert one.gpus == (0, 1)


@pytest.mark.parametrize(
    ("spec", "model", "host", "kind", "words"),
    [
        (PlanSpec(tensor_parallel=3), "llama-3.1-8b-instruct", "H100*4", UsageError, "not divisible by 3"),
        (PlanSpec(tensor_parallel=8), "llama-3.1-8b-instruct", "H100*4", UsageError, "8 GPUs, 4"),
        (PlanSpec(max_num_batched_tokens=64, max_num_seqs=128), "opt-125m", "H100*1", UsageError, "64 tokens a step"),
        (PlanSpec(max_model_len=10**6), "llama-3.1-8b-instruct", "H100*1", UsageError, "131072"),
        (PlanSpec(dtype="bfloat16"), "llama-3.1-8b-instruct", "T4*1", MachineError, "7.5"),
        (PlanSpec(), "meta-llama-3.1-8b-instruct-fp8-dynamic", "V100-16GB*1", MachineError, "fp8 needs"),
        (PlanSpec(), "llama-3.1-8b-instruct", "P100*1", MachineError, "vLLM needs compute capability 7.0"),
        (PlanSpec(replicas=3), "llama-3.1-8b-instruct", "H100*2", UsageError, "3 replicas"),
        (PlanSpec(quantization="awq"), "llama-3.1-8b-instruct", "H100*2", MachineError, "not quantised"),
        (PlanSpec(engine="llamacpp"), "llama-3.1-8b-instruct", "none", UsageError, ".gguf"),
        (PlanSpec(tensor_parallel=2), "llama-3.1-8b-instruct", "none", MachineError, "needs GPUs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_a_hint(spec, model, host, kind, words):
    with pytest.raises(kind) as caught:
        plan(spec, [facts(model)], host_from_gpus(host))
    assert words in caught.value.message
    assert caught.value.hint


def test_a_quantised_matrix_must_keep_whole_groups():
    """The inner size of the plain 72B model leaves half a group on each of two GPUs."""
    model = replace(facts("qwen2.5-72b-instruct-awq"), intermediate=29568)
    with pytest.raises(UsageError, match="quantisation group 128"):
        plan(PlanSpec(tensor_parallel=2), [model], host_from_gpus("H100*2"))
    assert plan(PlanSpec(tensor_parallel=2), [facts("qwen2.5-72b-instruct-awq")], host_from_gpus("H100*2")).ok


def test_what_does_not_fit_says_by_how_much_and_what_would_help():
    one = only(PlanSpec(), "llama-3.3-70b-instruct", "H100*1")
    assert not one.fits
    assert 55 < one.shortfall_gib < 75
    assert any("GPUs with tensor parallelism" in remedy for remedy in one.remedies)
    assert any("quantize" in remedy for remedy in one.remedies)


@pytest.mark.parametrize("model", ["llama-3.1-8b-instruct", "gemma-3-27b-it", "llama-3.3-70b-instruct"])
@pytest.mark.parametrize("host", ["RTX4090*1", "H100*1", "T4*2"])
def test_remedies_are_true(model, host):
    """Each flag that a plan proposes makes the same plan fit."""
    spec = PlanSpec(max_model_len=8192, max_num_seqs=256, gpu_memory_utilization=0.8)
    one = only(spec, model, host)
    for remedy in one.remedies:
        change = None
        if remedy.startswith("--max-model-len"):
            change = {"max_model_len": int(remedy.split()[1].rstrip(":"))}
        elif remedy.startswith("--gpu-memory-utilization"):
            change = {"gpu_memory_utilization": float(remedy.split()[1])}
        elif remedy.startswith("--kv-cache-dtype"):
            change = {"kv_cache_dtype": "fp8"}
        elif remedy.startswith("--quantization fp8"):
            change = {"quantization": "fp8"}
        if change:
            fixed = {"tensor_parallel": one.tensor_parallel, "pipeline_parallel": one.pipeline_parallel} | change
            assert only(spec.model_copy(update=fixed), model, host).fits, remedy


def test_quantise_when_allowed():
    assert not only(PlanSpec(), "qwen2.5-14b-instruct", "RTX4090*1").fits
    one = only(PlanSpec(quantize="allow"), "qwen2.5-14b-instruct", "RTX4090*1")
    assert one.fits
    assert one.quantization == "fp8"
    assert "--quantization" in one.argv
    four = only(PlanSpec(quantize="allow"), "qwen2.5-14b-instruct", "T4*1")
    assert four.fits
    assert four.quantization == "gptq"
    assert any("llmops quantize" in reason for reason in four.reasons)


def test_utilization_beyond_what_is_free_is_noticed():
    one = only(PlanSpec(gpu_memory_utilization=1.0), "llama-3.1-8b-instruct", "H100*1")
    assert not one.fits
    assert one.shortfall_gib == pytest.approx(0.51, abs=0.01)
