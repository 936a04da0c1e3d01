"""What the gateway's benchmarks share: the upstream's words, the candidates, processes pinned to cores, CPU time of a tree."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * 50},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 60, "completion_tokens": 50, "total_tokens": 110},
    }
)
BODY = json.dumps(
    {
        "model": "bench",
        "messages": [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": "hello " * 50}],
        "max_tokens": 50,
        "temperature": 0.7,
    }
)
LUA = """
wrk.method = "POST"
wrk.body = [==[{body}]==]
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {key}"
"""
KEY = "sk-bench-0123456789abcdef"
NGINX = """
user root; worker_processes 1; daemon off; pid {dir}/{name}.pid; error_log {dir}/{name}.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {dir}/{name}-body; proxy_temp_path {dir}/{name}-proxy;
  fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  keepalive_requests 100000000; client_max_body_size 64m;
  {http}
  server {{ listen 127.0.0.1:{port} backlog=2048; {server} }}
}}
"""
CONFIG = """
listen: {{port: {port}, busy_poll_ms: {busy}}}
keys: [{{name: bench, env: BENCH_KEY, limits: {{requests_per_minute: 100000000, tokens_per_minute: 100000000000, concurrent: 100000}}}}]
providers: {{up: {{base_url: "http://127.0.0.1:{upstream}/v1", prices_as: openai}}}}
routes: [{{match: bench, targets: [{{provider: up, model: gpt-4o}}]}}]
access_log: access.jsonl
"""

BUSY_MS = 100
EVENTS = 500


def events() -> str:
    """A whole stream of so many tokens."""
    row = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "bench"}

    def event(choices: list[dict], **more: object) -> str:
        return "data: " + json.dumps({**row, "choices": choices, **more}) + "\n\n"

    words = "".join(
        event([{"index": 0, "delta": {"content": f"word{n} "}, "finish_reason": None}]) for n in range(EVENTS)
    )
    last = event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    usage = event([], usage={"prompt_tokens": 60, "completion_tokens": EVENTS, "total_tokens": 60 + EVENTS})
    return words + last + usage + "data: [DONE]\n\n"


def installed() -> dict[str, str]:
    """What makes a child run llmops as pip installs it, compiled; with LLMOPS_INTERPRETED set, as the checkout has it.

    Raises:
        SystemExit: ``./dev compile`` was not run, or something has changed since.
    """
    if os.environ.get("LLMOPS_INTERPRETED"):
        return {}
    root = Path(__file__).parents[2]
    made = root / "build" / "compiled"
    changed = max(path.stat().st_mtime for path in (root / "llmops").rglob("*.py"))
    if not made.is_dir() or changed > (made / "llmops").stat().st_ctime:
        raise SystemExit(f"{made} is not there, or older than llmops/: ./dev compile, or set LLMOPS_INTERPRETED=1")
    return {"PYTHONPATH": str(made)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    pids = [pid]
    for each in pids:
        for task in Path(f"/proc/{each}/task").iterdir():
            with contextlib.suppress(OSError):
                pids += [int(child) for child in (task / "children").read_text().split()]
    return pids


def cpu_ns(pid: int) -> int:
    """CPU time of a process tree, from the scheduler."""
    total = 0
    for each in tree(pid):
        for path in Path(f"/proc/{each}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(path.read_text().split()[0])
    return total


def rss_mib(pid: int) -> float:
    """Resident memory of a process tree."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            total += int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{each}/status").read_text())[1])
    return total / 1024


@contextlib.contextmanager
def running(
    argv: list[str], port: int, core: int, directory: Path, env: dict[str, str], *, wait_s: float = 60.0
) -> Iterator[tuple[int, float]]:
    """A server on a core; yields its pid and the seconds until it took connections."""
    began = time.monotonic()
    with (directory / f"{Path(argv[0]).name}-{port}.out").open("w") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *argv], stdout=log, stderr=log, cwd=directory, env={**os.environ, **env}
        )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() - began > wait_s:
                    raise SystemExit(f"{argv[0]} did not start; see {log.name}") from None
                time.sleep(0.01)
        yield process.pid, time.monotonic() - began
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


def nginx(name: str, port: int, directory: Path, server: str, http: str = "") -> list[str]:
    conf = directory / f"{name}.conf"
    conf.write_text(NGINX.format(dir=directory, name=name, port=port, server=server, http=http))
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(conf), "-p", str(directory)]


@dataclass(frozen=True)
class Candidate:
    """Something that stands before the upstream.

    Attributes:
        argv: How it is started.
        port: Where it listens.
        headers: What a caller must send beside the body.
        wait_s: How long it may take to start.
        env: What its environment has beside ours.
    """

    argv: list[str]
    port: int
    headers: dict[str, str]
    wait_s: float = 60.0
    env: dict[str, str] = field(default_factory=dict)


def candidates(
    up: int, directory: Path, *, litellm: str | None = None, portkey: str | None = None, spend: bool = False
) -> dict[str, Callable[[], Candidate]]:
    """All that can stand before the upstream on port ``up``; each makes its own config in ``directory``.

    ``spend``: LiteLLM counts what each provider costs against a budget. That is its spend tracking that needs no
    PostgreSQL, so it is less than it does with virtual keys. ``busy`` is the gateway with ``busy_poll_ms``.
    """
    own = {"authorization": f"Bearer {KEY}"}

    def proxy() -> Candidate:
        keep = f"upstream up {{ server 127.0.0.1:{up}; keepalive 256; keepalive_requests 100000000; }}"
        forward = (
            "location / { proxy_pass http://up; proxy_http_version 1.1; proxy_buffering off; "
            'proxy_set_header Connection ""; }'
        )
        port = free_port()
        return Candidate(nginx("proxy", port, directory, forward, keep), port, own)

    def llmops(busy: int = 0) -> Candidate:
        port = free_port()
        (directory / f"gateway-{port}.yaml").write_text(CONFIG.format(port=port, upstream=up, busy=busy))
        argv = [sys.executable, "-m", "llmops", "gateway", "run", "-c", f"gateway-{port}.yaml"]
        return Candidate(argv, port, own, env=installed())

    def lite() -> Candidate:
        port = free_port()
        model = {"model": "openai/gpt-4o", "api_base": f"http://127.0.0.1:{up}/v1", "api_key": "sk-none"}
        rows = {"model_list": [{"model_name": "bench", "litellm_params": model}]}
        if spend:
            budget = {"openai": {"budget_limit": 1e9, "time_period": "1d"}}
            rows = {**rows, "router_settings": {"provider_budget_config": budget}}
        (directory / "litellm.yaml").write_text(json.dumps({**rows, "general_settings": {"master_key": KEY}}))
        argv = [
            str(litellm),
            "--config",
            "litellm.yaml",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--num_workers",
            "1",
        ]
        return Candidate(argv, port, own, 180.0)

    def portkey_() -> Candidate:
        port = free_port()
        headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{up}/v1"}
        return Candidate([*str(portkey).split(), f"--port={port}"], port, {**own, **headers})

    made: dict[str, Callable[[], Candidate]] = {"nginx": proxy, "llmops": llmops, "busy": partial(llmops, BUSY_MS)}
    if litellm is not None:
        made["litellm"] = lite
    if portkey is not None:
        made["portkey"] = portkey_
    return made
