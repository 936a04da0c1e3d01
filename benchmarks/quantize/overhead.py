"""What llmops adds to calling the engine directly: time, CPU time and peak memory, both in one run, taking turns.

    python benchmarks/quantize/overhead.py MODEL --work DIR [--rounds 2]

The direct program does with GPTQModel what its documentation shows, on the same rows of the same text. Memory is the sum
of the resident memory of all processes of a command that is private to each (USS), sampled ten times a second.

Two figures for time. *Wall* and *CPU* compare the whole commands; on a busy machine they differ by some per cent between two
runs of the same program. *Outside the engine* is what a command spends before, between and after the engine's own three calls
(load, quantise, save), which are the same in both: imports, text, files. It is steady, so its difference is what llmops adds.
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
import json, sys, time
from pathlib import Path
import torch
from transformers import AutoTokenizer
from gptqmodel import GPTQModel, QuantizeConfig
job = json.loads(sys.argv[1])
sys.path.insert(0, job["package"])
from llmops.quantize.adapters.texts import read_documents, rows
torch.manual_seed(0)
torch.set_num_threads(job["threads"])
tokenizer = AutoTokenizer.from_pretrained(job["model"])
found, _ = rows(read_documents(Path(job["text"])), tokenizer, count=job["samples"], length=job["seq_len"], seed=0)
marks = [time.monotonic()]
config = QuantizeConfig(
    bits=4, group_size=job["group_size"], device="cpu", offload_to_disk_path=job["out"] + ".offload"
)
engine = GPTQModel.load(job["model"], config)
marks.append(time.monotonic())
engine.quantize([{"input_ids": row, "attention_mask": [1] * len(row)} for row in found], batch_size=1)
marks.append(time.monotonic())
engine.save(job["out"])
marks.append(time.monotonic())
Path(job["out"] + ".json").write_text(json.dumps([b - a for a, b in zip(marks, marks[1:])]))
"""


def watch(command: list[str], env: dict[str, str], log: Path) -> dict[str, float]:
    """Run a command; its wall seconds, CPU seconds of all its processes, and peak private memory of them together."""
    began, peak = time.monotonic(), 0
    before = os.times()
    with log.open("wb") as errors, log.with_suffix(".out").open("wb") as output:
        process = psutil.Popen(command, stdout=output, stderr=errors, env=env)
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


def run_direct(asked: argparse.Namespace, env: dict[str, str], log: Path) -> dict[str, float]:
    import llmops.quantize

    package = Path(llmops.quantize.__file__).parent
    out = asked.work / "direct"
    shutil.rmtree(out, ignore_errors=True)
    script = asked.work / "direct.py"
    script.write_text(DIRECT)
    job = {
        "package": str(package.parents[1]),
        "text": str(package / "data" / "calibration.ja-en.jsonl"),
        "model": asked.model,
        "out": str(out),
        "threads": asked.threads,
        "samples": asked.samples,
        "seq_len": asked.seq_len,
        "group_size": asked.group_size,
    }
    figures = watch([sys.executable, str(script), json.dumps(job)], env, log)
    inside = sum(json.loads((asked.work / "direct.json").read_text()))
    return figures | {"inside_s": inside, "outside_s": figures["wall_s"] - inside}


def run_llmops(asked: argparse.Namespace, env: dict[str, str], log: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "llmops", "quantize", asked.model, "-o", str(asked.work / "llmops")]
    command += ["--method", "gptq", "--bits", "4", "--group-size", str(asked.group_size)]
    command += ["--samples", str(asked.samples), "--seq-len", str(asked.seq_len), "--threads", str(asked.threads)]
    figures = watch([*command, "--no-gate", "--force", "--json"], env, log)
    inside = sum(json.loads(log.with_suffix(".out").read_text())["data"]["phases_s"].values())
    return figures | {"inside_s": inside, "outside_s": figures["wall_s"] - inside}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    shutil.rmtree(asked.work, ignore_errors=True)
    asked.work.mkdir(parents=True)
    asked.work = asked.work.absolute()
    env = os.environ | {
        "OMP_NUM_THREADS": str(asked.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GPTQMODEL_CPU_WORKERS": "2",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    runs: dict[str, list[dict[str, float]]] = {"direct": [], "llmops": []}
    for turn in range(asked.rounds):
        for name in ("direct", "llmops") if turn % 2 == 0 else ("llmops", "direct"):
            run = run_direct if name == "direct" else run_llmops
            runs[name].append(run(asked, env, asked.work / f"{name}-{turn}.log"))
            print(turn, name, json.dumps(runs[name][-1]), file=sys.stderr, flush=True)
    middle = {
        name: {key: statistics.median(run[key] for run in each) for key in each[0]} for name, each in runs.items()
    }
    print("| | wall s | CPU s | in the engine's calls s | outside them s | peak MB |\n|---|---:|---:|---:|---:|---:|")
    for name, f in middle.items():
        print(
            f"| {name} | {f['wall_s']:.1f} | {f['cpu_s']:.1f} | {f['inside_s']:.1f} | {f['outside_s']:.1f} | {f['peak_mb']:.0f} |"
        )
    a, b = middle["direct"], middle["llmops"]
    print(
        f"| llmops adds | {b['wall_s'] / a['wall_s'] - 1:+.1%} | {b['cpu_s'] / a['cpu_s'] - 1:+.1%} | | "
        f"{b['outside_s'] - a['outside_s']:+.1f} s = {(b['outside_s'] - a['outside_s']) / a['wall_s']:+.1%} of the whole | "
        f"{b['peak_mb'] - a['peak_mb']:+.0f} MB |"
    )


if __name__ == "__main__":
    main()
