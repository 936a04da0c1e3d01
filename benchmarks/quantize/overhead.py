"""What llmops adds to calling the engine directly: time, CPU time and peak memory, both in one run, taking turns.

    python benchmarks/quantize/overhead.py MODEL --work DIR [--rounds 2]

The direct program does with GPTQModel what its documentation shows, on the same rows of the same text. Memory is the sum
of the resident memory of all processes of a command that is private to each (USS), sampled ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

import psutil

DIRECT = """
import json, sys
import torch
torch.manual_seed(0)
torch.set_num_threads(int(sys.argv[5]))
from transformers import AutoTokenizer
from gptqmodel import GPTQModel, QuantizeConfig
sys.path.insert(0, sys.argv[6])
from llmops.quantize.adapters.texts import read_documents, rows
from pathlib import Path
model, text, out, length = sys.argv[1:5]
tokenizer = AutoTokenizer.from_pretrained(model)
found, _ = rows(read_documents(Path(text)), tokenizer, count=32, length=int(length), seed=0)
config = QuantizeConfig(bits=4, group_size=int(sys.argv[7]), device="cpu", offload_to_disk_path=out + ".offload")
engine = GPTQModel.load(model, config)
engine.quantize([{"input_ids": row, "attention_mask": [1] * len(row)} for row in found], batch_size=1)
engine.save(out)
"""


def watch(command: list[str], env: dict[str, str], log: Path) -> dict[str, float]:
    """Run a command; its wall seconds, CPU seconds of all its processes, and peak private memory of them together."""
    began, peak = time.monotonic(), 0
    before = os.times()
    with log.open("wb") as file:
        process = psutil.Popen(command, stdout=file, stderr=file, env=env)
        while process.poll() is None:
            peak = max(peak, private_bytes(process))
            time.sleep(0.1)
    after = os.times()
    if process.returncode:
        sys.exit(f"{command[:3]} failed, see {log}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": time.monotonic() - began, "cpu_s": cpu, "peak_mb": peak / 1e6}


def private_bytes(process: psutil.Process) -> int:
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for each in family:
        try:
            total += each.memory_full_info().uss
        except psutil.Error:
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seq-len", default="256")
    parser.add_argument("--group-size", default="128")
    asked = parser.parse_args()
    shutil.rmtree(asked.work, ignore_errors=True)
    asked.work.mkdir(parents=True)
    import llmops.quantize

    package = Path(llmops.quantize.__file__).parent
    text = package / "data" / "calibration.ja-en.jsonl"
    threads = str(len(os.sched_getaffinity(0)))
    env = os.environ | {
        "OMP_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "GPTQMODEL_CPU_WORKERS": "2",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    script = asked.work / "direct.py"
    script.write_text(DIRECT)
    runs: dict[str, list[dict[str, float]]] = {"direct": [], "llmops": []}
    for turn in range(asked.rounds):
        direct = [
            sys.executable,
            str(script),
            asked.model,
            str(text),
            str(asked.work / "direct"),
            asked.seq_len,
            threads,
        ]
        through = [
            sys.executable,
            "-m",
            "llmops",
            "quantize",
            asked.model,
            "-o",
            str(asked.work / "llmops"),
            "--method",
        ]
        through += ["gptq", "--samples", "32", "--seq-len", asked.seq_len, "--threads", threads, "--no-gate", "--force"]
        pair = [
            ("direct", [*direct, str(package.parents[1]), asked.group_size]),
            ("llmops", [*through, "--group-size", asked.group_size, "--json"]),
        ]
        for name, command in pair if turn % 2 == 0 else reversed(pair):
            shutil.rmtree(asked.work / "direct", ignore_errors=True)
            runs[name].append(watch(command, env, asked.work / f"{name}-{turn}.log"))
            print(turn, name, json.dumps(runs[name][-1]), file=sys.stderr, flush=True)
    best = {name: {key: statistics.median(run[key] for run in each) for key in each[0]} for name, each in runs.items()}
    print("| | wall s | CPU s | peak MB |\n|---|---:|---:|---:|")
    for name, figures in best.items():
        print(f"| {name} | {figures['wall_s']:.1f} | {figures['cpu_s']:.1f} | {figures['peak_mb']:.0f} |")
    a, b = best["direct"], best["llmops"]
    print(
        f"| added | {b['wall_s'] / a['wall_s'] - 1:+.1%} | {b['cpu_s'] / a['cpu_s'] - 1:+.1%} | "
        f"{b['peak_mb'] - a['peak_mb']:+.0f} MB |"
    )


if __name__ == "__main__":
    main()
