"""Real engines on the tiny random model, through the command line: published, rejected, killed, repeated."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import psutil
import pytest

# Not importorskip: importing these takes ten seconds of CPU, and only children use them.
MISSING = [name for name in ("gptqmodel", "bitsandbytes") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")

TEXT = ("--samples", "32", "--seq-len", "256")
GPTQ = ("--method", "gptq", "--group-size", "32", *TEXT)
SMALL_GATE = ("--chunks", "2", "--chunk-tokens", "128")


@pytest.fixture(scope="module")
def gptq(llmops, tiny_llama, tmp_path_factory):
    """One whole GPTQ run: its result, and where it is."""
    out = tmp_path_factory.mktemp("gptq") / "tiny-gptq4"
    result = llmops("quantize", tiny_llama, "-o", out, *GPTQ, *SMALL_GATE, "--model-card", "--threads", "1", "--json")
    assert result.code == 0, result.stderr
    return result, out


def test_gptq_passes_and_says_everything(gptq):
    result, out = gptq
    data = result.json["data"]
    assert (data["method"], data["engine"], data["bits"], data["group_size"]) == ("gptq", "gptqmodel", 4, 32)
    assert data["sizes"]["after_bytes"] < data["sizes"]["before_bytes"]
    assert data["seconds"] > 0
    assert data["peak_rss_bytes"] > 10**8
    assert data["calibration"]["tokens"] == 32 * 256
    quality = data["quality"]
    assert quality["tokens"] == 2 * 63
    assert 0.99 < quality["ppl_ratio"] < 1.01
    assert 0 < quality["kl_mean"] <= quality["kl_p99"] < 0.01
    assert data["gate"]["passed"] is True
    assert data["gate"]["thresholds"]["max_kl"] == 0.3
    assert data["serve_command"].startswith(f"llmops serve {out}")
    assert {"llmops", "gptqmodel", "torch", "transformers"} <= set(data["versions"])
    assert len(data["worst_losses"]) == 5


def test_what_lies_beside_the_weights(gptq):
    result, out = gptq
    record = json.loads((out / "llmops-quantize.json").read_text())
    assert record == result.json
    assert (out / "tokenizer.json").is_file()
    assert (out / "chat_template.jinja").is_file()
    assert "quantised to 4 bit" in (out / "README.md").read_text()
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o666 & ~mask}


def test_nothing_in_the_checkpoint_names_a_path_of_this_machine(gptq):
    _, out = gptq
    for name in ("config.json", "quantize_config.json"):
        assert ".partial" not in (out / name).read_text()


def test_a_checkpoint_of_autogptq_loads(llmops, gptq, tiny_llama, tmp_path):
    """auto-gptq wrote the same tensors under another name, with fewer words about them and those in a file of their own."""
    model = tmp_path / "old"
    shutil.copytree(gptq[1], model)
    (model / "model.safetensors").rename(model / "gptq_model-4bit-32g.safetensors")
    config = json.loads((model / "config.json").read_text())
    del config["quantization_config"]
    (model / "config.json").write_text(json.dumps(config))
    settings = {
        "bits": 4,
        "group_size": 32,
        "damp_percent": 0.01,
        "desc_act": False,
        "static_groups": False,
        "sym": True,
    }
    settings |= {"true_sequential": True, "model_name_or_path": None, "model_file_base_name": None}
    (model / "quantize_config.json").write_text(json.dumps(settings))
    result = llmops("evaluate", model, "--against", tiny_llama, *SMALL_GATE, "--threads", "1", "--json")
    assert result.code == 0, result.stderr
    assert result.json["data"]["bits"] == 4
    now, then = result.json["data"]["quality"], gptq[0].json["data"]["quality"]
    assert now["kl_mean"] == pytest.approx(then["kl_mean"], rel=1e-6)


def test_a_bad_result_is_kept_apart_and_exits_with_one(llmops, tiny_llama, tmp_path):
    out = tmp_path / "nf4"
    result = llmops(
        "quantize", tiny_llama, "-o", out, "--method", "bnb-nf4", *SMALL_GATE, "--max-kl", "1e-12", "--json"
    )
    assert result.code == 1, result.stderr
    assert not out.exists()
    rejected = tmp_path / "nf4.rejected"
    record = json.loads((rejected / "llmops-quantize.json").read_text())
    assert record["ok"] is False
    assert record["data"]["out"] == str(rejected)
    assert [f["rule"] for f in record["findings"] if f["severity"] == "error"] == ["quality-kl"]


def test_evaluate_of_a_model_against_itself_is_exactly_equal(llmops, tiny_llama):
    result = llmops("evaluate", tiny_llama, "--against", tiny_llama, *SMALL_GATE, "--json")
    assert result.code == 0, result.stderr
    quality = result.json["data"]["quality"]
    assert (quality["kl_max"], quality["ppl_ratio"], quality["top1_agreement"]) == (0.0, 1.0, 1.0)
    assert set(result.json["data"]["by_language"]) == {"ja", "en"}


def test_int8_does_not_flood_the_log(tiny_llama, llmops, tmp_path):
    out = tmp_path / "int8"
    result = llmops("quantize", tiny_llama, "-o", out, "--method", "bnb-int8", "--no-gate")
    assert result.code == 0, result.stderr
    import llmops.quantize as package

    held_out = Path(package.__file__).parent / "data" / "heldout.ja-en.jsonl"
    job = tmp_path / "compare.json"
    job.write_text(
        json.dumps(
            {
                "base": str(tiny_llama),
                "model": str(out),
                "text": str(held_out),
                "chunks": 2,
                "chunk_tokens": 64,
                "least_chunks": 2,
                "device": "cpu",
                "dtype": "bfloat16",
                "threads": 1,
                "seed": 0,
                "prompts": [],
                "sample_tokens": 0,
            }
        )
    )
    launcher = Path(package.__file__).parent / "adapters" / "launch.py"
    done = subprocess.run([sys.executable, launcher, "compare", job], capture_output=True, text=True, check=True)
    assert "MatMul8bitLt" not in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["data"]["quality"]["tokens"] == 2 * 31


class Running:
    """llmops quantising in the background, caught while its engine works."""

    def __init__(self, model, out, *options):
        self.out = out
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llmops", "quantize", str(model), "-o", str(out), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.family = self._wait_for_engine()

    def _wait_for_engine(self) -> list[psutil.Process]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.stderr.read()
            family = psutil.Process(self.process.pid).children(recursive=True)
            if len(family) == 2 and list(self.out.parent.glob("*.partial/*/job/*.json")):
                return family
            time.sleep(0.02)
        raise AssertionError("the engine did not start")

    @property
    def engine(self) -> psutil.Process:
        return self.family[-1]

    def wait_until_all_are_gone(self) -> None:
        _, alive = psutil.wait_procs(self.family, timeout=20)
        assert not alive


def test_kill_9_leaves_no_output_and_a_rerun_gives_the_same_bytes(llmops, gptq, tiny_llama, tmp_path):
    """The rerun has the input, seed and threads of the first whole run, so its weights are equal byte for byte."""
    out = tmp_path / "out"
    options = (*GPTQ, "--no-gate", "--threads", "1")
    running = Running(tiny_llama, out, *options)
    # Meanwhile a second run into the same place is turned away.
    second = llmops("quantize", tiny_llama, "-o", out, *options)
    assert second.code == 3
    assert "another llmops" in second.stderr
    running.process.kill()
    running.process.communicate()
    running.wait_until_all_are_gone()
    assert not out.exists()
    again = llmops("quantize", tiny_llama, "-o", out, *options, "--json")
    assert again.code == 0, again.stderr
    assert again.json["data"]["weights_sha256"] == gptq[0].json["data"]["weights_sha256"]
    assert again.json["data"]["gate"]["passed"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing(tiny_llama, tmp_path, stop, code):
    running = Running(tiny_llama, tmp_path / "out", "--method", "bnb-nf4", "--no-gate")
    running.process.send_signal(stop)
    running.process.communicate(timeout=30)
    running.wait_until_all_are_gone()
    assert running.process.returncode == code
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_the_system_kills_is_out_of_memory(tiny_llama, tmp_path):
    running = Running(tiny_llama, tmp_path / "out", "--method", "bnb-nf4", "--no-gate")
    running.engine.kill()
    _, stderr = running.process.communicate(timeout=30)
    assert running.process.returncode == 3
    assert "out of memory" in stderr
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_fails_is_explained_and_leaves_nothing(llmops, tiny_llama, tmp_path):
    """A real environment in which the engine is registered and what it rests on is missing."""
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env").glob("lib/python3*/site-packages"))
    (site / "gptqmodel-7.6.0.dist-info").mkdir()
    before = sorted(tmp_path.iterdir())
    state = tmp_path / "env" / "state"
    result = llmops(
        "quantize",
        tiny_llama,
        "-o",
        tmp_path / "out",
        *GPTQ,
        "--engine-python",
        tmp_path / "env" / "bin" / "python",
        "--json",
        env={"LLMOPS_STATE_DIR": str(state)},
    )
    assert result.code == 5, result.stderr
    assert "No module named 'transformers'" in result.json["error"]["message"]
    log = next((state / "logs").iterdir())
    assert str(log) in result.json["error"]["hint"]
    assert "Traceback" in log.read_text()
    assert sorted(tmp_path.iterdir()) == before


# Runs in a mount namespace of its own: quantises onto a small disk, and fills that disk while the engine works.
FULL_DISK = """
import errno, os, subprocess, sys, time
disk, *command = sys.argv[1:]
llmops = subprocess.Popen(command)
deadline = time.monotonic() + 60
while not any("job" in names for _, names, _ in os.walk(disk)) and llmops.poll() is None:
    assert time.monotonic() < deadline
    time.sleep(0.02)
with open(disk + "/filler", "wb", buffering=0) as file:
    try:
        while True:
            file.write(b"0" * 4096)
    except OSError as error:
        assert error.errno == errno.ENOSPC
code = llmops.wait()
print(sorted(set(os.listdir(disk)) - {"filler"}))
sys.exit(code)
"""
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec")


def test_a_disk_that_fills_up_meanwhile_is_named_and_nothing_is_left(tiny_llama, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=16m tmpfs '{disk}'"
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, mount], capture_output=True).returncode:
        pytest.skip("this system lets no user mount a disk of their own")
    command = [sys.executable, "-m", "llmops", "quantize", str(tiny_llama), "-o", str(disk / "out")]
    command += ["--method", "bnb-nf4", "--no-gate"]
    done = subprocess.run(
        [*NAMESPACE, f'{mount}; exec "$@"', "sh", sys.executable, "-c", FULL_DISK, str(disk), *command],
        capture_output=True,
        text=True,
        env=os.environ | {"LLMOPS_STATE_DIR": str(tmp_path / "state"), "HF_HUB_OFFLINE": "1"},
        timeout=120,
    )
    assert done.returncode == 3, done.stderr
    assert "the disk is full" in done.stderr
    assert "free some space" in done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
