"""Export a checkpoint to ONNX and prove that it agrees with the original."""
