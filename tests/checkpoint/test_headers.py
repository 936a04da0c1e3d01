"""The two header parsers: right on whole files, and never more than a plain refusal on anything else."""

import contextlib
import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import GGUF_TENSORS, gguf, llama_tensors, safetensors

from llmops.checkpoint.gguf import GGML_TYPES
from llmops.checkpoint.gguf import read_header as read_gguf
from llmops.checkpoint.safetensors import read_header as read_safetensors
from llmops.checkpoint.tensors import BadFileError


def test_safetensors_header_is_read_with_shapes_and_sizes(tmp_path):
    header = read_safetensors(safetensors(tmp_path / "a.safetensors", {"x": ("BF16", [3, 5]), "y": ("F32", [])}))
    assert {(t.name, t.dtype, t.shape, t.size_bytes) for t in header.tensors} == {
        ("x", "BF16", (3, 5), 30),
        ("y", "F32", (), 4),
    }
    assert header.metadata == {"format": "pt"}


def test_safetensors_agrees_with_the_library(tmp_path):
    library = pytest.importorskip("safetensors")
    numpy_side = pytest.importorskip("safetensors.numpy")
    np = pytest.importorskip("numpy")
    path = tmp_path / "lib.safetensors"
    numpy_side.save_file({"a": np.zeros((2, 3), np.float32), "b": np.ones((7,), np.int8)}, str(path))
    ours = {t.name: (t.dtype, t.shape) for t in read_safetensors(path).tensors}
    with library.safe_open(str(path), "np") as theirs:
        assert ours == {
            name: (theirs.get_slice(name).get_dtype(), tuple(theirs.get_slice(name).get_shape()))
            for name in theirs.keys()  # noqa: SIM118 - not a dict
        }


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[:-1], "truncated"),
        (lambda data: data[:20], "truncated"),
        (lambda data: data[:5], "8-byte length"),
        (lambda data: data + b"x", "belong to none"),
        (lambda data: struct.pack("<Q", 2**60) + data[8:], "not a safetensors file"),
        (lambda data: struct.pack("<Q", 20) + b"[" * 20, "not JSON"),
        (lambda data: struct.pack("<Q", 8) + b"[1, 2]  ", "not a JSON object"),
    ],
)
def test_damaged_safetensors_say_what_is_wrong(tmp_path, spoil, words):
    path = safetensors(tmp_path / "a.safetensors", llama_tensors())
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(BadFileError, match=words):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}, "unknown type"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "no valid shape"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "does not make"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "gap"),
        ({"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}, "does not make"),
        ([], "not an object"),
    ],
)
def test_impossible_entries_are_refused(tmp_path, entry, words):
    raw = json.dumps({"w": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(8))
    with pytest.raises(BadFileError, match=words):
        read_safetensors(path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_never_more_than_a_bad_file(tmp_path, data):
    path = tmp_path / "random"
    path.write_bytes(data)
    for read in (read_safetensors, read_gguf):
        with pytest.raises(BadFileError):
            read(path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 255))
def test_one_changed_byte_never_escapes_as_another_error(tmp_path, place, value):
    for write, read in ((gguf, read_gguf), (lambda p: safetensors(p, llama_tensors()), read_safetensors)):
        path = write(tmp_path / "changed")
        data = bytearray(path.read_bytes())
        data[place % min(len(data), 3000)] = value
        path.write_bytes(data)
        with contextlib.suppress(BadFileError):
            assert read(path).tensors is not None


def test_gguf_header_is_read(tmp_path):
    header = read_gguf(gguf(tmp_path / "m.gguf"))
    assert header.version == 3
    assert header.metadata["llama.block_count"] == 1
    assert len(header.metadata["tokenizer.ggml.tokens"]) == 256
    by_name = {tensor.name: tensor for tensor in header.tensors}
    assert by_name["blk.0.attn_k.weight"].shape == (32, 64)
    assert {name: by_name[name].size_bytes for name in by_name} == {n: size for n, (_, _, size) in GGUF_TENSORS.items()}


def test_every_cut_of_a_gguf_is_noticed(tmp_path):
    whole = gguf(tmp_path / "m.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [*range(0, 2000, 37), len(whole) - 33]:
        path.write_bytes(whole[:length])
        with pytest.raises(BadFileError):
            read_gguf(path)


def test_gguf_agrees_with_the_gguf_package(tmp_path):
    package = pytest.importorskip("gguf")
    sizes = package.GGML_QUANT_SIZES
    for number, (name, block, size) in GGML_TYPES.items():
        assert sizes[package.GGMLQuantizationType(number)] == (block, size), name


def test_long_gguf_arrays_are_stepped_over(tmp_path):
    meta = {"general.architecture": "llama", "tokenizer.ggml.tokens": ["x" * 5] * 5000, "numbers": list(range(3000))}
    header = read_gguf(gguf(tmp_path / "m.gguf", meta))
    assert header.metadata["tokenizer.ggml.tokens"].length == 5000
    assert header.metadata["numbers"].length == 3000
