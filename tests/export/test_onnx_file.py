"""The reader of ONNX files against the onnx package, and against files that are none."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.checkpoint.onnx_file import DTYPES, read_onnx
from llmops.errors import UsageError

onnx = pytest.importorskip("onnx", reason="pip install 'llmops[onnx]'")


def make(path, nodes, inputs, outputs, weights=(), domains=()):
    from onnx import helper

    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=list(weights))
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(d, 1) for d in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path


def value(name, kind, dims):
    return onnx.helper.make_tensor_value_info(name, kind, dims)


def test_facts_are_those_of_the_onnx_package(tiny_onnx):
    path = tiny_onnx[0] / "model.onnx"
    facts, model = read_onnx(path), onnx.load(str(path), load_external_data=False)
    assert [(t.name, t.dims) for t in facts.inputs] == [
        (v.name, tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)) for v in model.graph.input
    ]
    assert sum(facts.operators.values()) == len(model.graph.node)
    assert facts.initializers == len(model.graph.initializer)
    assert facts.opset == model.opset_import[0].version
    assert facts.external == {"model.onnx.data": (tiny_onnx[0] / "model.onnx.data").stat().st_size}
    assert facts.missing == ()
    parameters = sum(int(onnx.numpy_helper.np.prod(t.dims)) for t in model.graph.initializer)
    assert facts.parameters == parameters


def test_types_have_the_numbers_of_the_format():
    for name, number in onnx.TensorProto.DataType.items():
        assert DTYPES[number] == name


def test_external_data_that_is_gone_is_an_error(tiny_onnx, tmp_path):
    import shutil

    shutil.copy(tiny_onnx[0] / "model.onnx", tmp_path)
    facts = read_onnx(tmp_path / "model.onnx")
    assert facts.missing == ("model.onnx.data",)
    assert facts.findings[0].severity == "error"
    (tmp_path / "model.onnx.data").write_bytes(b"short")
    assert read_onnx(tmp_path / "model.onnx").missing == ("model.onnx.data",)


def test_what_tensorrt_would_refuse(tmp_path):
    from onnx import TensorProto as T
    from onnx import helper

    branch = helper.make_graph(
        [helper.make_node("BitShift", ["x", "x"], ["b"], direction="LEFT")], "b", [], [value("b", T.UINT8, [1])]
    )
    nodes = [
        helper.make_node("Unique", ["x"], ["u"]),
        helper.make_node("FancyOp", ["x"], ["f"], domain="com.acme"),
        helper.make_node("GroupQueryAttention", ["x"], ["g"], domain="com.microsoft"),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    path = make(tmp_path / "m.onnx", nodes, [value("x", T.STRING, ["n"]), value("c", T.BOOL, [])], [value("y", T.FLOAT, [1])],
                domains=("com.acme", "com.microsoft"))  # fmt: skip
    said = {f.rule: f.message for f in read_onnx(path).findings}
    assert set(said) == {"tensorrt-operator", "tensorrt-custom-operator", "tensorrt-type"}
    messages = " ".join(f.message for f in read_onnx(path).findings)
    for word in ("Unique", "BitShift (2x)", "com.acme::FancyOp", "x has the type STRING"):
        assert word in messages
    assert "GroupQueryAttention" not in messages


def test_tensorrts_own_parser_answers_the_same(tmp_path):
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'llmops[tensorrt]'")
    from llmops.checkpoint.onnx_facts import TENSORRT_CONTRIB, TENSORRT_REFUSES

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert {name for name in standard if not parser.supports_operator(name)} <= TENSORRT_REFUSES
    assert not [name for name in TENSORRT_REFUSES if parser.supports_operator(name)]
    assert all(parser.supports_operator(name) for name in TENSORRT_CONTRIB)
    del parser, network, builder


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=400))
def test_bytes_that_are_no_model_are_refused_with_one_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("x") / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="not an ONNX file"):
        read_onnx(path)


@settings(max_examples=60)
@given(data=st.data())
def test_a_cut_or_changed_model_never_breaks_the_reader(tmp_path_factory, data, tiny_onnx):
    whole = (tiny_onnx[0] / "model.onnx").read_bytes()
    end = data.draw(st.integers(1, len(whole) - 1))
    changed = bytearray(whole[:end])
    changed[data.draw(st.integers(0, end - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("x") / "m.onnx"
    path.write_bytes(changed)
    with contextlib.suppress(UsageError):
        json.dumps([t.name for t in read_onnx(path).inputs])


def test_an_empty_or_missing_file(tmp_path):
    (tmp_path / "e.onnx").touch()
    for path in (tmp_path / "e.onnx", tmp_path / "no.onnx", tmp_path):
        with pytest.raises(UsageError):
            read_onnx(path)


def test_inspect_prints_what_is_inside(llmops, tiny_onnx):
    result = llmops("inspect", tiny_onnx[0] / "model.onnx")
    assert result.code == 0, result.stderr
    for word in ("input_ids", "sequence", "MatMul"):
        assert word in result.stdout
