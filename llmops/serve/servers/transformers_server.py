"""Child process: serves a Hugging Face checkpoint with the transformers library's continuous batching.

The library's own server gives all requests of a batch the sampling of the first one, refuses fields it does not know
and has neither a model list nor metrics; so this one speaks to the batch itself.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import threading
from pathlib import Path

log = logging.getLogger("llmops.transformers")


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line, written by ``llmops.serve.launch``."""
    parser = argparse.ArgumentParser(prog="transformers_server")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantization", choices=("bnb-nf4", "bnb-int8"))
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--kv-tokens", type=int, required=True)
    parser.add_argument("--max-num-batched-tokens", type=int, default=512)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--chat-template", type=Path)
    return parser.parse_args(argv)


def main() -> None:
    """Load, then serve until TERM."""
    options = arguments(sys.argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    # Before torch is imported: it reads them once.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    log.info("Importing torch and transformers")
    import uvicorn

    from llmops.serve.servers import batching
    from llmops.serve.servers.app import Server

    batching.set_threads(options.threads)
    limits = batching.Limits(
        options.max_model_len, options.kv_tokens, options.max_num_batched_tokens, options.max_num_seqs
    )
    template = options.chat_template.read_text(encoding="utf-8") if options.chat_template else None
    stored = batching.Stored(options.model, options.dtype, options.quantization, template)
    batch = batching.load(stored, limits, log.info)
    application = Server(batch, options.served_model_name, os.environ.pop("LLMOPS_SERVE_API_KEY", None)).app()
    config = uvicorn.Config(
        application, host=options.host, port=options.port, log_level="info", access_log=False, timeout_keep_alive=75
    )
    server = uvicorn.Server(config)
    try:
        code = asyncio.run(_serve(server, batch))
    except SystemExit as ended:  # how uvicorn ends when it cannot bind its port
        code = int(ended.code or 0)
    # The library's thread is no daemon and may be in the middle of a step.
    sys.stderr.flush()
    os._exit(code)


async def _serve(server: object, batch: object) -> int:
    """Serve, and end with exit code 1 when the generation thread dies: a server that only looks alive helps nobody."""
    import uvicorn

    from llmops.serve.servers.batching import Batch

    assert isinstance(server, uvicorn.Server)
    assert isinstance(batch, Batch)
    serving = asyncio.ensure_future(server.serve())
    while not serving.done():
        await asyncio.wait({serving}, timeout=0.5)
        if batch.failure is not None and not server.should_exit:
            log.error("The generation thread died: %s", batch.failure)
            server.should_exit = True
            await serving
            return 1
    await serving
    threading.Thread(target=batch.stop, daemon=True).start()
    return 0


if __name__ == "__main__":
    main()
