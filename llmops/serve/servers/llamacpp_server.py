"""Child process: serves a .gguf file with llama.cpp's own server, which the xllamacpp wheel carries."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line, written by ``llmops.serve.launch``."""
    parser = argparse.ArgumentParser(prog="llamacpp_server")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--max-num-seqs", type=int, default=8)
    parser.add_argument("--kv-tokens", type=int, required=True)
    parser.add_argument("--chat-template", type=Path)
    return parser.parse_args(argv)


def main() -> None:
    """Serve until TERM."""
    options = arguments(sys.argv[1:])
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.served_model_name}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.max_num_seqs
    # The slots share one pool, so a single request may use all of it.
    params.n_ctx = max(options.kv_tokens, options.max_model_len)
    params.kv_unified = True
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.endpoint_metrics = True
    params.use_jinja = True
    params.ui = False
    params.warmup = True
    key = os.environ.pop("LLMOPS_SERVE_API_KEY", None)
    if key:
        params.api_keys = [key]
    if options.chat_template:
        params.chat_template = options.chat_template.read_text(encoding="utf-8")
    ended = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: ended.set())
    server = xllamacpp.Server(params)
    sys.stdout.write(f"serving on {server.listening_address}\n")
    sys.stdout.flush()
    ended.wait()
    del server


if __name__ == "__main__":
    main()
