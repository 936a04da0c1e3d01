"""The streaming model: text to text over the decoupled API, a response a token, all requests batched continuously."""

from __future__ import annotations

import json
import queue
import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from llm_chat import ChatTemplate
from llm_decoder import Decoder
from llm_model import Settings, Sometimes, parameters_of, texts_of
from llm_sampling import BadRequestError, Row, params_from

FINAL = pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL
NUMBERS = ("max_tokens", "temperature", "top_p", "top_k", "random_seed", "presence_penalty", "frequency_penalty")


class TritonPythonModel:
    """``text_input`` and options to ``text_output``; the last response tells the finish reason and the token counts."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Load the graph and start the decoding thread."""
        self._settings = Settings(args)
        self._tokenizer = self._settings.tokenizer()
        self._chat = ChatTemplate(self._settings.assets)
        self._graph = self._settings.graph()
        self._eos = frozenset(self._settings.json("eos_token_ids", []))
        self._limit = self._settings.number("max_total_tokens", 2048)
        self._most = self._settings.number("max_rows", 16)
        self._defaults = self._settings.json("defaults", {})
        self._queue: queue.Queue[Row | None] = queue.Queue()
        self._thread = threading.Thread(target=self._decode, daemon=True)
        self._thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Hand each request to the decoding thread, or refuse it."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                row = self._row(request)
            except (BadRequestError, ValueError) as error:
                _refuse(sender, str(error))
                continue
            row.tag = (request, sender, row.live)
            self._queue.put(row)

    def finalize(self) -> None:
        """End the thread."""
        self._queue.put(None)
        self._thread.join(timeout=10)

    def _row(self, request: Any) -> Row:
        values = parameters_of(request)
        given = pb.get_input_tensor_by_name(request, "sampling_parameters")
        if given is not None:
            values |= json.loads(given.as_numpy().reshape(-1)[0])
        for name in NUMBERS:
            tensor = pb.get_input_tensor_by_name(request, name)
            if tensor is not None:
                values[name] = tensor.as_numpy().reshape(-1)[0].item()
        if pb.get_input_tensor_by_name(request, "stop") is not None:
            values["stop"] = texts_of(request, "stop")
        params, live = params_from(values, self._defaults), _flag(request, "stream")
        return Row(self._prompt(request), params, self._tokenizer, self._eos, self._limit, live=live)

    def _prompt(self, request: Any) -> list[int]:
        """Token ids of the text, or of a conversation, whose template writes the first token itself."""
        if pb.get_input_tensor_by_name(request, "messages") is not None:
            text = self._chat.render(texts_of(request, "messages")[0])
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        if pb.get_input_tensor_by_name(request, "text_input") is None:
            raise BadRequestError("text_input or messages is needed")
        return list(self._tokenizer.encode(texts_of(request, "text_input")[0]).ids)

    # ---- the decoding thread ----

    def _decode(self) -> None:
        decoder = Decoder(self._graph, self._settings.number("head_dim", 0))
        waiting: list[Row] = []
        look = Sometimes()
        while True:
            if not self._admit(decoder, waiting):
                return
            try:
                for row in decoder.step():
                    self._show(row)
                if look():
                    decoder.drop(self._given_up(decoder))
            except Exception as error:  # noqa: BLE001 - a failed step must end its requests, not the server
                rows = [*decoder.rows, *waiting]
                for row in rows:
                    _refuse(row.tag[1], f"the model failed: {error}", pb.TritonError.INTERNAL)
                decoder, waiting = Decoder(self._graph, self._settings.number("head_dim", 0)), []

    def _admit(self, decoder: Decoder, waiting: list[Row]) -> bool:
        """Take what has come; wait for something when there is nothing to do. False at the end."""
        while True:
            try:
                row = self._queue.get(block=not decoder.busy and not waiting)
            except queue.Empty:
                break
            if row is None:
                return False
            waiting.append(row)
        while waiting and decoder.size < self._most:
            decoder.add(waiting.pop(0))
        return True

    def _show(self, row: Row) -> None:
        _, sender, streaming = row.tag
        fresh = row.fresh()
        if row.finish is not None:
            text = fresh if streaming else row.text
            sender.send(_response(text, row), flags=FINAL)
        elif streaming and fresh:
            sender.send(_response(fresh, None))

    def _given_up(self, decoder: Decoder) -> list[Row]:
        gone = [row for row in decoder.rows if row.tag[0].is_cancelled()]
        for row in gone:
            row.tag[1].send(flags=FINAL)
        return gone


def _flag(request: Any, name: str) -> bool:
    tensor = pb.get_input_tensor_by_name(request, name)
    return tensor is not None and bool(tensor.as_numpy().reshape(-1)[0])


def _response(text: str, done: Row | None) -> Any:
    tensors = [pb.Tensor("text_output", np.array([text.encode("utf-8")], dtype=object))]
    if done is not None:
        tensors += [
            pb.Tensor("finish_reason", np.array([str(done.finish).encode()], dtype=object)),
            pb.Tensor("num_input_tokens", np.array([len(done.prompt)], np.uint32)),
            pb.Tensor("num_output_tokens", np.array([len(done.tokens)], np.uint32)),
        ]
    return pb.InferenceResponse(tensors)


def _refuse(sender: Any, message: str, code: Any = None) -> None:
    error = pb.TritonError(message, pb.TritonError.INVALID_ARG if code is None else code)
    sender.send(pb.InferenceResponse(error=error), flags=FINAL)
