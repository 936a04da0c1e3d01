"""Generated repositories: every kind passes its own check, and each broken one is refused with its place."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from llmops.checkpoint.onnx_facts import OnnxTensor
from llmops.errors import LlmopsError, MachineError, UsageError
from llmops.hardware.paper import host_from_gpus
from llmops.serve.triton.check import check_repository
from llmops.serve.triton.launch import Ports, make_launch
from llmops.serve.triton.locate import Server, find_server
from llmops.serve.triton.logs import CAUSES, describe, error_lines, find_cause, hopeless
from llmops.serve.triton.pbtxt import parse
from llmops.serve.triton.placing import write_repository
from llmops.serve.triton.repository import choose_middle, make_repository, vllm_repository
from llmops.serve.triton.server import decide
from llmops.serve.triton.spec import Served, TritonSpec, read_served, spec_from

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


# A graph backend cannot carry a cache between two runs: ``choose_middle`` refuses those pairs.
MIDDLES = {
    task: ("python",) if task == "causal-lm-cache" else ("python", "onnxruntime", "tensorrt") for task in OUTPUTS
}


@pytest.mark.parametrize(
    ("task", "middle"), [(task, middle) for task, middles in MIDDLES.items() for middle in middles]
)
def test_every_generated_repository_passes_the_check(exported, tmp_path, task, middle):
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
    spec = spec_from({"model": Path("/m"), "middle": "vllm", "max_model_len": 8192, "tensor_parallel": 2, "max_num_seqs": 64,
                      "gpu_memory_utilization": 0.8, "port": 0})  # fmt: skip
    values = json.loads(vllm_repository(spec, "llama").texts["llama/1/model.json"])
    assert values == {"model": "/m", "max_model_len": 8192, "max_num_seqs": 64, "tensor_parallel_size": 2,
                      "gpu_memory_utilization": 0.8}  # fmt: skip


def test_words_after_the_dashes_are_the_servers_with_a_model_or_without():
    assert spec_from({"model": Path("/m"), "extra": ("--a",)}).extra == ("--a",)
    alone = spec_from({"model": Path("--a=1"), "repository": Path("/r"), "extra": ("--b",)})
    assert (alone.model, alone.extra) == (None, ("--a=1", "--b"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loras": ("a=b",)}, "--lora is not of"),
        ({"api_key_env": "KEY"}, "--api-key-env is not of"),
        ({"replicas": 2}, "--replicas is not of"),
        ({"tensor_parallel": 2}, "--tensor-parallel needs Triton's vLLM backend"),
        ({"preferred": "8,x"}, "not batch sizes"),
        ({"max_num_seqs": 0}, "--max-num-seqs"),
        ({"queue_delay_ms": -1}, "--queue-delay-ms"),
    ],
)
def test_options_that_triton_does_not_take(values, said):
    with pytest.raises(UsageError, match=said):
        spec_from({"model": Path("/m"), "dtype": "auto", "loras": (), "port": 0} | values)


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
    with pytest.raises(UsageError, match="there is no directory"):
        read_served(tmp_path / "nowhere")
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
    assert all(finding.file and finding.line and finding.column for finding in found if rule not in NO_PLACE)


NO_PLACE = ("triton-version", "triton-file", "ensemble-cycle")  # about what is, or is not, beside the file


def test_a_file_that_cannot_be_read_is_told_once(tmp_path):
    """The ensemble that names such a model is not blamed for it."""
    report = check_repository(write(tmp_path, GOOD | {"a": model("a", more="nme: 3")}))
    assert [(f.rule, f.line, f.column) for f in report.findings] == [("triton-config", 6, 1)]


def test_a_model_without_a_version_directory(tmp_path):
    report = check_repository(write(tmp_path, {"a": model("a")}, versions=""))
    assert [f.rule for f in report.findings] == ["triton-version"]


def test_the_command_says_where_and_exits_1(tmp_path, llmops):
    result = llmops("check", "triton", write(tmp_path, GOOD | {"a": 'name: "a"\nmax_batchsize: 2'}))
    assert result.code == 1
    assert re.search(r"a/config\.pbtxt:2:1: a: ModelConfig has no field", " ".join(result.stdout.split()))
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
    found = find_cause([cause.example])
    assert found is not None
    assert found.cause.rule == cause.rule
    assert "{" not in describe(found)


def test_a_model_whose_process_cannot_start_is_not_waited_for():
    assert hopeless(
        ["I1122 loading", "/b/stub: error while loading shared libraries: libx.so.1: cannot open shared object file"]
    )
    assert hopeless(['E1122 08:00:00.000000 1 a.cc:1] "Something else"']) is None


def test_what_every_machine_without_a_gpu_says_is_no_error():
    lines = [
        'E1122 09:31:48.751024 4325 server.cc:241] "CudaDriverHelper has not been initialized."',
        'E1122 09:31:55.503296 4325 ensemble_scheduler.cc:1468] "unable to create stream for e: CUDA driver version is insufficient"',
        'E1122 09:31:56.503296 4325 model.cc:1] "Something real"',
    ]
    assert find_cause(lines) is None
    assert error_lines(lines) == ["Something real"]


# ---- a TensorRT engine in the middle ----


@pytest.fixture
def with_plan(tmp_path):
    """An exported directory with an engine, and a server that has the tensorrt backend."""
    directory, server = tmp_path / "m", tmp_path / "opt" / "bin" / "tritonserver"
    directory.mkdir()
    for backend in ("python", "tensorrt"):
        (tmp_path / "opt" / "backends" / backend).mkdir(parents=True)
    server.parent.mkdir()
    server.write_text("#!/bin/sh\necho a server that must not be started >&2; exit 9\n")
    server.chmod(0o755)
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.plan").write_bytes(b"engine")
    tensors = [{"name": t.name, "dtype": t.dtype, "dims": list(t.dims)} for t in (*IDS, POSITIONS)]
    outputs = [{"name": "logits", "dtype": "FLOAT", "dims": ["batch", "sequence", 99]}]
    (directory / "export.json").write_text(json.dumps(
        {"inputs": tensors, "outputs": outputs, "task": "causal-lm", "dimensions": {"batch": [1, 16], "sequence": [1, 2048]}}))  # fmt: skip

    def record(**changes):
        shapes = {"input_ids": {"min": [1, 1], "opt": [4, 128], "max": [8, 512]}}
        value = {
            "schema": "llmops.build.tensorrt/1", "tensorrt": {"module": "tensorrt", "version": "10.13.2.6"},
            "compute_capabilities": [[8, 9]], "profiles": [shapes, shapes], "version_compatible": True,
            "engine": {"sha256": hashlib.sha256(b"engine").hexdigest(), "size_bytes": 6},
        } | changes  # fmt: skip
        (directory / "model.plan.json").write_text(json.dumps(value))

    record()
    return directory, server, record


def serving(directory, server, host, tmp_path):
    spec = TritonSpec(
        model=directory, server=server, repository=tmp_path / "repo", http_port=0, grpc_port=0, metrics_port=0
    )
    return decide(spec, host)


def test_an_engine_is_served_within_its_profiles(with_plan, tmp_path):
    directory, server, _ = with_plan
    decision = serving(directory, server, host_from_gpus("L4"), tmp_path)
    assert decision.middle == "tensorrt"
    config = parse((tmp_path / "repo" / "m_engine" / "config.pbtxt").read_text())
    assert config.get("max_batch_size") == 8  # as the engine's, not the graph's 16
    assert config.get("instance_group")[0].get("profile") == ["0", "1"]
    assert "--backend-config=tensorrt,version-compatible=true" in decision.launch.argv
    generate = parse((tmp_path / "repo" / "m_generate" / "config.pbtxt").read_text())
    assert generate.get("max_batch_size") == 8
    assert generate.map("parameters")["max_total_tokens"].get("string_value") == "512"


@pytest.mark.parametrize(
    ("changes", "gpu", "code", "said"),
    [
        ({}, "H100-80GB", 2, "built for compute capability 8.9, this GPU has 9.0"),
        ({}, None, 3, "no GPU here"),
        ({"engine": {"sha256": "0" * 64, "size_bytes": 6}}, "L4", 2, "damaged, or another engine"),
        ({"engine": {"sha256": "0" * 64, "size_bytes": 7}}, "L4", 2, "6 bytes, 7 were built"),
        ({"tensorrt": {"module": "tensorrt_rtx", "version": "1.7"}}, "L4", 2, "full TensorRT only"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_before_the_server_starts(with_plan, tmp_path, changes, gpu, code, said):
    directory, server, record = with_plan
    record(**changes)
    host = host_from_gpus(gpu) if gpu else dataclasses.replace(host_from_gpus("L4"), gpus=())
    with pytest.raises(LlmopsError, match=said) as caught:
        serving(directory, server, host, tmp_path)
    assert caught.value.exit_code == code
    assert not (tmp_path / "repo").exists()


def test_the_command_refuses_a_damaged_engine_too(with_plan, llmops, tmp_path):
    directory, server, _ = with_plan
    (directory / "model.plan").write_bytes(b"engin")
    env = {"PATH": f"{server.parent}:/usr/bin:/bin"}
    result = llmops("serve", directory, "--engine", "triton", "--port", "0", "--grpc-port", "0", "--metrics-port", "0",
                    "--repository", tmp_path / "repo", env=env)  # fmt: skip
    assert result.code == 2
    assert "5 bytes, 6 were built" in result.stderr
    assert "must not be started" not in result.stderr


def test_a_repository_with_an_engine_is_asked_too(with_plan, tmp_path):
    directory, server, _ = with_plan
    serving(directory, server, host_from_gpus("L4"), tmp_path)
    spec = TritonSpec(repository=tmp_path / "repo", server=server, http_port=0, grpc_port=0, metrics_port=0)
    with pytest.raises(UsageError, match=r"this GPU has 9\.0"):
        decide(spec, host_from_gpus("H100-80GB"))


def test_an_engine_that_the_server_cannot_use_is_said(with_plan, tmp_path):
    directory, server, _ = with_plan
    shutil.rmtree(server.parent.parent / "backends" / "tensorrt")
    decision = serving(directory, server, host_from_gpus("L4"), tmp_path)
    assert decision.middle == "python"
    assert [finding.rule for finding in decision.findings] == ["engine-not-used"]


@pytest.mark.slow
def test_vllms_own_engine_has_every_argument_that_is_written(vllm_environment):
    """The backend hands model.json to AsyncEngineArgs, which refuses a name that it does not know."""
    import ast

    found = sorted(
        Path(vllm_environment["LLMOPS_ENGINES_DIR"]).glob("vllm/lib/python3*/site-packages/vllm/engine/arg_utils.py")
    )
    tree = ast.parse(found[0].read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    fields = {each.target.id for name in ("EngineArgs", "AsyncEngineArgs") for each in classes[name].body
              if isinstance(each, ast.AnnAssign)}  # fmt: skip
    spec = spec_from({"model": Path("/m"), "middle": "vllm", "max_model_len": 64, "tensor_parallel": 2, "max_num_seqs": 4,
                      "dtype": "bfloat16", "enforce_eager": True, "gpu_memory_utilization": 0.8, "port": 0})  # fmt: skip
    written = json.loads(vllm_repository(spec, "m").texts["m/1/model.json"])
    assert len(written) == 7
    assert set(written) <= fields
