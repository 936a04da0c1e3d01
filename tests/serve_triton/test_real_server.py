"""A real Triton server (the one in the nvidia-pytriton wheel), through ``llmops serve --engine triton``: text to text over HTTP
and gRPC, streaming, batching, failures."""

import json
import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from triton_process import PORTS, running, start

from llmops.errors import LlmopsError
from llmops.hardware import detect
from llmops.progress import Silent
from llmops.serve import triton

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def serving(triton_python, exported, tmp_path_factory):
    work = tmp_path_factory.mktemp("server")
    options = ("--name", "tiny", "--repository", work / "repo", "--queue-delay-ms", "20")
    found = start(work, exported / "causal-lm-cache", *options)
    assert found.ready, found.stderr.read_text()
    yield found
    code, document = found.stop()
    assert code == 128 + signal.SIGTERM
    assert document["data"]["states"]["tiny_ensemble"] == "READY"
    assert not psutil.pid_exists(found.ready["pid"])  # nothing is left running


def test_each_model_is_shown_with_its_state(serving):
    said = serving.stderr.read_text()
    for name in ("tiny", "tiny_ensemble", "tiny_generate", "tiny_tokenizer", "tiny_postprocessor"):
        assert any(line.split()[:2] == [name, "READY"] for line in said.splitlines()), said
    assert "/v2/models/tiny" in said


def test_text_to_text_over_http_and_grpc_is_the_same(serving, triton_python):
    text = "The operations guide says"
    body = {
        "inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}],
        "parameters": {"max_tokens": 6},
    }
    infer = serving.post("/v2/models/tiny_ensemble/infer", **body).json()["outputs"][0]["data"][0]
    assert infer.strip()
    assert serving.post("/v2/models/tiny_ensemble/generate", text=text, max_tokens=6).json()["output"] == infer
    assert serving.post("/v2/models/tiny/generate", text_input=text, max_tokens=6).json()["text_output"] == infer
    done = subprocess.run([triton_python, HERE / "ask_grpc.py", serving.ready["grpc"], "tiny_ensemble", "tiny", text],
                          capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["plain"] == infer
    assert "".join(answer["pieces"]) == infer
    assert len(answer["pieces"]) >= 3  # a token at a time
    assert answer["reason"] == "length"


def test_streaming_over_http(serving):
    url = serving.ready["url"] + "/v2/models/tiny/generate_stream"
    events = []
    with httpx.stream(
        "POST", url, json={"text_input": "Hello", "stream": True, "max_tokens": 5}, timeout=60
    ) as response:
        events = [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]
    assert len(events) >= 3
    assert events[-1]["finish_reason"] == "length"
    assert events[-1]["num_output_tokens"] == 5
    whole = serving.post("/v2/models/tiny/generate", text_input="Hello", max_tokens=5).json()
    assert "".join(event["text_output"] for event in events) == whole["text_output"]


def test_parameters_are_honoured(serving):
    whole = serving.post("/v2/models/tiny/generate", text_input="Hello world", max_tokens=8).json()["text_output"]
    stop_text = whole[len(whole) // 2 :][:3]
    cut = serving.post("/v2/models/tiny/generate", text_input="Hello world", max_tokens=8, stop=[stop_text]).json()
    assert cut["text_output"] == whole[: whole.index(stop_text)]
    assert cut["finish_reason"] == "stop"
    ensemble = serving.post(
        "/v2/models/tiny_ensemble/generate", text="Hello world", max_tokens=8, stop=stop_text
    ).json()["output"]
    assert ensemble == cut["text_output"]
    warm = {"temperature": 1.5, "top_p": 0.9, "random_seed": 5, "max_tokens": 8}
    twice = [
        serving.post("/v2/models/tiny/generate", text_input="Hello", **warm).json()["text_output"] for _ in range(2)
    ]
    assert twice[0] == twice[1]
    bad = serving.post("/v2/models/tiny/generate", text_input="Hello", temperature=-1)
    assert bad.status_code == 400
    assert "temperature must lie" in bad.text
    long = serving.post("/v2/models/tiny_ensemble/generate", text="word " * 3000)
    assert long.status_code == 400
    assert "this model takes at most" in long.text


def test_requests_share_batches_and_answer_as_alone(serving):
    texts = [f"Request {'number ' * (n % 4)}{n}" for n in range(24)]
    alone = [
        serving.post("/v2/models/tiny_ensemble/generate", text=text, max_tokens=6).json()["output"] for text in texts
    ]
    before = {name: serving.metric(name, "tiny_generate") for name in ("nv_inference_count", "nv_inference_exec_count")}
    with ThreadPoolExecutor(24) as pool:
        together = list(
            pool.map(
                lambda t: serving.post("/v2/models/tiny_ensemble/generate", text=t, max_tokens=6).json()["output"],
                texts,
            )
        )
    count, runs = (serving.metric(name, "tiny_generate") - value for name, value in before.items())
    assert together == alone
    assert count == len(texts)
    assert runs < count  # several requests a run: real dynamic batching
    with ThreadPoolExecutor(12) as pool:
        streamed = list(
            pool.map(
                lambda t: serving.post("/v2/models/tiny/generate", text_input=t, max_tokens=6).json()["text_output"],
                texts,
            )
        )
    assert streamed == alone  # the streaming model batches by itself


def test_killing_the_server_is_reported(triton_python, exported, tmp_path):
    found = start(tmp_path, exported / "causal-lm", "--name", "m", "--repository", tmp_path / "repo")
    assert found.ready, found.stderr.read_text()
    guard = psutil.Process(found.ready["pid"])
    server = next(child for child in guard.children(recursive=True) if child.name() == "tritonserver")
    os.kill(server.pid, signal.SIGKILL)
    code, document = found.ended()
    assert code == 5
    assert "ended by signal 9 while it served" in document["error"]["message"]
    assert not (tmp_path / "ready.json").exists()


def test_a_taken_port_is_refused_before_the_start(triton_python, exported, tmp_path):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        ports = ("--http-port", "0", "--grpc-port", str(held.getsockname()[1]), "--metrics-port", "0")
        found = start(tmp_path, exported / "causal-lm", "--name", "m", "--repository", tmp_path / "repo", ports=ports)
        code, document = found.ended()
    assert code == 3
    assert "is taken" in document["error"]["message"]
    assert "--grpc-port 0" in document["error"]["hint"]
    assert not (tmp_path / "triton.log").exists()


@pytest.fixture
def repository(triton_python, exported, tmp_path):
    """A generated repository and the decision to serve it, for tests that spoil it."""
    spec = triton.TritonSpec(model=exported / "causal-lm", name="m", repository=tmp_path / "repo",
                             http_port=0, grpc_port=0, metrics_port=0)  # fmt: skip
    return triton.decide(spec, detect(sample_s=0))


def test_a_corrupt_config_is_refused_with_its_line(repository, tmp_path):
    config = repository.repository / "m_tokenizer" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size", "max_batchsize"))
    code, document = start(tmp_path, "--repository", repository.repository).ended()
    assert code == 2
    message = document["error"]["message"]
    assert "m_tokenizer/config.pbtxt:" in message
    assert "no field 'max_batchsize'" in message
    assert not (tmp_path / "triton.log").exists()  # no server was started
    # And when a server meets it all the same, its own log is understood.
    with pytest.raises(LlmopsError) as caught, triton.running(repository, Silent(), tmp_path / "server.log"):
        pass
    assert caught.value.exit_code == 2
    assert "config.pbtxt cannot be read" in caught.value.message or "ensemble names a model" in caught.value.message


def test_a_missing_package_in_the_environment_is_named(repository, tmp_path):
    program = repository.repository / "m_tokenizer" / "1" / "model.py"
    program.write_text(
        "import a_package_that_is_not_there\n" + program.read_text().replace("from __future__ import annotations\n", "")
    )
    code, document = start(tmp_path, "--repository", repository.repository).ended()
    assert code == 3
    assert "no package a_package_that_is_not_there" in document["error"]["message"]
    assert (tmp_path / "triton.log").is_file()


def test_a_graph_that_onnx_runtime_refuses_is_named(repository, tmp_path):
    graph = repository.repository / "m" / "assets" / "model.onnx"
    graph.unlink()  # a link to the export: only this one is spoilt
    graph.write_bytes(b"not a graph")
    code, document = start(tmp_path, "--repository", repository.repository).ended()
    assert code == 5
    assert "ONNX Runtime refuses the model" in document["error"]["message"]


def test_words_after_the_dashes_reach_the_server(repository, tmp_path):
    code, document = start(tmp_path, "--repository", repository.repository, extra=("--no-such-flag",)).ended()
    assert code == 2
    assert "--no-such-flag" in document["error"]["message"]


def test_a_detached_server_is_known_and_stopped(llmops, triton_python, exported, tmp_path):
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    begun = llmops(
        "serve", exported / "causal-lm", "--engine", "triton", "--name", "behind", *PORTS, "--detach", "--json", env=env
    )
    assert begun.code == 0, begun.stderr
    try:
        row = begun.json["data"]["servers"][0]
        assert (row["engine"], row["state"]) == ("triton", "ready")
        asked = httpx.post(
            f"{row['url']}/v2/models/behind/generate", json={"text_input": "Hello", "max_tokens": 3}, timeout=60
        )
        assert asked.json()["num_output_tokens"] == 3
        assert [each["name"] for each in llmops("ps", "--json", env=env).json["data"]["servers"]] == ["behind"]
        assert llmops("status", "behind", env=env).code == 0
    finally:
        assert llmops("stop", "behind", env=env).code == 0
    assert llmops("ps", "--json", env=env).json["data"]["servers"] == []


def test_a_generator_can_call_a_graph_backend(triton_python, exported, tmp_path):
    """The way of a TensorRT engine: a model of its own holds the graph, the generator asks it for logits."""
    from llmops.serve.triton.parts import RUNTIME, SHARED
    from llmops.serve.triton.pbtxt_write import write
    from llmops.serve.triton.placing import write_repository
    from llmops.serve.triton.repository import make_repository
    from llmops.serve.triton.spec import read_served

    spec, served = triton.TritonSpec(), read_served(exported / "causal-lm")
    made = make_repository(spec, served, "onnxruntime", "m")
    # The wheel has no onnxruntime backend: the same model, held by the Python backend.
    config = (
        made.texts["m_engine/config.pbtxt"]
        .replace('backend: "onnxruntime"', 'backend: "python"')
        .replace("KIND_AUTO", "KIND_CPU")
    )
    more = write(
        {
            "parameters": [
                {"key": k, "value": {"string_value": v}} for k, v in (("assets", "m/assets"), ("padding", "left"))
            ]
        }
    )
    links = (
        dict(made.links)
        | {f"m_engine/1/{file}": RUNTIME / file for file in SHARED}
        | {"m_engine/1/model.py": RUNTIME / "engine.py"}
    )
    links |= {f"m/assets/{file}": served.directory / file for file in served.files if file.startswith("model.onnx")}
    write_repository(
        replace(made, texts=dict(made.texts) | {"m_engine/config.pbtxt": config + more}, links=links), tmp_path / "repo"
    )
    with running(tmp_path, "--repository", tmp_path / "repo") as found:
        answers = {found.post("/v2/models/m/generate", text_input="Hello", max_tokens=5).json()["text_output"],
                   found.post("/v2/models/m_ensemble/generate", text="Hello", max_tokens=5).json()["output"]}  # fmt: skip
        assert len(answers) == 1
        assert found.metric("nv_inference_count", "m_engine") >= 10


def test_a_real_encoder_gives_onnx_runtimes_vectors(triton_python, minilm_onnx, tmp_path):
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    texts = [
        "a cat sits on the mat",
        "a kitten rests on a rug while it rains outside",
        "interest rates rose by a quarter point",
    ]
    with running(tmp_path, minilm_onnx, "--name", "minilm", "--repository", tmp_path / "repo") as found:
        body = {"inputs": [{"name": "text_input", "shape": [3, 1], "datatype": "BYTES", "data": texts}]}
        output = found.post("/v2/models/minilm/infer", **body).json()["outputs"][0]
    got = np.array(output["data"], np.float32).reshape(output["shape"])
    tokenizer = Tokenizer.from_file(str(minilm_onnx / "tokenizer.json"))
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(str(minilm_onnx / "model.onnx"), providers=["CPUExecutionProvider"])
    for text, vector in zip(texts, got, strict=True):
        ids = np.array([tokenizer.encode(text).ids])
        want = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
        assert np.abs(want - vector).max() < 1e-5
    assert got[0] @ got[1] > got[0] @ got[2]  # alike texts have alike vectors
