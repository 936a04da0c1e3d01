"""What the client itself costs: start to first request, memory at 64 streams, CPU a 1,000 streamed tokens at 256 streams.

python benchmarks/bench/client_cost.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "bench"))

from bench_harness import truth

COMMAND = [sys.executable, "-m", "llmops", "bench"]


def load(url: str, requests: int, streams: int, tokens: int) -> list[str]:
    options = [
        "--model",
        "truth",
        "--warmup",
        "0",
        "--input-tokens",
        "64",
        "--output-tokens",
        str(tokens),
        "--json",
        "-q",
        "--allow-invalid",
    ]
    return [*COMMAND, url, "--requests", str(requests), "--concurrency", str(streams), *options]


def peak_rss_mib(process: subprocess.Popen) -> float:
    """Highest resident size while it runs, read from the kernel's own high-water mark."""
    highest = 0.0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                highest = max(highest, int(line.split()[1]) / 1024)
        time.sleep(0.05)
    return highest


def main() -> None:
    with truth(ttft_ms=20, gap_ms=2) as server:
        starts = []
        for _ in range(7):
            seen = len(server.requests())
            began = time.monotonic_ns()
            subprocess.run(load(server.url, 1, 1, 2), capture_output=True, check=True)
            starts.append((server.requests()[seen]["recv_ns"] - began) / 1e9)
        print(f"start to first request: median {sorted(starts)[3]:.2f} s, best {min(starts):.2f} s (wanted < 1 s)")
    with truth(ttft_ms=200, gap_ms=30) as server:
        process = subprocess.Popen(load(server.url, 256, 64, 64), stdout=subprocess.DEVNULL)
        print(f"peak memory at 64 streams: {peak_rss_mib(process):.1f} MiB (wanted < 60 MB)")
    with truth(ttft_ms=200, gap_ms=30) as server:
        costs = []
        for _ in range(3):
            done = subprocess.run(load(server.url, 768, 256, 64), capture_output=True, check=True, text=True)
            data = json.loads(done.stdout)["data"]
            cpu_ms = data["client"]["cpu_share"] * data["metrics"]["window_s"] * 1000
            costs.append(cpu_ms / data["counts"]["output_tokens"] * 1000)
        print(
            f"CPU a 1,000 tokens at 256 streams: median {sorted(costs)[1]:.1f} ms, best {min(costs):.1f} (wanted <= 20)"
        )


if __name__ == "__main__":
    main()
