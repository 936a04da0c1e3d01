"""Ways to break a real vLLM on the CPU: what is damaged, how it is started, what is asked of it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

READY_S = 420
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """One failure: ``cause`` is what must be diagnosed of the log and of the server's answers together."""

    cause: str
    damage: Callable[[Path], None] | None = None
    argv: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    request: tuple[str, dict] | None = None
    kill: str | None = None
    address_space: int | None = None


def _config(**changes):
    def damage(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def _drop(*names: str):
    def damage(model: Path) -> None:
        for name in names:
            (model / name).unlink(missing_ok=True)

    return damage


def _truncate(model: Path) -> None:
    os.truncate(model / "model.safetensors", 200_000)


def _unreadable_adapter(model: Path) -> None:
    adapter = model.parent / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (adapter / "adapter_model.safetensors").write_bytes(b"<html><title>404 Not Found</title></html>")


CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
LORA = ("--enable-lora", "--lora-modules", "a={adapter}")
CASES = {
    "engine-killed": Case("worker-killed", request=("completions", {"prompt": "a b"}), kill="EngineCore"),
    "kv-space-too-small": Case(
        "kv-cache-too-small",
        _config(max_position_embeddings=2**23),
        ("--max-model-len", str(2**23), "--max-num-seqs", "1", "--enforce-eager"),
        {"VLLM_CPU_KVCACHE_SPACE": "1"},
    ),
    "kv-space-too-large": Case("kv-space-exceeds-memory", env={"VLLM_CPU_KVCACHE_SPACE": "9000"}),
    "no-chat-template": Case(
        "chat-template-missing", _drop("chat_template.jinja"), request=("chat/completions", CHAT)
    ),
    "prompt-too-long": Case("context-length-exceeded", request=("completions", {"prompt": "word " * 3000})),
    "wrong-model-name": Case("api-model-not-found", request=("completions", {"model": "llama-70b", "prompt": "x"})),
    "adapter-unreadable": Case("weights-corrupt", _unreadable_adapter, LORA),
    "address-space-limited": Case("host-oom-killed", address_space=3 * GIB),
    "weights-truncated": Case("weights-corrupt", _truncate),
    "tokenizer-missing": Case("tokenizer-files-missing", _drop("tokenizer.json", "tokenizer_config.json")),
    "dtype-unknown": Case("cli-arguments-invalid", argv=("--dtype", "bfloat17")),
    "layers-missing": Case("weights-names-mismatch", _config(num_hidden_layers=4)),
    "context-too-long": Case("max-model-len-too-long", argv=("--max-model-len", "100000")),
}  # fmt: skip


def fail(case: Case, vllm: Path, model: Path, work: Path) -> list[Path]:
    """Start vLLM on a damaged copy of ``model``; the files that tell of it: the log, and an answer if there was one."""
    copy = work / "model"
    shutil.copytree(model, copy)
    if case.damage is not None:
        case.damage(copy)
    files = [work / "server.log"]
    with _started(case, vllm, copy, files[0]) as (process, url):
        if not _ready(process, url) or case.request is None:
            return files
        if case.kill is not None:
            assert '"choices"' in _ask(url, *case.request)
            _kill(process.pid, case.kill)
        files.append(work / "answer.json")
        files[1].write_text(_ask(url, *case.request), "utf-8")
        if case.kill is not None:
            process.wait(60)
    return files


@contextlib.contextmanager
def _started(case: Case, vllm: Path, model: Path, log: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    extra = [part.format(adapter=model.parent / "adapter") for part in case.argv]
    argv = [vllm, "serve", model, "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)]
    argv += [] if "--dtype" in extra else ["--dtype", "float32"]
    argv += [] if "--max-model-len" in extra else ["--max-model-len", "256", "--enforce-eager"]
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "2"}

    with log.open("wb") as out:
        process = subprocess.Popen(
            [*map(str, argv), *extra], stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | own | case.env, cwd=log.parent,
        )  # fmt: skip
        if case.address_space is not None:
            resource.prlimit(process.pid, resource.RLIMIT_AS, (case.address_space, case.address_space))
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)


def _ready(process: subprocess.Popen, url: str) -> bool:
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return True
        except OSError:
            time.sleep(0.5)
    return False


def _ask(url: str, path: str, body: dict) -> str:
    data = json.dumps({"model": "tiny", "max_tokens": 4} | body).encode()
    request = urllib.request.Request(f"{url}/v1/{path}", data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}: {error.read().decode()}\n"
    except OSError as error:
        return f"{type(error).__name__}: {error}\n"


def _kill(parent: int, name: str) -> None:
    victims = [p for p in psutil.Process(parent).children(recursive=True) if name in " ".join(p.cmdline())]
    assert victims
    for victim in victims:
        victim.kill()
