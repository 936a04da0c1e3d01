"""Throughput of the Triton ensemble at 1, 8 and 32 clients against ONNX Runtime called directly in one process.

``ensemble.py EXPORTED_DIR [--tokens N] [--requests N] [--rounds N]``, a graph with a cache: both sides use the same graph, one
thread and the same prompts. The direct side is the plain loop that one would write by hand (a session, a past, argmax, the text at
the end), one request after another; and, as the most that one process could do without a server, batches of 8 handed over
together. Sides take turns within a round. Prints the median of the rounds' ratios to the plain loop, and where a request's time
goes inside the server. Figures of one machine in one run.
"""

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmops.hardware import detect
from llmops.progress import Silent
from llmops.serve.triton import TritonSpec, decide, running

RUNTIME = Path(__file__).parent.parent.parent / "llmops" / "serve" / "triton" / "runtime"
sys.path.insert(0, str(RUNTIME))
CLIENTS = (1, 8, 32)


def prompts(count):
    return [f"Request {'number ' * (n % 5)}{n}" for n in range(count)]


class Direct:
    """ONNX Runtime in this process, without a server."""

    def __init__(self, directory, tokens):
        import onnxruntime
        from llm_decoder import OrtGraph
        from tokenizers import Tokenizer

        self.graph, self.tokens = OrtGraph(str(directory / "model.onnx"), 1), tokens
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(directory / "model.onnx"), options, ["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def plain(self, texts):
        """Requests a second, one after another, by the shortest loop."""
        import numpy as np

        session, names = self.session, self.graph.outputs
        pasts = [name.replace("present.", "past_key_values.") for name in names[1:]]
        began = time.monotonic()
        for text in texts:
            ids = np.array([self.tokenizer.encode(text).ids], np.int64)
            past, made, seen = self.graph.empty_past(1, 32), [], 0
            for _ in range(self.tokens):
                place = np.arange(seen, seen + ids.shape[1])[None]
                seen += ids.shape[1]
                feed = {"input_ids": ids, "attention_mask": np.ones((1, seen), np.int64), "position_ids": place, **past}
                logits, *present = session.run(names, feed)
                past = dict(zip(pasts, present, strict=True))
                ids = logits[:, -1:].argmax(-1)
                made.append(int(ids[0, 0]))
            self.tokenizer.decode(made)
        return len(texts) / (time.monotonic() - began)

    def batches(self, texts, size=8):
        """Requests a second in batches of the same decoder that the server uses."""
        from llm_decoder import Decoder
        from llm_sampling import Row, params_from

        params = params_from({"max_tokens": self.tokens, "ignore_eos": "true"}, {})
        began = time.monotonic()
        for at in range(0, len(texts), size):
            decoder = Decoder(self.graph, 32)
            for text in texts[at : at + size]:
                ids = self.tokenizer.encode(text).ids
                decoder.add(Row(ids, params, self.tokenizer, frozenset(), 2048, live=False))
            while decoder.busy:
                decoder.step()
        return len(texts) / (time.monotonic() - began)


def served(server, texts, tokens, clients):
    """Requests a second over HTTP. The clients take their share of this machine too, so they are as light as can be."""
    host, held = server.url.removeprefix("http://"), threading.local()

    def ask(text):
        if not hasattr(held, "connection"):
            held.connection = http.client.HTTPConnection(host, timeout=600)
        body = json.dumps({"text": text, "max_tokens": tokens, "ignore_eos": True})
        held.connection.request("POST", "/v2/models/bench_ensemble/generate", body)
        answer = held.connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, texts[:clients]))
        began = time.monotonic()
        list(pool.map(ask, texts))
        return len(texts) / (time.monotonic() - began)


def counts(server):
    """What the server has counted so far for each step."""
    found = {}
    for model in ("bench_tokenizer", "bench_generate", "bench_postprocessor", "bench_ensemble"):
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("GET", f"/v2/models/{model}/stats")
        said = json.loads(connection.getresponse().read())["model_stats"][0]
        spent = said["inference_stats"]
        found[model] = (
            spent["success"]["count"],
            spent["success"]["ns"],
            spent["queue"]["ns"],
            said["execution_count"],
        )
    return found


def inside(before, after):
    """Milliseconds of a request in each step: the whole, what of it was waiting, and requests in a batch."""
    for model in after:
        number, whole, queue, batches = (b - a for a, b in zip(before[model], after[model], strict=True))
        print(f"  {model}: {whole / number / 1e6:.2f} ms, {queue / number / 1e6:.2f} of them waiting, "
              f"{number / max(1, batches):.1f} a batch")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queue-delay-ms", type=float, default=2)
    options = parser.parse_args()
    texts, direct, rounds = prompts(options.requests), Direct(options.directory, options.tokens), []
    with tempfile.TemporaryDirectory() as scratch:
        spec = TritonSpec(model=options.directory, repository=Path(scratch) / "repo", name="bench", http_port=0, grpc_port=0,
                          metrics_port=0, queue_delay_ms=options.queue_delay_ms, stream=False)  # fmt: skip
        with running(decide(spec, detect()), Silent(), Path(scratch) / "log") as server:
            for number in range(options.rounds):
                found = {"plain loop": direct.plain(texts), "batches of 8": direct.batches(texts)}
                for clients in CLIENTS:
                    before = counts(server)
                    found[f"{clients} clients"] = served(server, texts, options.tokens, clients)
                    if number == 0:
                        print(f"{clients} clients")
                        inside(before, counts(server))
                rounds.append(found)
    for name in rounds[0]:
        ratios = [found[name] / found["plain loop"] for found in rounds]
        print(f"{name}: {statistics.median(found[name] for found in rounds):.1f} requests/s, median ratio "
              f"{statistics.median(ratios):.2f} (of {' '.join(f'{ratio:.2f}' for ratio in ratios)})")  # fmt: skip


if __name__ == "__main__":
    main()
