"""llmops bench beside vLLM's bench client and aiperf, against the same truth server, in one run.

Each client loads the server with the same number of requests at the same concurrency; its figures are compared with what
the server's own log says it really sent. Clients that are not installed are left out. Read the ratios, not the times.

    python benchmarks/bench/side_by_side.py --streams 32 --streams 256 \
        --vllm ENV/bin/vllm --aiperf ENV/bin/aiperf --tokenizer DIR
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "bench"))

from bench_harness import percentile, true_e2e, true_gaps, true_ttft, truth


def hub_name(tokenizer: str, directory: Path) -> str:
    """aiperf takes no local tokenizer, so a hub cache is made in which it finds this one under a hub's name."""
    repo = directory / "hub" / "models--local--tokenizer"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / ("0" * 40)).symlink_to(tokenizer, target_is_directory=True)
    return "local/tokenizer"


def run(command: list[str], directory: Path) -> tuple[float, float]:
    """Run a client; returns its CPU seconds, children included, and when it was started (monotonic ns)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic_ns()
    with (directory / "log").open("w") as log:
        done = subprocess.run(
            command,
            cwd=directory,
            stdout=log,
            stderr=log,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(directory)},
            timeout=600,
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print((directory / "log").read_text()[-1500:], file=sys.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, began


def llmops(url: str, n: int, c: int, options: argparse.Namespace, directory: Path):
    command = [sys.executable, "-m", "llmops", "bench", url, "--model", "truth", "--requests", str(n)]
    command += [
        "--concurrency",
        str(c),
        "--warmup",
        "0",
        "--input-tokens",
        "64",
        "--output-tokens",
        str(options.tokens),
    ]
    cost = run([*command, "-q", "--allow-invalid", "--report", "out.json"], directory)
    metrics = json.loads((directory / "out.json").read_text())["data"]["metrics"]
    names = {"ttft": "ttft_ms", "gap": "itl_ms", "e2e": "e2e_ms"}
    return cost, {k: (metrics[v]["p50"], metrics[v]["p99"]) for k, v in names.items()}


def vllm(url: str, n: int, c: int, options: argparse.Namespace, directory: Path):
    command = [options.vllm, "bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    command += ["--base-url", url, "--model", "truth", "--tokenizer", options.tokenizer, "--dataset-name", "random"]
    command += ["--random-input-len", "64", "--random-output-len", str(options.tokens), "--num-prompts", str(n)]
    command += ["--max-concurrency", str(c), "--save-result", "--result-filename", "out.json", "--disable-tqdm"]
    command += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99", "--num-warmups", "0"]
    cost = run(command, directory)
    found = json.loads((directory / "out.json").read_text())
    names = {"ttft": "ttft", "gap": "itl", "e2e": "e2el"}
    return cost, {k: (found[f"median_{v}_ms"], found[f"p99_{v}_ms"]) for k, v in names.items()}


def aiperf(url: str, n: int, c: int, options: argparse.Namespace, directory: Path):
    command = [options.aiperf, "profile", "--model", "truth", "--url", url, "--endpoint-type", "chat", "--streaming"]
    command += [
        "--request-count",
        str(n),
        "--concurrency",
        str(c),
        "--tokenizer",
        hub_name(options.tokenizer, directory),
        "--ui",
        "none",
    ]
    command += ["--synthetic-input-tokens-mean", "64", "--output-tokens-mean", str(options.tokens)]
    command += ["--output-artifact-dir", str(directory / "out")]
    cost = run(command, directory)
    file = next((directory / "out").rglob("profile_export_aiperf.json"))
    found = json.loads(file.read_text())
    names = {"ttft": "time_to_first_token", "gap": "inter_token_latency", "e2e": "request_latency"}
    return cost, {k: (found[v]["p50"], found[v]["p99"]) for k, v in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, action="append")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--waves", type=int, default=3, help="requests for each stream")
    parser.add_argument("--vllm", help="the vllm program")
    parser.add_argument("--aiperf", help="the aiperf program")
    parser.add_argument("--tokenizer", help="a local tokenizer directory, for the clients that need one")
    options = parser.parse_args()
    clients = {"llmops": llmops}
    clients |= {name: globals()[name] for name in ("vllm", "aiperf") if getattr(options, name)}
    print(
        "| client | streams | TTFT p50 / p99 | gap p50 / p99 | e2e p50 / p99 | CPU s (ratio) | first request, s (ratio) |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for streams in options.streams or [32, 256]:
        first: tuple[float, float] | None = None
        for name, client in clients.items():
            text, costs = row(name, client, streams, options)
            first = first or costs
            if costs and first:
                pairs = zip(costs, first, strict=True)
                text += "".join(f" {own:.1f} ({own / ours:.1f} x) |" for own, ours in pairs)
            print(text, flush=True)


def row(name: str, client, streams: int, options: argparse.Namespace) -> tuple[str, tuple[float, float] | None]:
    """Reported over true less 1, and what it cost: CPU seconds and seconds to the first request."""
    count = max(8, streams * options.waves)
    with truth(ttft_ms=200, gap_ms=30) as server, tempfile.TemporaryDirectory() as directory:
        try:
            (cpu_s, began), reported = client(server.url, count, streams, options, Path(directory))
        except (OSError, KeyError, StopIteration, subprocess.TimeoutExpired) as error:
            return f"| {name} | {streams} | failed: {type(error).__name__} {error} | | | | |", None
        log = [entry for entry in server.requests() if entry["sent_ns"]]
    if not log:
        return f"| {name} | {streams} | no request was answered | | | | |", None
    first = (min(entry["recv_ns"] for entry in log) - began) / 1e9
    cells = []
    for key, values in (("ttft", true_ttft(log)), ("gap", true_gaps(log)), ("e2e", true_e2e(log))):
        true = percentile(values, 0.5), percentile(values, 0.99)
        cells.append(" / ".join(f"{seen / real - 1:+.1%}" for seen, real in zip(reported[key], true, strict=True)))
    return f"| {name} | {streams} | {' | '.join(cells)} |", (cpu_s, first)


if __name__ == "__main__":
    main()
