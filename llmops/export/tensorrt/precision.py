"""16-bit matrix products on the ONNX side, for builders that take all types from the graph (TensorRT 11 and RTX).

Only products with a weight (MatMul, Gemm, Conv) and look-ups in weight tables run in 16 bit, where nearly all time and memory
go. Norms, attention and residual sums stay in float32, whose range they need; a cast inside an attention block would also
keep the builder from fusing it. Inputs and outputs of the graph keep their types. A graph exported in 16 bit is better
still, because the model's own code says which steps want float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from llmops.errors import UsageError

PRODUCTS: Final = ("MatMul", "Gemm", "Conv", "ConvTranspose")
FP16_MAX: Final = 65504.0


def convert(path: Path, target: Path, precision: str) -> dict[str, int]:
    """Write ``target`` with its products in ``fp16`` or ``bf16``.

    Returns:
        How many products and weights were changed, and how many weights were cut to the type's range.

    Raises:
        UsageError: Nothing in the graph is float32.
    """
    import onnx

    model = onnx.load(str(path))
    counts = Narrowing(model, precision).apply()
    if not counts["products"]:
        raise UsageError(f"--precision {precision}: the graph has no float32 matrix products", "--precision as-is")
    onnx.save_model(model, str(target), save_as_external_data=True, location=target.name + ".data")
    return counts


class Narrowing:
    """One graph being changed."""

    def __init__(self, model: Any, precision: str) -> None:
        from onnx import TensorProto

        self.graph = model.graph
        self.precision = precision
        self.type = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
        self.wide = TensorProto.FLOAT
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.types = self._known_types(model)
        self.narrow: dict[str, str] = {}
        self.added: list[Any] = []
        self.cut = 0
        self.turned = {node.output[0]: node.input[0] for node in self.graph.node if node.op_type == "Transpose"}

    def apply(self) -> dict[str, int]:
        """Change the graph in place."""
        products = 0
        for node in list(self.graph.node):
            lookup = node.op_type == "Gather" and node.input[0] in self.weights
            product = node.op_type in PRODUCTS and any(self._is_weight(name) for name in node.input)
            if not (lookup or product) or self.types.get(node.output[0]) != self.wide:
                self.added.append(node)
                continue
            places = [0] if lookup else range(len(node.input))
            for place in places:
                if node.input[place] and self.types.get(node.input[place]) == self.wide:
                    node.input[place] = self._narrowed(node.input[place])
            self.added.append(node)
            self._widen_output(node)
            products += 0 if lookup else 1
        del self.graph.node[:]
        self.graph.node.extend(self.added)
        changed = self._drop_unused()
        return {"products": products, "weights": changed, "cut": self.cut}

    def _is_weight(self, name: str) -> bool:
        """A weight, or one that is only transposed first."""
        return name in self.weights or self.turned.get(name, "") in self.weights

    def _known_types(self, model: Any) -> dict[str, int]:
        import onnx

        known = {tensor.name: tensor.data_type for tensor in self.weights.values()}
        if len(model.graph.value_info) < len(model.graph.node) // 2:
            bare = onnx.ModelProto()
            bare.CopyFrom(model)
            for tensor in bare.graph.initializer:  # the types are enough; the values would only cost memory
                if len(tensor.raw_data) > 1024:
                    tensor.ClearField("raw_data")
            inferred = onnx.shape_inference.infer_shapes(bare).graph
        else:
            inferred = model.graph
        for value in (*inferred.value_info, *inferred.input, *inferred.output):
            known[value.name] = value.type.tensor_type.elem_type
        return known

    def _narrowed(self, name: str) -> str:
        """The 16-bit form of a tensor: a weight is converted, anything else cast once."""
        import onnx

        if name not in self.narrow:
            new = f"{name}_{self.precision}"
            if name in self.weights:
                self.graph.initializer.append(self._weight(self.weights[name], new))
            else:
                self.added.append(onnx.helper.make_node("Cast", [name], [new], name=f"narrow_{new}", to=self.type))
            self.narrow[name] = new
        return self.narrow[name]

    def _weight(self, tensor: Any, name: str) -> Any:
        import numpy as np
        import onnx

        values = onnx.numpy_helper.to_array(tensor)
        if self.precision == "fp16":
            self.cut += int((np.abs(values) > FP16_MAX).sum())
            raw = np.clip(values, -FP16_MAX, FP16_MAX).astype(np.float16).tobytes()
        else:
            bits = np.ascontiguousarray(values).view(np.uint32)
            # Round to the nearest, halves to even: what the hardware does.
            raw = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()
        return onnx.helper.make_tensor(name, self.type, tensor.dims, raw, raw=True)

    def _widen_output(self, node: Any) -> None:
        import onnx

        wide = node.output[0]
        node.output[0] = f"{wide}_{self.precision}_out"
        self.added.append(onnx.helper.make_node("Cast", [node.output[0]], [wide], name=f"widen_{wide}", to=self.wide))

    def _drop_unused(self) -> int:
        used = {name for node in self.graph.node for name in node.input} | {value.name for value in self.graph.output}
        inner = {name for node in self.graph.node for a in node.attribute for n in a.g.node for name in n.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used | inner]
        changed = sum(name in self.weights for name in self.narrow)
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        return changed
