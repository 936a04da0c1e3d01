"""What an ONNX file says of itself, and what TensorRT would refuse of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmops.findings import Finding

# Standard operators for which TensorRT's parser has no importer, as its ``supports_operator`` answers (a test asks it).
_REFUSED_NAMES: Final = """
    AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress
    ConcatFromSequence ConvInteger CumProd DFT DeformConv Det DynamicQuantizeLinear ImageDecoder MatMulInteger
    MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement
    OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat
    StringNormalizer StringSplit SwiGLU TfIdfVectorizer Unique
    """
TENSORRT_REFUSES: Final = frozenset(_REFUSED_NAMES.split())
# Operators of ONNX Runtime's own domain that the parser reads all the same.
TENSORRT_CONTRIB: Final = frozenset(
    ("GroupQueryAttention", "MatMulNBits", "RotaryEmbedding", "SimplifiedLayerNormalization",
     "SkipSimplifiedLayerNormalization", "MultiHeadAttention")
)  # fmt: skip
# Types that no binding or weight of an engine can have.
TENSORRT_REFUSED_TYPES: Final = frozenset(
    ("STRING", "COMPLEX64", "COMPLEX128", "UINT16", "INT16", "UINT32", "UINT64", "FLOAT8E4M3FNUZ", "FLOAT8E5M2",
     "FLOAT8E5M2FNUZ", "UINT4", "UINT2", "INT2", "FLOAT6E2M3", "FLOAT6E3M2")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OnnxTensor:
    """An input or output. A dimension is a number, or the name of a dynamic one (``?`` when it has none)."""

    name: str
    dtype: str
    dims: tuple[int | str, ...] | None

    @property
    def dynamic(self) -> bool:
        """Whether a profile must bound it."""
        return self.dims is not None and any(isinstance(dim, str) for dim in self.dims)


@dataclass(frozen=True, slots=True)
class OnnxFacts:
    """What an ONNX file says of itself.

    Attributes:
        opsets: Operator-set version of each domain; ``""`` is the standard one.
        operators: Operator (with its domain when not the standard one) -> how often it occurs, functions and branches included.
        parameters: Elements of all initialisers.
        inline_bytes: Weights inside the file.
        external: External file -> bytes that the graph needs of it.
        missing: External files that are not there, or too short.
        weight_dtypes: Type -> bytes of initialisers.
        producer: Program and version that wrote it.
    """

    path: Path
    size_bytes: int
    ir_version: int
    producer: str
    opsets: Mapping[str, int]
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    operators: Mapping[str, int]
    parameters: int
    inline_bytes: int
    external: Mapping[str, int]
    missing: tuple[str, ...]
    weight_dtypes: Mapping[str, int]
    initializers: int
    findings: tuple[Finding, ...] = ()

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return self.opsets.get("", 0)

    @property
    def weights_bytes(self) -> int:
        """All weights, inline and external."""
        return sum(self.weight_dtypes.values())


def tensorrt_findings(facts: OnnxFacts) -> tuple[Finding, ...]:
    """What stands in the way of an engine, and weights that are not where the graph says. Pure."""
    file = str(facts.path)
    found = [
        Finding("onnx-external-data", "error", f"the weights file {name} is missing or too short",
                f"put it beside {facts.path.name}; both files must move together", file)
        for name in facts.missing
    ]  # fmt: skip
    for operator, count in facts.operators.items():
        domain, _, name = operator.rpartition("::")
        contrib = bool(domain) and not (domain == "com.microsoft" and name in TENSORRT_CONTRIB)
        if contrib:
            text = f"TensorRT reads the operator {operator} ({count}x) only with a plugin of that name"
            found.append(Finding("tensorrt-custom-operator", "warning", text, "export without that operator", file))
        elif not domain and name in TENSORRT_REFUSES:
            text = f"TensorRT's parser has no importer for the operator {name} ({count}x)"
            found.append(Finding("tensorrt-operator", "warning", text, "run it with ONNX Runtime, or rewrite it", file))
    for tensor in (*facts.inputs, *facts.outputs):
        if tensor.dtype in TENSORRT_REFUSED_TYPES:
            text = f"{tensor.name} has the type {tensor.dtype}, which no TensorRT binding has"
            found.append(Finding("tensorrt-type", "warning", text, "move it out of the model (tokenise before)", file))
    found += [
        Finding("tensorrt-type", "warning", f"weights have the type {dtype}, which TensorRT does not take", None, file)
        for dtype in facts.weight_dtypes
        if dtype in TENSORRT_REFUSED_TYPES
    ]
    return tuple(found)
