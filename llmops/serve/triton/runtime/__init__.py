"""Programs that run inside Triton's Python backend, copied into a model repository as they are.

They import nothing of llmops: numpy, tokenizers, onnxruntime and Triton's own module are all they need.
"""
