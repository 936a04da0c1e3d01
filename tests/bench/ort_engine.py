"""TensorRT's engine and execution context over ONNX Runtime on the CPU: the same calls and the same rules (shapes inside the
profile, addresses for every tensor, a bool for success), with a real graph behind them. It lets the adapter's own work run
where there is no GPU; what it cannot show is TensorRT itself.
"""

from __future__ import annotations

import ctypes
import enum
from types import SimpleNamespace

import numpy as np


class Mode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


class Kind(enum.Enum):
    FLOAT = 0
    INT64 = 1
    INT32 = 2
    BOOL = 3


TRT = SimpleNamespace(TensorIOMode=Mode, __name__="tensorrt", __version__="0")
KINDS = {"tensor(float)": Kind.FLOAT, "tensor(int64)": Kind.INT64, "tensor(int32)": Kind.INT32}
NUMPY = {Kind.FLOAT: np.float32, Kind.INT64: np.int64, Kind.INT32: np.int32}


class Engine:
    """``profiles``: for each (batch, tokens, past) as (min, opt, max)."""

    def __init__(self, session, profiles) -> None:
        self.session, self.profiles = session, profiles
        self.nodes = {node.name: node for node in (*session.get_inputs(), *session.get_outputs())}
        self.inputs = [node.name for node in session.get_inputs()]
        self.names = list(self.nodes)
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(profiles)
        self.contexts: list[Context] = []

    def get_tensor_name(self, number):
        return self.names[number]

    def get_tensor_mode(self, name):
        return Mode.INPUT if name in self.inputs else Mode.OUTPUT

    def get_tensor_dtype(self, name):
        return KINDS[self.nodes[name].type]

    def get_tensor_shape(self, name):
        return tuple(size if isinstance(size, int) else -1 for size in self.nodes[name].shape)

    def get_tensor_profile_shape(self, name, profile):
        assert name in self.inputs
        batch, tokens, past = self.profiles[profile]
        shape = self.get_tensor_shape(name)
        return [(batch[i], shape[1], past[i], shape[3]) if len(shape) == 4 else (batch[i], tokens[i]) for i in range(3)]

    def create_execution_context(self):
        self.contexts.append(Context(self))
        return self.contexts[-1]


class Context:
    def __init__(self, engine) -> None:
        self.engine, self.profile = engine, 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.switches = 0

    def set_optimization_profile_async(self, profile, _stream):
        self.profile, self.switches = profile, self.switches + 1
        return True

    def set_input_shape(self, name, shape):
        assert self.engine.get_tensor_mode(name) is Mode.INPUT
        if len(shape) == 4 or name == "input_ids":
            low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
            if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
                return False
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name):
        batch, tokens = self.shapes["input_ids"]
        past = next((shape[2] for key, shape in self.shapes.items() if "past" in key), 0)
        if "present" in name:
            whole = self.engine.get_tensor_shape(name)
            return (batch, whole[1], past + tokens, whole[3])
        return (batch, tokens, self.engine.get_tensor_shape(name)[-1])

    def set_tensor_address(self, name, address):
        assert address, name
        self.addresses[name] = address

    def execute_async_v3(self, _stream):
        assert set(self.addresses) == set(self.engine.names)
        feed = {name: self._array(name, self.shapes[name]) for name in self.engine.inputs}
        outputs = [name for name in self.engine.names if name not in self.engine.inputs]
        for name, found in zip(outputs, self.engine.session.run(outputs, feed), strict=True):
            self._array(name, self.get_tensor_shape(name))[...] = found
        return True

    def _array(self, name, shape):
        kind = NUMPY[self.engine.get_tensor_dtype(name)]
        count = int(np.prod(shape))
        if not count:
            return np.empty(shape, dtype=kind)
        held = (ctypes.c_byte * (count * np.dtype(kind).itemsize)).from_address(self.addresses[name])
        return np.frombuffer(held, dtype=kind).reshape(shape)
