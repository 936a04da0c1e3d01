"""Exports: checkpoints to ONNX, ONNX to TensorRT engines."""

from llmops.export.onnx.run import ExportReport, export_onnx
from llmops.export.onnx.spec import OnnxSpec
from llmops.export.onnx.view import view as view_onnx
from llmops.export.tensorrt.run import EngineReport, build_tensorrt
from llmops.export.tensorrt.spec import EngineBuildSpec
from llmops.export.tensorrt.view import view as view_tensorrt

__all__ = [
    "EngineBuildSpec",
    "EngineReport",
    "ExportReport",
    "OnnxSpec",
    "build_tensorrt",
    "export_onnx",
    "view_onnx",
    "view_tensorrt",
]
