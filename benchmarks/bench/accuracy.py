"""How far ``llmops bench`` is from the truth: its figures over the kernel's own stamps at the server, at 1, 32 and 256 streams.

    python benchmarks/bench/accuracy.py

Wanted: each within 1 % + 0.5 ms. The last column says whether the run was valid, because on a busy machine it is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "bench"))

from bench_harness import percentile, true_e2e, true_gaps, true_ttft, truth

TRUE = {"ttft_ms": true_ttft, "itl_ms": true_gaps, "e2e_ms": true_e2e}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=3, help="runs at each number of streams")
    options = parser.parse_args()
    print(
        "| streams | TTFT p50 / p99 | gap p50 / p99 | e2e p50 / p99 | stamps by the kernel | within 1 % + 0.5 ms | valid |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for streams, requests in ((1, 12), (32, 256), (256, 1024)):
        for _ in range(options.tries):
            print(row(streams, requests), flush=True)


def row(streams: int, requests: int) -> str:
    with truth(ttft_ms=200, gap_ms=30) as server:
        command = [sys.executable, "-m", "llmops", "bench", server.url, "--model", "truth", "--warmup", "0", "--json"]
        command += ["-q", "--allow-invalid", "-r", str(requests), "-c", str(streams), "--output-tokens", "64"]
        data = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["data"]
        log = server.log()
    cells, within = [], True
    for name, of in TRUE.items():
        values = of(log["requests"])
        both = [(data["metrics"][name][f"p{round(100 * share)}"], percentile(values, share)) for share in (0.5, 0.99)]
        cells.append(" / ".join(f"{seen / real - 1:+.2%}" for seen, real in both))
        within = within and all(abs(seen - real) <= 0.01 * real + 0.5 for seen, real in both)
    stamps = log["stamps"]
    taken = stamps["received"] + stamps["sent"]
    share = taken / (taken + stamps["missing"])
    valid = "yes" if data["validity"]["valid"] else data["validity"]["reasons"][0].partition(",")[0]
    return f"| {streams} | {' | '.join(cells)} | {share:.1%} | {'yes' if within else 'no'} | {valid} |"


if __name__ == "__main__":
    main()
