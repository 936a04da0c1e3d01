"""``llmops plan`` as a user runs it."""

import json

import pytest
from paper_models import write


def test_the_documented_json_shape(llmops, tmp_path):
    model = write("llama-3.1-8b-instruct", tmp_path)
    result = llmops("plan", model, "--gpu", "H100-80GB*2,nvlink", "--engine-version", "0.19.0", "--json")
    assert result.code == 0, result.stderr
    (one,) = result.json["data"]["models"]
    assert {
        "name", "engine", "gpus", "tensor_parallel", "pipeline_parallel", "replicas", "dtype", "quantization",
        "max_model_len", "kv_tokens", "max_concurrency", "argv", "env",
    } <= set(one)  # fmt: skip
    assert {
        "total_gib", "weights_gib", "activation_gib", "non_torch_gib", "cudagraph_gib", "kv_cache_gib",
        "kv_bytes_per_token", "terms",
    } <= set(one["memory"])  # fmt: skip
    assert one["memory"]["kv_bytes_per_token"] == 131072
    assert {"name", "value", "unit", "formula", "source"} == set(one["memory"]["terms"][0])


def test_a_logged_start_is_reproduced(llmops, tmp_path):
    model = write("llama-3.1-8b-instruct", tmp_path)
    result = llmops(
        "plan", model, "--gpu", "H100-80GB", "--engine", "vllm", "--engine-version", "0.19.0", "--max-model-len", "8192",
        "--gpu-memory-utilization", "0.95", "--tensor-parallel", "1", "--weights-gib", "14.99", "--json",
    )  # fmt: skip
    memory = result.json["data"]["models"][0]["memory"]
    assert memory["weights_gib"] == 14.99
    assert memory["kv_cache_gib"] == pytest.approx(58.11, rel=0.01)
    assert result.json["data"]["models"][0]["kv_tokens"] == pytest.approx(476016, rel=0.01)


def test_explain_names_every_term_and_its_source(llmops, tmp_path):
    shown = llmops("plan", write("llama-3.1-8b-instruct", tmp_path), "--gpu", "L40S", "--explain").stdout
    for term in ("weights", "activation", "non-torch", "CUDA graphs", "KV cache", "KV bytes a token", "budget"):
        assert term in shown
    assert "0.19.0" in shown
    assert "- dtype bfloat16: as the checkpoint stores it" in shown


def test_what_does_not_fit_is_answered_with_1(llmops, tmp_path):
    result = llmops("plan", write("llama-3.3-70b-instruct", tmp_path), "--gpu", "RTX4090", "--json")
    assert result.code == 1
    assert [finding["rule"] for finding in result.json["findings"]] == ["does-not-fit"]
    assert result.json["data"]["models"][0]["shortfall_gib"] > 100


def test_several_models_get_ports_of_their_own(llmops, tmp_path):
    one, two = write("llama-3.1-8b-instruct", tmp_path), write("opt-125m", tmp_path)
    document = llmops("plan", one, two, "--gpu", "L40S*2", "--json").json
    ports = [port for model in document["data"]["models"] for port in model["ports"]]
    assert len(ports) == len(set(ports)) == 2


def test_plans_for_this_machine_without_gpu(llmops, tiny_llama):
    result = llmops("plan", tiny_llama, "--json", "--threads", "2", env={"CUDA_VISIBLE_DEVICES": ""})
    assert result.code == 0, result.stderr
    (one,) = result.json["data"]["models"]
    assert (one["engine"], one["threads"], one["gpus"]) == ("transformers", 2, [])
    assert one["memory"]["kv_cache_gib"] < 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no nowhere"),
        (["model", "--gpu", "H9000"], "no GPU in the table"),
        (["model", "--for", "speed"], "--for 'speed'"),
        (["model", "--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
        (["model", "--engine-version", "new", "--gpu", "L4"], "engine version"),
        (["model", "--lora", "adapter"], "--lora NAME=DIR"),
        (["model", "model"], "two models"),
        (["model", "--host", "nofile.json"], "there is no file"),
        (["model", "--engine", "sglang"], "--engine"),
    ],
)
def test_wrong_input_is_one_line_and_a_hint(llmops, tmp_path, arguments, words):
    write("opt-125m", tmp_path).rename(tmp_path / "model")
    result = llmops("plan", *arguments, cwd=tmp_path)
    assert result.code == 2, result.stderr
    assert len(result.error_lines) == 2, result.stderr
    assert words in result.stderr


def test_loras_need_buffers_and_the_next_rank(llmops, tmp_path):
    from model_files_for_plan import adapter

    model = write("llama-3.1-8b-instruct", tmp_path)
    lora = adapter(tmp_path / "lora", rank=24)
    plain = llmops("plan", model, "--gpu", "H100", "--json").json["data"]["models"][0]
    with_lora = llmops("plan", model, "--gpu", "H100", "--lora", f"mine={lora}", "--json").json["data"]["models"][0]
    assert with_lora["argv"][with_lora["argv"].index("--max-lora-rank") + 1] == "32"
    assert f"mine={lora}" in with_lora["argv"]
    assert with_lora["memory"]["kv_cache_gib"] < plain["memory"]["kv_cache_gib"]


def test_the_points_script_reads_points_of_the_documented_form(tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    point = {"id": "x1", "engine": "vLLM 0.19.0", "gpu": "NVIDIA H100 80GB HBM3", "gpu_total_gib": 79.19, "tp": 1, "pp": 1,
             "model": "meta-llama/Llama-3.1-8B-Instruct", "gpu_memory_utilization": 0.95, "max_model_len": 8192,
             "dtype": "bfloat16", "weights_gib": 14.99, "kv_cache_gib": 58.11, "kv_tokens": 476016}  # fmt: skip
    file = tmp_path / "points.jsonl"
    file.write_text(json.dumps(point) + "\n" + json.dumps({**point, "id": "x2", "model": "no/such"}) + "\n")
    script = Path(__file__).parents[2] / "benchmarks" / "planning" / "points.py"
    done = subprocess.run([sys.executable, script, file, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["summary"]["points"] == 1
    assert document["summary"]["KV GiB error %, files alone"] < 1
    assert document["skipped"] == [["x2", "no facts of 'no/such'"]]


def test_fewer_at_once_than_were_asked_for_is_said_with_what_helps(llmops, tmp_path):
    model = write("llama-3.1-8b-instruct", tmp_path)
    asked = ("plan", model, "--gpu", "RTX4090", "--concurrency", "64")
    shown = " ".join(llmops(*asked).stdout.split())
    assert "of the 64 requests of 8192 tokens fit at once, the others wait hint: --max-model-len" in shown
    length = int(shown.partition("hint: --max-model-len ")[2].split()[0])
    enough = llmops(*asked, "--max-model-len", str(length), "--json").json
    assert not [f for f in enough["findings"] if f["rule"] == "low-concurrency"]
    assert enough["data"]["models"][0]["max_concurrency"] >= 64
    assert "fit at once" not in llmops("plan", model, "--gpu", "RTX4090", "--concurrency", "5").stdout
