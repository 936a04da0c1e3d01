"""Optimisation profiles: the shapes an engine accepts, from options, checked against the graph's inputs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmops.checkpoint.onnx_facts import OnnxTensor
from llmops.errors import UsageError, did_you_mean
from llmops.export.tensorrt.spec import EngineBuildSpec

DEFAULT_BATCH: Final = (1, 8, 16)
DEFAULT_SEQ: Final = (1, 512, 2048)
_SHAPE: Final = re.compile(r"^\(?\d+([x,]\d+)*\)?$")

Shape = tuple[int, ...]
Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Least, most usual and largest shape of one input."""

    min: Shape
    opt: Shape
    max: Shape


Profile = Mapping[str, Bounds]


def resolve(inputs: tuple[OnnxTensor, ...], spec: EngineBuildSpec, longest: int | None = None) -> tuple[Profile, ...]:
    """The profiles that the options describe.

    Args:
        inputs: Of the graph.
        spec: The options.
        longest: Most tokens that the graph was exported for, where its record says so: beyond them a model's positions end.

    Raises:
        UsageError: A shape cannot be read, names no input, does not fit the graph, or a dynamic input has none.
    """
    dynamic = {tensor.name: tensor for tensor in inputs if tensor.dynamic}
    if spec.past and not any("past" in tensor.name for tensor in inputs):
        raise UsageError("--past: the graph has no KV cache", "leave it out, or export with --task causal-lm-cache")
    found: list[Profile] = []
    asked = bool(spec.min or spec.opt or spec.max or spec.batch or spec.seq or spec.past)
    if asked or not spec.profiles:
        found.append(_first(dynamic, inputs, spec, longest))
    found += [_written(text, dynamic, inputs) for text in spec.profiles]
    for number, profile in enumerate(found):
        for name, tensor in dynamic.items():
            if name not in profile:
                raise UsageError(
                    f"profile {number} has no shapes for the dynamic input {name} ({_dims(tensor)})",
                    f"--min {name}:… --opt {name}:… --max {name}:…, or --batch 1:8:16 --seq 1:512:2048",
                )
        for name, bounds in profile.items():
            tensor = next(tensor for tensor in inputs if tensor.name == name)
            check_bounds(name, bounds, tensor)
            _refuse_long(bounds, tensor, longest)
    return tuple(found) if dynamic else ()


def parse_triple(text: str, option: str) -> Triple:
    """``1:8:16`` -> (1, 8, 16).

    Raises:
        UsageError: It is no such triple, or not in ascending order.
    """
    parts = text.split(":")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"{option} {text}: not three numbers", "write it as MIN:OPT:MAX, such as 1:8:16")
    low, usual, high = (int(part) for part in parts)
    if not low <= usual <= high or high < 1:
        raise UsageError(f"{option} {text}: MIN <= OPT <= MAX does not hold", "write it in ascending order")
    return low, usual, high


def parse_shape(text: str) -> Shape:
    """``8x512`` or ``(8,512)`` -> (8, 512).

    Raises:
        UsageError: It is no shape.
    """
    clean = text.strip().replace(" ", "")
    if not _SHAPE.match(clean):
        raise UsageError(f"{text!r} is not a shape", "write it as 8x512")
    return tuple(int(part) for part in re.findall(r"\d+", clean))


def check_bounds(name: str, bounds: Bounds, tensor: OnnxTensor) -> None:
    """Rank, order, and agreement with the dimensions that the graph fixes.

    Raises:
        UsageError: One of these does not hold.
    """
    dims = tensor.dims or ()
    for word, shape in (("min", bounds.min), ("opt", bounds.opt), ("max", bounds.max)):
        if len(shape) != len(dims):
            raise UsageError(
                f"{name} has {len(dims)} dimensions ({_dims(tensor)}), its {word} shape {_show(shape)} has {len(shape)}",
                f"--{word} {name}:{'x'.join('1' if isinstance(dim, str) else str(dim) for dim in dims)}",
            )
        for axis, (value, dim) in enumerate(zip(shape, dims, strict=True)):
            if isinstance(dim, int) and value != dim:
                raise UsageError(
                    f"dimension {axis} of {name} is {dim} in the graph, its {word} shape {_show(shape)} says {value}",
                    "give the graph's own number there, or export with that dimension dynamic",
                )
    for axis, (low, usual, high) in enumerate(zip(bounds.min, bounds.opt, bounds.max, strict=True)):
        if not low <= usual <= high:
            raise UsageError(
                f"dimension {axis} of {name}: min {low}, opt {usual}, max {high} are not in ascending order",
                f"--opt {name}:{_show(tuple(sorted((low, usual, high))[1] if i == axis else v for i, v in enumerate(bounds.opt)))}",
            )


def _refuse_long(bounds: Bounds, tensor: OnnxTensor, longest: int | None) -> None:
    for axis, dim in enumerate(tensor.dims or ()):
        tokens = bounds.max[axis]
        if longest is not None and dim == "sequence" and tokens > longest:
            usual = min(bounds.opt[axis], longest)
            raise UsageError(
                f"{tensor.name} would have up to {tokens} tokens, and the graph was exported for at most {longest}",
                f"--seq {min(bounds.min[axis], usual)}:{usual}:{longest}",
            )


def _first(
    dynamic: Mapping[str, OnnxTensor], inputs: tuple[OnnxTensor, ...], spec: EngineBuildSpec, longest: int | None
) -> Profile:
    """The profile of --min, --opt, --max, and of --batch and --seq for the inputs that those do not name."""
    given = {word: _named(getattr(spec, word), word, inputs) for word in ("min", "opt", "max")}
    named = {name for shapes in given.values() for name in shapes}
    profile = {}
    for name in named:
        lacking = [word for word, shapes in given.items() if name not in shapes]
        if lacking:
            raise UsageError(f"{name} has no {' and no '.join(lacking)} shape", f"--{lacking[0]} {name}:1x512")
        profile[name] = Bounds(given["min"][name], given["opt"][name], given["max"][name])
    rest = [tensor for name, tensor in dynamic.items() if name not in profile]
    if rest:
        triples = _triples(spec, longest)
        profile |= {tensor.name: _by_dimension(tensor, triples) for tensor in rest}
    return profile


def _triples(spec: EngineBuildSpec, longest: int | None) -> dict[str, Triple]:
    batch = parse_triple(spec.batch, "--batch") if spec.batch else DEFAULT_BATCH
    low, usual, high = (min(value, longest or value) for value in DEFAULT_SEQ)
    seq = parse_triple(spec.seq, "--seq") if spec.seq else (low, usual, high)
    past = parse_triple(spec.past, "--past") if spec.past else (0, seq[1], seq[2])
    total = (seq[0] + past[0], seq[1] + past[1], seq[2] + past[2])
    return {"batch": batch, "sequence": seq, "past": past, "total": total}


def _by_dimension(tensor: OnnxTensor, triples: Mapping[str, Triple]) -> Bounds:
    columns = [_column(tensor, axis, dim, triples) for axis, dim in enumerate(tensor.dims or ())]
    low, usual, high = zip(*columns, strict=True)
    return Bounds(low, usual, high)


def _column(tensor: OnnxTensor, axis: int, dim: int | str, triples: Mapping[str, Triple]) -> Triple:
    if isinstance(dim, int):
        return dim, dim, dim
    word = dim.lower()
    for key in ("total", "past", "batch", "sequence"):
        if key in word or (key == "sequence" and "seq" in word):
            return triples[key]
    # Names such as s70 say nothing: by convention the first axis is the batch and the second the tokens.
    if axis < 2 and "past" not in tensor.name and len(tensor.dims or ()) == 2:
        return triples["batch" if axis == 0 else "sequence"]
    raise UsageError(
        f"the dimension {dim!r} of {tensor.name} is neither a batch nor a sequence",
        f"--min {tensor.name}:… --opt {tensor.name}:… --max {tensor.name}:…",
    )


def _named(texts: tuple[str, ...], word: str, inputs: tuple[OnnxTensor, ...]) -> dict[str, Shape]:
    found = {}
    names = [tensor.name for tensor in inputs]
    for text in (part for whole in texts for part in re.split(r",(?=[^\d(])", whole)):
        name, colon, shape = text.rpartition(":")
        if not colon:
            raise UsageError(f"--{word} {text}: no input is named", f"write it as --{word} {names[0]}:{text}")
        _require_input(name, names)
        found[name] = parse_shape(shape)
    return found


def _written(text: str, dynamic: Mapping[str, OnnxTensor], inputs: tuple[OnnxTensor, ...]) -> Profile:
    """``1x1/8x512/16x2048`` for every dynamic input, or ``name:1x1/8x512/16x2048,…``."""
    names = [tensor.name for tensor in inputs]
    if ":" not in text:
        return dict.fromkeys(dynamic, _bounds(text))
    profile = {}
    for part in re.split(r",(?=[^\d(])", text):
        name, _, shapes = part.rpartition(":")
        _require_input(name.strip(), names)
        profile[name.strip()] = _bounds(shapes)
    return profile


def _bounds(text: str) -> Bounds:
    parts = text.split("/")
    if len(parts) != 3:
        raise UsageError(f"--profile {text}: not three shapes", "write it as MIN/OPT/MAX, such as 1x1/8x512/16x2048")
    return Bounds(*(parse_shape(part) for part in parts))


def _require_input(name: str, names: list[str]) -> None:
    if name not in names:
        raise UsageError(
            f"the graph has no input {name!r}", did_you_mean(name, names) or f"it has: {', '.join(names[:8])}"
        )


def _dims(tensor: OnnxTensor) -> str:
    return " x ".join(str(dim) for dim in tensor.dims or ())


def _show(shape: Shape) -> str:
    return "x".join(str(value) for value in shape)
