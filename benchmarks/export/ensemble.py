"""Throughput of the Triton ensemble at 1, 8 and 32 clients against ONNX Runtime called directly in one process.

``ensemble.py EXPORTED_DIR [--tokens N] [--requests N]``: both sides use the same graph, one thread and the same prompts. The
direct side decodes one request after another, and then all of a batch of 8 together (left-padded), which is the most that one
process without a server could do by hand. Prints requests a second and ratios; figures of one machine in one run.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from llmops.hardware import detect
from llmops.progress import Silent
from llmops.serve.triton import TritonSpec, decide, running

RUNTIME = Path(__file__).parent.parent.parent / "llmops" / "serve" / "triton" / "runtime"


def prompts(count):
    return [f"Request {'number ' * (n % 5)}{n}" for n in range(count)]


def direct(directory, texts, tokens, batch):
    """Requests a second without a server."""
    sys.path.insert(0, str(RUNTIME))
    from llm_decoder import Decoder, OrtGraph
    from llm_sampling import Row, params_from
    from tokenizers import Tokenizer

    graph, tokenizer = (
        OrtGraph(str(directory / "model.onnx"), 1),
        Tokenizer.from_file(str(directory / "tokenizer.json")),
    )
    values = {"max_tokens": tokens, "ignore_eos": "true"}
    began = time.monotonic()
    for at in range(0, len(texts), batch):
        decoder = Decoder(graph, 32)
        for text in texts[at : at + batch]:
            decoder.add(Row(tokenizer.encode(text).ids, params_from(values, {}), tokenizer, frozenset(), 2048))
        while decoder.busy:
            decoder.step()
    return len(texts) / (time.monotonic() - began)


def served(server, texts, tokens, clients):
    """Requests a second over HTTP."""
    with httpx.Client(timeout=600, limits=httpx.Limits(max_connections=clients)) as client:

        def ask(text):
            body = {"text": text, "max_tokens": tokens, "ignore_eos": True}
            client.post(f"{server.url}/v2/models/bench_ensemble/generate", json=body).raise_for_status()

        ask(texts[0])
        began = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(ask, texts))
        return len(texts) / (time.monotonic() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--queue-delay-ms", type=float, default=2)
    options = parser.parse_args()
    texts = prompts(options.requests)
    base = {n: direct(options.directory, texts, options.tokens, n) for n in (1, 8)}
    print(f"direct, one after another: {base[1]:.1f} requests/s; in batches of 8: {base[8]:.1f}")
    with tempfile.TemporaryDirectory() as scratch:
        spec = TritonSpec(model=options.directory, repository=Path(scratch) / "repo", name="bench", http_port=0, grpc_port=0,
                          metrics_port=0, queue_delay_ms=options.queue_delay_ms, stream=False)  # fmt: skip
        with running(decide(spec, detect()), Silent(), Path(scratch) / "log") as server:
            for clients in (1, 8, 32):
                rate = served(server, texts, options.tokens, clients)
                print(
                    f"ensemble, {clients:2} clients: {rate:.1f} requests/s, {rate / base[1]:.2f} of one after another"
                )


if __name__ == "__main__":
    main()
