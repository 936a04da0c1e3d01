"""Generated repositories: every kind passes its own check, and each broken one is refused with its place."""

import json
import re
from pathlib import Path

import pytest

from llmops.checkpoint.onnx_file import OnnxTensor
from llmops.errors import MachineError, UsageError
from llmops.serve.triton.check import check_repository
from llmops.serve.triton.launch import Ports, make_launch
from llmops.serve.triton.locate import Server, find_server
from llmops.serve.triton.logs import CAUSES, describe, find_cause
from llmops.serve.triton.pbtxt import parse
from llmops.serve.triton.repository import choose_middle, make_repository, vllm_repository, write_repository
from llmops.serve.triton.spec import Served, TritonSpec, read_served

BATCH = ("batch", "sequence")
IDS = (OnnxTensor("input_ids", "INT64", BATCH), OnnxTensor("attention_mask", "INT64", BATCH))
POSITIONS = OnnxTensor("position_ids", "INT64", BATCH)
OUTPUTS = {
    "causal-lm": (OnnxTensor("logits", "FLOAT", (*BATCH, 2048)),),
    "causal-lm-cache": (OnnxTensor("logits", "FLOAT", (*BATCH, 2048)),),
    "embedding": (
        OnnxTensor("last_hidden_state", "FLOAT", (*BATCH, 384)),
        OnnxTensor("sentence_embedding", "FLOAT", ("batch", 384)),
    ),
    "classification": (OnnxTensor("logits", "FLOAT", ("batch", 3)),),
}


def served(task, directory=Path("d"), **values):
    inputs = (*IDS, POSITIONS) if task.startswith("causal") else IDS
    files = ("config.json", "export.json", "model.onnx", "model.onnx.data", "model.plan", "tokenizer.json")
    base = {"directory": directory, "task": task, "inputs": inputs, "outputs": OUTPUTS[task], "max_tokens": 512, "max_batch": 16,
            "eos": (2,), "head_dim": 32, "files": files, "has_plan": True}  # fmt: skip
    return Served(**{**base, **values})


@pytest.fixture
def exported(tmp_path):
    """The files of an export, empty."""
    directory = tmp_path / "exported"
    directory.mkdir()
    for name in served("embedding").files:
        (directory / name).write_text("{}")
    return directory


@pytest.mark.parametrize("task", list(OUTPUTS))
@pytest.mark.parametrize("middle", ["python", "onnxruntime", "tensorrt"])
def test_every_generated_repository_passes_the_check(exported, tmp_path, task, middle):
    if task == "causal-lm-cache" and middle != "python":
        pytest.skip("refused: a graph backend cannot carry a cache")
    repository = make_repository(TritonSpec(), served(task, exported), middle, "m")
    write_repository(repository, tmp_path / "repo")
    report = check_repository(tmp_path / "repo", ("python", middle))
    assert report.findings == ()
    assert set(repository.models) <= set(report.models)
    for name in repository.models:
        assert (tmp_path / "repo" / name / "1").is_dir()


def test_the_guides_figures_are_the_defaults():
    texts = make_repository(TritonSpec(), served("causal-lm"), "python", "llama").texts
    config = parse(texts["llama_generate/config.pbtxt"])
    batching = config.get("dynamic_batching")
    assert config.get("max_batch_size") == 16
    assert batching.get("preferred_batch_size") == [8, 16]
    assert batching.get("max_queue_delay_microseconds") == 100_000
    ensemble = parse(texts["llama_ensemble/config.pbtxt"])
    assert [s.get("model_name") for s in ensemble.get("ensemble_scheduling").get("step")] == [
        "llama_tokenizer", "llama_generate", "llama_postprocessor"]  # fmt: skip
    assert parse(texts["llama/config.pbtxt"]).get("model_transaction_policy").get("decoupled") is True


def test_the_middle_step_follows_what_the_server_has():
    spec, both = TritonSpec(), frozenset({"python", "onnxruntime", "tensorrt"})
    assert choose_middle(spec, served("causal-lm"), both) == "tensorrt"
    assert choose_middle(spec, served("causal-lm", has_plan=False), both) == "python"
    assert choose_middle(spec, served("embedding", has_plan=False), both) == "onnxruntime"
    assert choose_middle(spec, served("embedding"), frozenset({"python"})) == "python"
    with pytest.raises(UsageError, match=r"no model\.plan"):
        choose_middle(TritonSpec(middle="tensorrt"), served("embedding", has_plan=False), both)
    with pytest.raises(UsageError, match="cannot carry a KV cache"):
        choose_middle(TritonSpec(middle="onnxruntime"), served("causal-lm-cache"), both)


def test_an_engine_gets_its_plan_and_no_graph(exported):
    repository = make_repository(TritonSpec(), served("embedding", exported), "tensorrt", "m")
    assert repository.links["m_engine/1/model.plan"] == exported / "model.plan"
    assert not [name for name in repository.links if name.endswith(".onnx")]
    assert parse(repository.texts["m_engine/config.pbtxt"]).get("backend") == "tensorrt"


def test_the_vllm_backend_needs_one_model():
    repository = vllm_repository(TritonSpec(model=Path("/m")), "llama", {"max_model_len": 8192})
    values = json.loads(repository.texts["llama/1/model.json"])
    assert values["model"] == "/m"
    assert values["max_model_len"] == 8192


def test_a_directory_of_others_is_not_overwritten(tmp_path, exported):
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "mine.txt").write_text("keep")
    repository = make_repository(TritonSpec(), served("embedding", exported), "python", "m")
    with pytest.raises(UsageError, match="did not write"):
        write_repository(repository, tmp_path / "repo")
    assert (tmp_path / "repo" / "mine.txt").read_text() == "keep"
    write_repository(repository, tmp_path / "new")
    write_repository(repository, tmp_path / "new")  # its own may be replaced
    assert (tmp_path / "new" / "m" / "assets" / "model.onnx").stat().st_nlink > 1  # no second copy of the weights


def test_a_directory_that_is_no_export_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="not an exported model") as caught:
        read_served(tmp_path)
    assert "llmops export onnx" in caught.value.hint


# ---- check triton ----

STEP = 'step { model_name: "%s" model_version: -1 %s }'
TENSOR = '{ name: "%s" data_type: %s dims: [ %s ] }'


def model(name, inputs="x TYPE_FP32", outputs="y TYPE_FP32", batch=8, more="", backend='backend: "python"'):
    def tensors(text):
        return "[" + ", ".join(TENSOR % (*part.split(), "-1") for part in text.split(",") if part) + "]"

    return f'name: "{name}"\n{backend}\nmax_batch_size: {batch}\ninput {tensors(inputs)}\noutput {tensors(outputs)}\n{more}\n'


def ensemble(steps, inputs="t TYPE_FP32", outputs="u TYPE_FP32", batch=8):
    body = "ensemble_scheduling { " + " ".join(steps) + " }"
    return model("e", inputs, outputs, batch, body, 'platform: "ensemble"')


def step(name, inputs="", outputs=""):
    def maps(kind, text):
        pairs = [pair.split("=") for pair in text.split(",") if pair]
        return " ".join(f'{kind} {{ key: "{key}" value: "{value}" }}' for key, value in pairs)

    return STEP % (name, maps("input_map", inputs) + " " + maps("output_map", outputs))


def write(tmp_path, configs, versions="1"):
    for name, text in configs.items():
        directory = tmp_path / name / versions if versions else tmp_path / name
        directory.mkdir(parents=True)
        if versions and "ensemble" not in text:
            (directory / "model.py").touch()
        (tmp_path / name / "config.pbtxt").write_text(text)
    return tmp_path


GOOD = {"a": model("a"), "e": ensemble([step("a", "x=t", "y=u")])}


def test_a_good_repository_of_others(tmp_path, llmops):
    result = llmops("check", "triton", write(tmp_path, GOOD), "--json")
    assert result.code == 0, result.stdout
    assert [m["name"] for m in result.json["data"]["models"]] == ["a", "e"]


@pytest.mark.parametrize(
    ("changes", "rule", "said"),
    [
        ({"a": 'nme: "a"'}, "triton-config", "no field 'nme'"),
        ({"a": model("b")}, "triton-name", "its name is 'b'"),
        ({"a": model("a", backend="")}, "triton-backend", "neither backend nor platform"),
        ({"a": model("a", backend='platform: "tensort_plan"')}, "triton-platform", "no platform"),
        ({"a": model("a", backend='backend: "tensorrt"')}, "triton-backend-missing", "no backend 'tensorrt'"),
        ({"a": model("a", backend='backend: "onnxruntime"')}, "triton-file", "model.onnx"),
        (
            {"a": model("a", more="dynamic_batching { preferred_batch_size: [ 4, 32 ] }")},
            "triton-batching",
            "32 does not lie in",
        ),
        ({"a": model("a", batch=0, more="dynamic_batching { }")}, "triton-batching", "max_batch_size > 0"),
        ({"a": model("a", inputs="x TYPE_INVALID")}, "triton-tensor", "no data_type"),
        ({"a": model("a", inputs="x TYPE_FP32,x TYPE_FP32")}, "triton-tensor", "stands twice"),
        ({"a": model("a", more="instance_group { kind: KIND_CPU gpus: 0 }")}, "triton-instances", "names GPUs"),
        ({"a": model("a", more="version_policy { specific { versions: 3 } }")}, "triton-version", "version 3"),
        ({"e": ensemble([step("b", "x=t", "y=u")])}, "ensemble-model", "no model of that name"),
        ({"e": ensemble([step("a", "", "y=u")], inputs="")}, "ensemble-unmapped", "input 'x' is not mapped"),
        ({"e": ensemble([step("a", "z=t", "y=u")])}, "ensemble-no-input", "no input 'z'"),
        ({"e": ensemble([step("a", "x=v", "y=u")])}, "ensemble-not-produced", "'v' is produced by no step"),
        ({"e": ensemble([step("a", "x=t", "z=u")])}, "ensemble-no-output", "no output 'z'"),
        ({"e": ensemble([step("a", "x=t", "y=w")])}, "ensemble-output", "'u' is produced by no step"),
        ({"e": ensemble([step("a", "x=t", "y=u")], inputs="t TYPE_INT64")}, "ensemble-type", "x is TYPE_FP32"),
        ({"e": ensemble([step("a", "x=t", "y=u")], outputs="u TYPE_INT64")}, "ensemble-type", "declared TYPE_INT64"),
        ({"e": ensemble([step("a", "x=t", "y=u")], batch=16)}, "ensemble-batch-size", "16 is larger"),
        ({"e": ensemble([])}, "ensemble-steps", "without steps"),
        ({"e": ensemble([step("e", "t=t", "u=u")])}, "ensemble-cycle", "contains itself"),
    ],
)
def test_each_mistake_is_found(tmp_path, changes, rule, said):
    report = check_repository(write(tmp_path, GOOD | changes), ("python",))
    assert not report.ok
    found = [finding for finding in report.findings if finding.rule == rule]
    assert found, report.findings
    assert any(said in finding.message for finding in found)
    assert all(finding.file and finding.line for finding in found)


def test_a_model_without_a_version_directory(tmp_path):
    report = check_repository(write(tmp_path, {"a": model("a")}, versions=""))
    assert [f.rule for f in report.findings] == ["triton-version"]


def test_the_command_says_where_and_exits_1(tmp_path, llmops):
    result = llmops("check", "triton", write(tmp_path, GOOD | {"a": 'name: "a"\nmax_batchsize: 2'}))
    assert result.code == 1
    assert re.search(r"a/config\.pbtxt:2: a: column 1", " ".join(result.stdout.split()))
    assert "max_batch_size" in result.stdout
    assert llmops("check", "triton", tmp_path / "nowhere").code == 2
    inside = llmops("check", "triton", tmp_path / "a")
    assert inside.code == 2
    assert "llmops check triton" in inside.stderr


# ---- server and log ----


def test_the_command_of_each_kind_of_server():
    ports = Ports(8000, 8001, 8002)
    spec = TritonSpec(model=Path("m"))
    local = make_launch(spec, Server("wheel", Path("/w/bin/tritonserver"), None, Path("/b"), Path("/e/bin/python")), Path("/r"), ports,
                        gpu=False, weights_bytes=0)  # fmt: skip
    assert "--http-address=127.0.0.1" in local.argv
    assert "--allow-gpu-metrics=false" in local.argv
    assert local.env["PATH"].startswith("/e/bin:")
    assert local.env["PYTHONPATH"] is None
    box = make_launch(
        spec, Server("container", Path("docker"), None, image="i"), Path("/r"), ports, gpu=True, weights_bytes=0
    )
    assert "127.0.0.1:8000:8000" in box.argv  # never a public port by itself
    assert "/r:/models:ro" in box.argv
    assert box.argv[box.argv.index("--gpus") + 1] == "all"


def test_no_server_at_all_is_said_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LLMOPS_ENGINES_DIR", str(tmp_path / "none"))
    from llmops import settings

    cached = getattr(settings.settings, "cache_clear", None)
    if cached:
        cached()
    try:
        with pytest.raises(MachineError) as caught:
            find_server(TritonSpec())
    finally:
        if cached:
            cached()
    assert "llmops engines install triton" in caught.value.hint
    with pytest.raises(UsageError, match="not a program"):
        find_server(TritonSpec(server=tmp_path / "none"))


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.rule)
def test_each_cause_matches_its_own_line_first(cause):
    found, line = find_cause([cause.example])
    assert found is not None
    assert found.rule == cause.rule
    assert "{0}" not in describe(found, line)


def test_what_every_machine_without_a_gpu_says_is_no_error():
    lines = [
        'E1122 09:31:48.751024 4325 server.cc:241] "CudaDriverHelper has not been initialized."',
        'E1122 09:31:55.503296 4325 ensemble_scheduler.cc:1468] "unable to create stream for e: CUDA driver version is insufficient"',
        'E1122 09:31:56.503296 4325 model.cc:1] "Something real"',
    ]
    assert find_cause(lines) == (None, "Something real")
