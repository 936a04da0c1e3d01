"""Asks a running server over gRPC, plainly and streaming; run by the environment that has Triton's client."""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as grpc

address, ensemble, stream, text = sys.argv[1:5]
client = grpc.InferenceServerClient(address)
value = np.array([[text.encode()]], dtype=object)
tensor = grpc.InferInput("text", [1, 1], "BYTES")
tensor.set_data_from_numpy(value)
plain = client.infer(ensemble, [tensor], parameters={"max_tokens": 6}).as_numpy("output")[0, 0].decode()

answers = queue.Queue()
client.start_stream(lambda result, error: answers.put((result, error)))
inputs = []
for name, kind, array in (
    ("text_input", "BYTES", np.array([text.encode()], dtype=object)),
    ("stream", "BOOL", np.array([True])),
    ("max_tokens", "INT32", np.array([6], np.int32)),
):
    each = grpc.InferInput(name, list(array.shape), kind)
    each.set_data_from_numpy(array)
    inputs.append(each)
client.async_stream_infer(stream, inputs, enable_empty_final_response=True)
pieces, reason = [], None
while True:
    result, error = answers.get(timeout=60)
    assert error is None, error
    response = result.get_response()
    if result.as_numpy("text_output") is not None:
        pieces.append(result.as_numpy("text_output")[0].decode())
    if result.as_numpy("finish_reason") is not None:
        reason = result.as_numpy("finish_reason")[0].decode()
    if response.parameters["triton_final_response"].bool_param:
        break
client.stop_stream()
print(json.dumps({"plain": plain, "pieces": pieces, "reason": reason}))
