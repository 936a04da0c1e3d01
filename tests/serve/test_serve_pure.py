"""Decisions and readings without a process: engine choice, argv and environment, phases of a start, text from tokens."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.checkpoint import read_model
from llmops.checkpoint.facts import LayerGroup, Quantization, Tokenizer
from llmops.errors import MachineError, UsageError
from llmops.hardware.host import Cpu, Gpu, Host, Limits, Memory
from llmops.planning.types import LoraSpec
from llmops.serve.choose import choose_engine
from llmops.serve.explain import shortened
from llmops.serve.launch import launch
from llmops.serve.phases import PhaseReader
from llmops.serve.preflight import check_plugin
from llmops.serve.servers.metrics import Histogram
from llmops.serve.servers.text_stream import TextStream
from llmops.serve.sizing import Wanted, size
from llmops.serve.spec import ServeSpec
from llmops.units import GIB


def made_facts():
    """Facts of a model of a billion parameters, from a configuration alone."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "vocab_size": 128256, "max_position_embeddings": 131072, "tie_word_embeddings": True, "dtype": "bfloat16",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps(config))
        facts = read_model(Path(directory))
    tokenizer = Tokenizer(present=True, kind="bpe", chat_template="tokenizer_config.json")
    return replace(facts, path=Path("/m/small"), name="small", tokenizer=tokenizer, complete=True, findings=())


FACTS = made_facts()
GGUF = replace(FACTS, path=Path("/m/small.gguf"), format="gguf", dtype="float16")
HOST = Host(
    "paper", "paper", "Linux", Cpu("cpu", 8, 8, 8, None, 0.0, 4), Memory(32 * GIB, 32 * GIB, None), Limits()
)  # fmt: skip
CARD = Gpu(0, "NVIDIA H100 80GB HBM3", "GPU-0", int(79.19 * GIB), int(79.19 * GIB), (9, 0))
GPU_HOST = replace(HOST, gpus=(CARD,))


def built(facts=FACTS, host=HOST, engine="transformers", port=8000, **more):
    spec = ServeSpec(model=facts.path, port=port, **more)
    plan = size([Wanted(spec, facts, engine, port)], host)[0]
    return launch(spec, facts, plan, Path("/e/python"), port)


def after(argv, flag):
    return argv[argv.index(flag) + 1]


@pytest.mark.parametrize(
    ("facts", "wanted", "gpus", "engine", "why"),
    [
        (FACTS, "auto", 0, "transformers", "no GPU"),
        (FACTS, "auto", 2, "vllm", "2 usable GPUs"),
        (GGUF, "auto", 2, "llamacpp", ".gguf"),
        (FACTS, "vllm", 0, "vllm", "--engine"),
    ],
)
def test_the_engine_is_chosen_by_file_and_hardware(facts, wanted, gpus, engine, why):
    choice = choose_engine(facts, wanted, gpus=gpus)
    assert choice.engine == engine
    assert why in choice.reason


@pytest.mark.parametrize(
    ("facts", "wanted", "error", "hint"),
    [
        (GGUF, "transformers", UsageError, "llamacpp"),
        (FACTS, "llamacpp", UsageError, "transformers"),
        (replace(FACTS, format="lora"), "auto", UsageError, "--lora"),
        (replace(FACTS, is_generative=False), "auto", UsageError, "export"),
        (replace(FACTS, tokenizer=Tokenizer(present=False)), "auto", UsageError, "tokenizer.json"),
        (replace(FACTS, quantization=Quantization("nf4", "bitsandbytes", 4)), "vllm", UsageError, "transformers"),
        (replace(FACTS, quantization=Quantization("gptq", "gptq", 8, 128)), "vllm", UsageError, "--bits 4"),
        (replace(FACTS, groups=(LayerGroup("full", 2, 1, 16, 16),)), "vllm", MachineError, "transformers"),
    ],
)
def test_what_an_engine_cannot_serve_is_said_before(facts, wanted, error, hint):
    with pytest.raises(error) as caught:
        choose_engine(facts, wanted, gpus=0)
    assert hint in caught.value.hint


def test_formats_that_vllm_reads_on_gpus_only_and_one_that_it_reads_nowhere():
    for stored in (Quantization("nf4", "bitsandbytes", 4), Quantization("gptq", "gptq", 8, 128)):
        assert choose_engine(replace(FACTS, quantization=stored), "vllm", gpus=1).engine == "vllm"
    ordered = replace(
        FACTS,
        quantization=Quantization("gptq", "gptq", 4, 128),
        config={"quantization_config": {"quant_method": "gptq", "desc_act": True}},
    )
    with pytest.raises(UsageError, match="activation order"):
        choose_engine(ordered, "vllm", gpus=1)


def test_a_head_size_matters_only_to_vllm_on_the_cpu():
    odd = replace(FACTS, groups=(LayerGroup("full", 2, 1, 16, 16),))
    assert choose_engine(odd, "vllm", gpus=1).engine == "vllm"
    assert choose_engine(odd, "transformers", gpus=0).engine == "transformers"


def test_argv_of_transformers():
    made = built()
    assert made.argv[:3] == ("/e/python", "-m", "llmops.serve.servers.transformers_server")
    assert after(made.argv, "--model") == "/m/small"
    assert after(made.argv, "--threads") == "4"
    assert after(made.argv, "--dtype") == "bfloat16"
    assert int(after(made.argv, "--kv-tokens")) >= int(after(made.argv, "--max-model-len"))
    assert made.env["OMP_NUM_THREADS"] == "4"
    assert made.env["OMP_WAIT_POLICY"] == "PASSIVE"


def test_argv_of_llamacpp():
    made = built(GGUF, engine="llamacpp", threads=3, max_model_len=2048)
    assert made.argv[:3] == ("/e/python", "-m", "llmops.serve.servers.llamacpp_server")
    assert after(made.argv, "--threads") == "3"
    assert after(made.argv, "--max-model-len") == "2048"


def test_argv_of_vllm_on_the_cpu():
    lora = LoraSpec(name="a", path="/l/a")
    made = built(engine="vllm", kv_cache_gib=2.5, loras=(lora,), max_lora_rank=8, extra=("--seed", "1"))
    assert made.argv[:5] == ("/e/python", "-m", "vllm.entrypoints.cli.main", "serve", "/m/small")
    assert "--enforce-eager" in made.argv
    assert after(made.argv, "--lora-modules") == "a=/l/a"
    assert made.argv[-2:] == ("--seed", "1")
    assert made.env["VLLM_CPU_KVCACHE_SPACE"].isdigit(), "vLLM reads it with int()"
    assert made.env["VLLM_NO_USAGE_STATS"] == "1"
    assert made.deadline_s >= 300


def test_argv_of_vllm_in_a_container():
    lora = LoraSpec(name="a", path="/l/a")
    made = built(host=GPU_HOST, engine="vllm", image="vllm/vllm-openai:v0.19.0", loras=(lora,), max_lora_rank=8,
                 api_key_env="KEY", port=8123, extra=("--seed", "1"))  # fmt: skip
    line = " ".join(made.argv)
    assert made.argv[:4] == ("/e/python", "run", "--rm", "--init")
    assert after(made.argv, "--publish") == "127.0.0.1:8123:8000"
    assert after(made.argv, "--gpus") == '"device=0"'
    assert "--volume /m/small:/m/small:ro --volume /l/a:/l/a:ro" in line
    assert "--env VLLM_API_KEY --entrypoint vllm vllm/vllm-openai:v0.19.0 serve /m/small" in line
    assert "--host 0.0.0.0 --port 8000" in line
    assert line.endswith("--seed 1")
    assert "CUDA_VISIBLE_DEVICES" not in line
    podman = launch_argv_with(Path("/usr/bin/podman"), replace(GPU_HOST, gpus=(CARD, replace(CARD, index=1))))
    assert "--device nvidia.com/gpu=0 --device nvidia.com/gpu=1" in " ".join(podman)


def launch_argv_with(program, host):
    spec = ServeSpec(model=FACTS.path, image="i:v0.19.0", tensor_parallel=2)
    return launch(spec, FACTS, size([Wanted(spec, FACTS, "vllm", 1)], host)[0], program, 1).argv


def test_compiling_can_be_asked_for():
    assert "--enforce-eager" not in built(engine="vllm", enforce_eager=False).argv


def test_argv_of_vllm_on_a_gpu():
    made = built(host=GPU_HOST, engine="vllm", gpu_memory_utilization=0.8)
    assert after(made.argv, "--gpu-memory-utilization") == "0.8"
    assert made.env["CUDA_VISIBLE_DEVICES"] == "0"
    assert "VLLM_CPU_KVCACHE_SPACE" not in made.env
    assert "--enforce-eager" not in made.argv


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("0.0.0.0", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000")],
)
def test_the_url_can_be_called_from_here(host, url):
    spec = ServeSpec(model=FACTS.path, host=host)
    plan = size([Wanted(spec, FACTS, "transformers", 8000)], HOST)[0]
    made = launch(spec, FACTS, plan, Path("/e/python"), 8000)
    assert made.url == url
    assert after(made.argv, "--host") == host


def test_the_deadline_grows_with_the_model():
    large = replace(FACTS, size_bytes=140 * 10**9)
    plan = size([Wanted(ServeSpec(model=FACTS.path), FACTS, "transformers", 1)], HOST)[0]
    spec = ServeSpec(model=FACTS.path)
    assert (
        launch(spec, large, plan, Path("p"), 1).deadline_s > 20 * launch(spec, FACTS, plan, Path("p"), 1).deadline_s / 3
    )


def test_phases_of_a_vllm_start():
    reader = PhaseReader("vllm")
    lines = [
        "(APIServer pid=1) INFO 11-22 09:16:37 [api_utils.py:347]  version 0.32.0",
        "(APIServer pid=1) WARNING [vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs",
        "(EngineCore pid=2) INFO [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/m', torch.compile",
        "(Worker pid=3) INFO [cpu_model_runner.py:68] Starting to load model /m...",
        "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00]",
        "(Worker pid=3) INFO [default_loader.py:501] Loading weights took 0.01 seconds",
        "(EngineCore pid=2) INFO [kv_cache_utils.py:2327] CPU KV cache size: 4,194,304 tokens, Maximum concurrency",
        "(APIServer pid=1) INFO [entry.py:140] Starting vLLM server on http://127.0.0.1:36681",
        "INFO:     Application startup complete.",
    ]
    percents = []
    phases = []
    for line in lines:
        phase = reader.feed(line)
        phases += [phase] if phase else []
        percents += [reader.percent] if reader.percent is not None else []
    assert phases == [
        "reading the configuration", "starting the engine process", "loading weights", "weights loaded",
        "KV cache made", "opening the port", "listening",
    ]  # fmt: skip
    assert percents == [50]
    assert reader.kv_tokens == 4194304


WORDS = [" a", "b", "STOP", "S", "T", "é", "日本", "\n"]
PIECES = [piece.encode() for piece in WORDS] + [b"\xe6", b"\x97", b"\xa5"]


def decode(tokens):
    return b"".join(PIECES[token] for token in tokens).decode("utf-8", "replace")


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=40), st.data())
def test_streamed_text_is_the_whole_text(tokens, data):
    stream = TextStream(decode)
    pieces, at = [], 0
    while at < len(tokens):
        step = data.draw(st.integers(1, 5))
        pieces.append(stream.push(tokens[at : at + step]))
        at += step
    pieces.append(stream.finish())
    whole = decode(tokens)
    # Bytes that are no character are shown as replacement marks; how many depends on where they are cut.
    assert "".join(pieces).replace("�", "") == whole.replace("�", "")


@given(st.lists(st.integers(0, 7), max_size=40), st.data())
def test_a_stop_string_is_never_shown_not_even_in_part(tokens, data):
    stream = TextStream(decode, ("STOP", "日本\n"))
    shown, at = "", 0
    whole = decode(tokens)
    ends = [whole.find(stop) for stop in ("STOP", "日本\n") if stop in whole]
    expected = whole[: min(ends)] if ends else whole
    while at < len(tokens) and not stream.stopped:
        step = data.draw(st.integers(1, 3))
        shown += stream.push(tokens[at : at + step])
        assert expected.startswith(shown)
        at += step
    shown += stream.finish()
    assert stream.stopped == bool(ends)
    assert shown == expected


@given(st.lists(st.floats(0, 100), max_size=30))
def test_histogram_buckets_are_cumulative_and_whole(values):
    histogram = Histogram((0.5, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    counts = [int(line.rpartition(" ")[2]) for line in histogram.lines("h", 'm="x"') if "_bucket" in line]
    assert counts == [sum(value <= bound for value in values) for bound in (0.5, 1.0, 10.0, float("inf"))]


@pytest.mark.parametrize(
    ("version", "plugin", "refused"), [("0.32.0", False, True), ("0.32.0", True, False), ("0.27.1", False, False)]
)
def test_bitsandbytes_needs_the_plugin_of_newer_vllm(tmp_path, version, plugin, refused):
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    packages.mkdir(parents=True)
    if plugin:
        (packages / "vllm_bnb_plugin-0.0.3.dist-info").mkdir()
    spec = ServeSpec(model=FACTS.path, quantization="bitsandbytes")
    stored = replace(FACTS, quantization=Quantization("nf4", "bitsandbytes", 4))
    python = tmp_path / "bin" / "python"
    check_plugin(ServeSpec(model=FACTS.path), FACTS, "vllm", python, version)
    for asked, facts in ((spec, FACTS), (ServeSpec(model=FACTS.path), stored)):
        if refused:
            with pytest.raises(MachineError, match="has no bitsandbytes of its own") as caught:
                check_plugin(asked, facts, "vllm", python, version)
            assert f"{python} -m pip install vllm-bnb-plugin" in caught.value.hint
        else:
            check_plugin(asked, facts, "vllm", python, version)
        check_plugin(asked, facts, "transformers", python, version)


def test_evidence_is_shown_without_what_the_engine_puts_before_each_line():
    said = "FileNotFoundError: [Errno 2] No such file or directory: '/a/adapter_config.json'"
    vllm = "(Worker pid=12) ERROR 11-22 15:28:03 [multiproc_executor.py:1063] "
    for before in (vllm, "(EngineCore_DP0 pid=7) ", "/a/env/bin/python3.12: ", ""):
        assert shortened(before + said) == said


IDLE = replace(HOST, cpu=replace(HOST.cpu, free=8))


@pytest.mark.parametrize(
    ("host", "fixed", "threads", "alone"), [(IDLE, None, "8", True), (HOST, None, "4", False), (IDLE, 2, "2", False)]
)
def test_vllm_ties_its_threads_to_cores_only_where_the_machine_is_its_own(host, fixed, threads, alone):
    """It would take all cores but one whatever it is told, and a second server the same ones."""
    env = built(host=host, engine="vllm", threads=fixed).env
    assert env["OMP_NUM_THREADS"] == threads
    assert env.get("VLLM_CPU_OMP_THREADS_BIND") == (None if alone else "nobind")


def test_servers_on_one_machine_share_its_cores():
    specs = [ServeSpec(model=FACTS.path, name=name, port=0) for name in ("a", "b")]
    plans = size([Wanted(spec, replace(FACTS, name=spec.name), "vllm", 1) for spec in specs], IDLE)
    assert [plan.threads for plan in plans] == [4, 4]
    assert all(plan.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind" for plan in plans)
    copies = ServeSpec(model=FACTS.path, port=1, replicas=2)
    (plan,) = size([Wanted(copies, FACTS, "ray", 1)], IDLE)
    config = after(launch(copies, FACTS, plan, Path("/e/python"), 1, engine="ray").argv, "--config")
    assert '"OMP_NUM_THREADS": "4"' in config
    assert '"VLLM_CPU_OMP_THREADS_BIND": "nobind"' in config
