"""Exports: checkpoints to ONNX, ONNX to TensorRT engines."""

from llmops.export.onnx.run import ExportReport, export_onnx
from llmops.export.onnx.spec import OnnxSpec
from llmops.export.onnx.view import view as view_onnx

__all__ = ["ExportReport", "OnnxSpec", "export_onnx", "view_onnx"]
