"""What quantize decides on machines with GPUs, seen through the real NVML binding over a library that plays a driver."""

import importlib.util
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the stub of libnvidia-ml is compiled with gcc")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A machine with llm-compressor's packages registered, and whatever GPUs the scene has."""
    root = tmp_path_factory.mktemp("machine")
    source = Path(__file__).parents[1] / "hardware" / "nvml_stub.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", root / "libnvidia-ml.so.1", source], check=True)
    venv.create(root / "env", with_pip=False)
    (next((root / "env").glob("lib/python3*/site-packages")) / "llmcompressor-0.14.0.dist-info").mkdir()
    return root


@pytest.fixture
def planned(llmops, tiny_llama, tmp_path, machine):
    """``quantize --dry-run`` on a scene."""

    def run(*options, **scene):
        env = {"LD_LIBRARY_PATH": str(machine), "LLMOPS_ENGINE_PYTHON_LLMCOMPRESSOR": str(machine / "env/bin/python")}
        env |= {name.upper(): str(value) for name, value in scene.items()}
        result = llmops("quantize", tiny_llama, "-o", tmp_path / "out", *options, "--dry-run", "--json", env=env)
        assert list(tmp_path.iterdir()) == []
        return result

    return run


def test_a_gpu_that_computes_in_float8_gets_fp8(planned):
    result = planned("--target", "vllm", stub_cc=90)
    assert result.code == 0, result.stderr
    data = result.json["data"]
    assert (data["method"], data["engine"], data["device"]) == ("fp8", "llmcompressor", "cuda:0")
    assert "float8" in data["why"]


@pytest.mark.skipif(importlib.util.find_spec("gptqmodel") is None, reason="pip install 'llmops[gptq]'")
def test_an_older_gpu_gets_gptq(planned):
    data = planned("--group-size", "32", "--target", "triton", stub_cc=80).json["data"]
    assert (data["method"], data["bits"], data["device"]) == ("gptq", 4, "cuda:0")


@pytest.mark.parametrize(
    ("options", "scene", "code", "said"),
    [
        (("--method", "w8a8", "--target", "vllm"), {"stub_cc": 100}, 2, "int8 kernels do not exist for Blackwell"),
        (("--method", "fp8", "--target", "triton"), {"stub_cc": 75}, 2, "it needs compute capability 8.0"),
        (("--method", "w8a8"), {"stub_total": 501, "stub_used": 1}, 3, "the model alone is"),
        (("--method", "w8a8", "--device", "cuda:3"), {}, 3, "there is no usable GPU for --device cuda:3"),
    ],
)
def test_what_these_gpus_cannot_do_is_refused(planned, options, scene, code, said):
    result = planned(*options, **scene)
    assert result.code == code, result.stderr
    assert said in result.stderr
