"""How often does ``llmops bench --ab`` call a regression that is not there, and how often does it find one that is?

Two truth servers: for the first half of the comparisons they are alike, for the second half B is slower by ``--slower``.
Everything a real comparison has is in it: other work on this machine, the client's own noise, randomness of the answers.

    python benchmarks/bench/false_alarms.py --comparisons 40 --slower 1.10
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "bench"))

from bench_harness import truth

from llmops.bench import bench_spec
from llmops.bench.ab import ab
from llmops.progress import Silent


def compare(slower: float, options: argparse.Namespace, seed: int) -> dict:
    base = {"ttft_ms": options.ttft_ms, "gap_ms": options.gap_ms, "sigma": 0.3}
    slow = {"ttft_ms": options.ttft_ms * slower, "gap_ms": options.gap_ms * slower, "sigma": 0.3}
    with truth(**base, seed=2 * seed) as a, truth(**slow, seed=2 * seed + 1) as b:
        spec = {
            "model": "truth", "requests": options.requests, "concurrency": options.concurrency, "warmup": 0,
            "output_tokens": options.tokens, "input_tokens": 32,
        }  # fmt: skip
        specs = [bench_spec(url=server.url, **spec) for server in (a, b)]
        report = ab(specs[0], specs[1], options.rounds, Silent())
    ratios = {change.metric: round(change.ratio, 4) for change in report.changes}
    return {"verdict": report.verdict, "ratios": ratios, "invalid_runs": report.invalid}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=40, help="of each kind")
    parser.add_argument("--slower", type=float, default=1.10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--ttft-ms", type=float, default=200.0)
    parser.add_argument("--gap-ms", type=float, default=30.0)
    parser.add_argument("--only", choices=("unchanged", "slower"), help="one half, to run the halves at the same time")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {}
    for name, slower in (("unchanged", 1.0), ("slower", options.slower)):
        if options.only not in (None, name):
            continue
        rows = []
        began = time.monotonic()
        for seed in range(options.comparisons):
            rows.append(compare(slower, options, seed))
            counts = Counter(row["verdict"] for row in rows)
            print(f"{name} {seed + 1}/{options.comparisons}: {dict(counts)} {rows[-1]}", file=sys.stderr, flush=True)
        invalid = sum(row["invalid_runs"] for row in rows)
        found[name] = {"ratio": slower, **counts, "invalid_runs": invalid, "minutes": (time.monotonic() - began) / 60}
    total = options.comparisons
    for name, wanted in (("unchanged", "<= 5 %"), ("slower", ">= 70 %")):
        if name in found:
            called = found[name].get("FAIL", 0)
            truth_is = f"{found[name]['ratio'] - 1:+.0%}"
            print(
                f"server B truly {truth_is}: {called} of {total} called a regression ({called / total:.1%}; wanted {wanted})"
            )
    print(json.dumps(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
