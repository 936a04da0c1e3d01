"""A Ray of this machine with one model on Ray Serve. Runs in Ray's own environment, which has no llmops: it is a script.

    python ray_server.py --port 8000 --config '{"model_loading_config": …}'

Ray listens on the loopback address only; the model's front listens where ``--host`` says.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

# Cores of Ray's own actors (controller, front); they are numbers for its scheduler, no threads.
_OWN_CPUS = 4
PLACE, PREFIX = "/tmp", "llmops-ray-"  # noqa: S108 - a directory of its own is made there
# Prompts and answers pass through it, never weights; Ray's own default is a third of the machine.
_STORE_BYTES = 200 * 2**20


def main() -> int:
    """Serve until TERM or INT; 1 when the deployment fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True, help="An LLMConfig of ray.serve.llm as JSON")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--copies", type=int, default=1)
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Who has no token cannot reach this Ray, which runs what it is told; it is made here and ends with it.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    config = json.loads(options.config)
    # Ray keeps sockets there, whose paths may have 107 characters, and logs, which would stay for ever.
    sweep()
    scratch = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=PLACE))
    try:
        return _serve(config, options, scratch, stop)
    finally:
        remove(scratch)


def remove(scratch: Path) -> None:
    """Ray's processes write to the last; what they make anew goes in the next round."""
    for _ in range(30):
        shutil.rmtree(scratch, ignore_errors=True)
        if not scratch.exists():
            return
        time.sleep(0.1)


def sweep() -> None:
    """Remove what servers left that were killed before they could."""
    for left in Path(PLACE).glob(f"{PREFIX}*-*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)


def _serve(config: dict[str, Any], options: argparse.Namespace, scratch: Path, stop: threading.Event) -> int:
    import ray
    from ray import serve
    from ray.serve.llm import build_openai_app

    worker = config["placement_group_config"]["bundle_per_worker"]
    each = config["deployment_config"]["ray_actor_options"]["num_cpus"] + 4 * worker["CPU"]
    cpus = max(os.cpu_count() or 1, _OWN_CPUS + options.copies * each)
    ray.init(num_cpus=cpus, include_dashboard=False, object_store_memory=_STORE_BYTES, _temp_dir=str(scratch))
    try:
        serve.start(http_options={"host": options.host, "port": options.port})
        try:
            serve.run(build_openai_app({"llm_configs": [config]}), route_prefix="/")
        except RuntimeError as error:
            sys.stderr.write(f"the deployment failed: {error}\n")
            return 1
        while not stop.wait(1.0):
            pass
        return 0
    finally:
        ray.shutdown()  # and with it all replicas; Serve's own farewell takes longer than a stop may


if __name__ == "__main__":
    raise SystemExit(main())
