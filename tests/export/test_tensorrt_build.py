"""Real builds with TensorRT-RTX, which needs no GPU; each builder error provoked for real."""

import importlib.util
import json
import shutil

import pytest

from llmops.errors import LlmopsError
from llmops.export.children import run_worker
from llmops.progress import Silent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="pip install 'llmops[tensorrt]'"
)


@pytest.fixture(scope="session")
def tiny_engine(llmops, tiny_onnx, tmp_path_factory):
    """The tiny Llama's engine with the guide's profile and workspace, and the command's result."""
    out = tmp_path_factory.mktemp("engine") / "llama.plan"
    result = llmops("build", "tensorrt", tiny_onnx[0], "-o", out, "--backend", "rtx", "--json",
                    "--profile", "1x1/8x512/16x2048", "--workspace", "16GiB")  # fmt: skip
    assert result.code == 0, result.stderr
    return out, result


def test_the_guides_engine_is_built(tiny_engine):
    out, result = tiny_engine
    assert out.stat().st_size == result.json["data"]["size_bytes"] > 1_000_000
    record = json.loads(out.with_name("llama.plan.json").read_text())
    assert record["profiles"][0]["input_ids"] == {"min": [1, 1], "opt": [8, 512], "max": [16, 2048]}
    assert record["workspace_bytes"] == 16 * 2**30
    assert record["tensorrt"]["module"] == "tensorrt_rtx"
    assert [t["name"] for t in record["tensors"]] == ["input_ids", "attention_mask", "position_ids", "logits"]
    assert "causal-lm-engine" in [f["rule"] for f in result.json["findings"]]
    assert sorted(p.name for p in out.parent.iterdir()) == ["llama.plan", "llama.plan.json"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_products_in_16_bit_make_a_smaller_engine(llmops, tiny_onnx, tiny_engine, tmp_path, precision):
    result = llmops("build", "tensorrt", tiny_onnx[0], "-o", tmp_path / "m.plan", "--precision", precision, "--json")
    assert result.code == 0, result.stderr
    assert result.json["data"]["size_bytes"] < tiny_engine[1].json["data"]["size_bytes"]
    assert result.json["data"]["converted"]["cut"] == 0


def test_the_16_bit_graph_computes_nearly_the_same(tiny_onnx, tmp_path):
    import numpy as np
    import onnxruntime

    from llmops.export.tensorrt.precision import convert

    counts = convert(tiny_onnx[0] / "model.onnx", tmp_path / "model.onnx", "fp16")
    assert counts["products"] == 15  # seven a layer, and the head
    feed = {
        "input_ids": np.arange(3, 19)[None],
        "attention_mask": np.ones((1, 16), np.int64),
        "position_ids": np.arange(16)[None],
    }
    runs = [onnxruntime.InferenceSession(str(p / "model.onnx"), providers=["CPUExecutionProvider"]).run(None, feed)[0]
            for p in (tiny_onnx[0], tmp_path)]  # fmt: skip
    assert runs[1].dtype == np.float32
    assert np.abs(runs[0] - runs[1]).max() < 5e-3
    assert (runs[0].argmax(-1) == runs[1].argmax(-1)).mean() > 0.9


def test_what_is_missing_is_said_in_one_line_each(llmops, tiny_onnx, tmp_path):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    result = llmops("build", "tensorrt", tiny_onnx[0], "-o", tmp_path / "m.plan", "--backend", "tensorrt")
    assert result.code == 3
    assert "the package tensorrt is not installed: pip install tensorrt (its libraries come from" in result.stderr
    assert len(result.error_lines) == 2
    assert "--backend rtx" in result.error_lines[1]
    dry = llmops("build", "tensorrt", tiny_onnx[0], "-o", tmp_path / "m.plan", "--backend", "tensorrt", "-n", "--json")
    assert dry.code == 1
    assert not list(tmp_path.iterdir())


def job(onnx, out, **values):
    return {"kind": "tensorrt-build", "module": "tensorrt_rtx", "onnx": str(onnx), "out": str(out), "scratch": str(out.parent),
            "profiles": [], "workspace_bytes": 2**30, "compute_capabilities": [], "precision": "as-is", "opt_level": None,
            "timing_cache": None, "version_compatible": False, "hardware_compatible": False, "refit": False, "strip": False,
            "layer_info": None} | values  # fmt: skip


def provoke(tmp_path, **values):
    with pytest.raises(LlmopsError) as caught:
        run_worker(job(out=tmp_path / "m.plan", **values), tmp_path / "m.log", Silent())
    return caught.value


def test_the_builders_own_errors_are_mapped(tiny_onnx, tmp_path):
    """Past the pre-flight, straight to the builder: its log lines become causes."""
    model = tiny_onnx[0] / "model.onnx"
    assert "input_ids has no shapes in profile 0" in provoke(tmp_path, onnx=model, profiles=[
        {"attention_mask": {"min": [1, 1], "opt": [1, 1], "max": [1, 1]}}]).message  # fmt: skip
    assert "cannot be found" in provoke(tmp_path, onnx=tmp_path / "nowhere.onnx").message
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(model.read_bytes()[:5000])
    assert "damaged or cut off" in provoke(tmp_path, onnx=broken).message
    lonely = tmp_path / "lonely" / "model.onnx"
    lonely.parent.mkdir()
    shutil.copy(model, lonely)
    error = provoke(tmp_path, onnx=lonely)
    assert "weights file" in error.message
    assert error.exit_code == 2


def shapes(low, usual, high):
    return {"min": list(low), "opt": list(usual), "max": list(high)}


WHOLE = dict.fromkeys(("input_ids", "attention_mask", "position_ids"), shapes((1, 1), (8, 512), (16, 2048)))


@pytest.mark.parametrize(
    ("values", "code", "said"),
    [
        (
            {"profiles": [WHOLE | {"input_ids": shapes((1, 1, 1), (1, 1, 1), (1, 1, 1))}]},
            2,
            "input_ids has 2 dimensions",
        ),
        (
            {"profiles": [WHOLE | {"input_ids": shapes((1, 1), (1, 9), (1, 4))}]},
            2,
            "ascending order for the input input_ids",
        ),
        ({"profiles": [WHOLE], "workspace_bytes": 1}, 3, "more workspace than was allowed"),
        ({"profiles": [WHOLE], "workspace_bytes": 2**30}, 3, "GiB of workspace, and 1.0 GiB were allowed"),
        ({"profiles": [WHOLE], "refit": True, "workspace_bytes": 2**34}, 3, "no usable GPU or NVIDIA driver"),
        ({"profiles": [WHOLE], "version_compatible": True, "workspace_bytes": 2**34}, 3, "lean runtime"),
    ],
    ids=["rank", "order", "workspace", "workspace-by-a-little", "refit-without-gpu", "lean-runtime"],
)
def test_what_a_builder_refuses_later_is_mapped_too(tiny_onnx, tmp_path, values, code, said):
    from llmops.hardware.detect import detect

    if "refit" in values and detect(sample_s=0).usable_gpus:
        pytest.skip("there is a GPU")
    error = provoke(tmp_path, onnx=tiny_onnx[0] / "model.onnx", **values)
    assert said in error.message
    assert error.exit_code == code
    assert error.hint


def test_an_operator_without_an_importer_is_named(llmops, tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto as T
    from onnx import helper

    value = helper.make_tensor_value_info
    node = helper.make_node("FancyOp", ["x"], ["y"], domain="com.acme")
    graph = helper.make_graph([node], "g", [value("x", T.FLOAT, ["batch", 4])], [value("y", T.FLOAT, ["batch", 4])])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(tmp_path / "m.onnx"))
    result = llmops("build", "tensorrt", tmp_path / "m.onnx", "-o", tmp_path / "m.plan", "--profile", "1x4/1x4/8x4")
    assert result.code == 5
    assert "no importer and no plugin for an operator of the graph: FancyOp" in result.stderr
    assert not (tmp_path / "m.plan").exists()


def test_mixed_types_are_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto as T
    from onnx import helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g",
                              [value("x", T.FLOAT, [2, 4]), value("w", T.FLOAT16, [2, 4])], [value("y", T.FLOAT, [2, 4])])  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(tmp_path / "m.onnx")
    )
    error = provoke(tmp_path, onnx=tmp_path / "m.onnx")
    assert "mixes types" in error.message


def loading(engine, **values):
    return {"kind": "tensorrt-run", "action": "layers", "module": "tensorrt_rtx", "engine": str(engine),
            "layer_info": str(engine.with_name("l.json"))} | values  # fmt: skip


def test_an_engine_is_refused_before_loading_where_it_does_not_fit(tiny_engine, tmp_path):
    from llmops.hardware.detect import detect

    if detect(sample_s=0).usable_gpus:
        pytest.skip("there is a GPU")
    engine, record = tmp_path / "llama.plan", tmp_path / "llama.plan.json"
    shutil.copy(tiny_engine[0], engine)
    shutil.copy(tiny_engine[0].with_name(record.name), record)
    with pytest.raises(LlmopsError, match="no GPU here") as caught:
        run_worker(loading(engine), tmp_path / "m.log", Silent())
    assert caught.value.exit_code == 3
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-9])
    with pytest.raises(LlmopsError, match="it is damaged") as caught:
        run_worker(loading(engine), tmp_path / "m.log", Silent())
    assert caught.value.exit_code == 2
    record.unlink()  # without a record TensorRT itself says it
    with pytest.raises(LlmopsError, match="another version of TensorRT, or it is damaged"):
        run_worker(loading(engine), tmp_path / "m.log", Silent())
    engine.write_bytes(whole)
    with pytest.raises(LlmopsError, match="no usable GPU or NVIDIA driver"):
        run_worker(loading(engine), tmp_path / "m.log", Silent())


@pytest.mark.slow
def test_a_graph_with_a_cache_becomes_an_engine(llmops, tiny_llama, tmp_path):
    assert (
        llmops("export", "onnx", tiny_llama, "-o", tmp_path / "c", "--task", "causal-lm-cache", "--no-check").code == 0
    )
    result = llmops(
        "build", "tensorrt", tmp_path / "c", "-o", tmp_path / "c.plan", "--seq", "1:1:64", "--past", "0:512:2047"
    )
    assert result.code == 0, result.stderr


@pytest.fixture(scope="module")
def gpu_engine(llmops, tiny_onnx, tmp_path_factory):
    """An engine for this machine's GPU, with its layers written out: full TensorRT where it is, else RTX."""
    from llmops.export.tensorrt.plan import RTX_CAPABILITIES
    from llmops.hardware.detect import detect

    gpu = next((gpu for gpu in detect(sample_s=0).usable_gpus if gpu.vendor == "nvidia"), None)
    if gpu is None:
        pytest.skip("needs an NVIDIA GPU")
    full = importlib.util.find_spec("tensorrt") is not None
    if not full and gpu.compute_capability not in RTX_CAPABILITIES:
        pytest.skip(f"TensorRT-RTX has no kernels for {gpu.name}: pip install tensorrt")
    if importlib.util.find_spec("torch") is None or not __import__("torch").cuda.is_available():
        pytest.skip("needs torch with CUDA: it holds the tensors")
    out = tmp_path_factory.mktemp("gpu") / "m.plan"
    result = llmops("build", "tensorrt", tiny_onnx[0], "-o", out, "--backend", "tensorrt" if full else "rtx",
                    "--batch", "1:4:8", "--seq", "1:64:256", "--layer-info", out.with_name("layers.json"), "--json")  # fmt: skip
    assert result.code == 0, result.stderr
    assert json.loads(out.with_name("layers.json").read_text())
    return out, result.json["data"]["module"]


# TensorRT computes float32 products in TF32 where the GPU has it: 10 bits of the fraction.
TOLERANCE = 2e-2


def run_engine(gpu_engine, feed, tmp_path):
    import numpy as np

    engine, module = gpu_engine
    np.savez(tmp_path / "feed.npz", **feed)
    work = loading(
        engine, action="run", module=module, feed=str(tmp_path / "feed.npz"), outputs=str(tmp_path / "out.npz")
    )
    run_worker(work, tmp_path / "run.log", Silent())
    with np.load(tmp_path / "out.npz") as found:
        return found["logits"]


def feed_of(lengths, seed):
    """Left-padded rows of the given lengths."""
    import numpy as np

    width = max(lengths)
    ids = np.random.default_rng(seed).integers(3, 2000, (len(lengths), width))
    mask = np.array([[0] * (width - length) + [1] * length for length in lengths])
    return {"input_ids": ids, "attention_mask": mask, "position_ids": np.maximum(mask.cumsum(-1) - 1, 0)}


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [(1,), (16,), (13, 8), (3, 17, 32, 1), (256,) * 8], ids=str)
def test_the_engine_computes_what_onnx_runtime_does(gpu_engine, tiny_onnx, tmp_path, lengths):
    """Through the execution context, from the least shape of the profile to its largest, with padding."""
    import numpy as np
    import onnxruntime

    feed = feed_of(lengths, len(lengths))
    session = onnxruntime.InferenceSession(str(tiny_onnx[0] / "model.onnx"), providers=["CPUExecutionProvider"])
    want, got = session.run(["logits"], feed)[0], run_engine(gpu_engine, feed, tmp_path)
    seen = feed["attention_mask"] > 0
    assert got.shape == want.shape
    assert np.abs(want[seen] - got[seen]).max() < TOLERANCE
    ranked = np.sort(want[seen], axis=-1)
    clear = ranked[:, -1] - ranked[:, -2] > 2 * TOLERANCE  # nearer ones may swap without a mistake
    assert (want[seen].argmax(-1) == got[seen].argmax(-1))[clear].all()


@pytest.mark.gpu
def test_a_shape_outside_the_profile_is_named(gpu_engine, tmp_path):
    with pytest.raises(LlmopsError, match=r"cannot have the shape \[1, 300\]: the engine takes \[1, 1\] to \[8, 256\]"):
        run_engine(gpu_engine, feed_of((300,), 0), tmp_path)


@pytest.mark.gpu
def test_an_engine_of_another_gpu_or_version_is_refused(gpu_engine, tmp_path):
    engine, module = gpu_engine
    record = json.loads(engine.with_name("m.plan.json").read_text())
    for changes, said in (({"compute_capabilities": [[1, 0]]}, "compute capability 1.0"),
                          ({"tensorrt": {"module": module, "version": "0.1"}}, f"built with {module} 0.1")):  # fmt: skip
        shutil.copy(engine, tmp_path / "m.plan")
        (tmp_path / "m.plan.json").write_text(json.dumps(record | changes))
        with pytest.raises(LlmopsError, match=said) as caught:
            run_worker(loading(tmp_path / "m.plan", module=module), tmp_path / "m.log", Silent())
        assert caught.value.exit_code == 2
