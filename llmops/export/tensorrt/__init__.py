"""Build TensorRT engines from ONNX, with TensorRT 10 or 11, or with TensorRT-RTX on a machine without a GPU."""
