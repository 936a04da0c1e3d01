"""Quantise one model with every method through the command line, and print size, time, memory and quality as a table.

    python benchmarks/quantize/methods.py MODEL --work DIR [--methods gptq-4,bnb-nf4] [--samples 128 --seq-len 512]

Each method is one ``llmops quantize``; its JSON is kept in DIR, and a method whose JSON is there is not run again. Methods
whose engine is not installed are listed as such. Speed and memory are of this machine; quality is not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from llmops.quantize.gate import Quality, judge, thresholds
from llmops.quantize.spec import GateSpec

METHODS = {
    "gptq-4": ["--method", "gptq", "--bits", "4"],
    "gptq-4-g32": ["--method", "gptq", "--bits", "4", "--group-size", "32"],
    # The default amount of text, four times that of the other rows.
    "gptq-4-128x512": ["--method", "gptq", "--bits", "4", "--samples", "128", "--seq-len", "512"],
    "gptq-8": ["--method", "gptq", "--bits", "8"],
    "bnb-nf4": ["--method", "bnb-nf4"],
    "bnb-int8": ["--method", "bnb-int8"],
    "w8a8": ["--method", "w8a8"],
    "fp8": ["--method", "fp8"],
    "awq": ["--method", "awq"],
    "gptq-4-llmcompressor": ["--method", "gptq", "--bits", "4", "--engine", "llmcompressor"],
}


def measure(name: str, model: str, work: Path, options: list[str]) -> dict:
    kept = work / f"{name}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    command = [sys.executable, "-m", "llmops", "quantize", model, "-o", str(work / name), "--force", "--json"]
    done = subprocess.run([*command, *options, *METHODS[name]], stdout=subprocess.PIPE, text=True, check=False)
    document = json.loads(done.stdout)
    document["exit_code"] = done.returncode
    kept.write_text(json.dumps(document, indent=2, ensure_ascii=False))
    return document


def row(name: str, document: dict) -> str:
    if document["error"]:
        return f"| {name} | {document['error']['message']} |" + " |" * 8
    data = document["data"]
    q = data["quality"]
    gate, _ = judge(Quality(**q), thresholds(GateSpec(), data["bits"]))  # today's defaults, also for kept figures
    return (
        f"| {name} | {data['engine']} | {data['sizes']['after_bytes'] / 1e6:.1f} | "
        f"{data['cpu_seconds']:.0f} | "
        f"{data['peak_rss_bytes'] / 1e9:.2f} | {q['ppl_ratio']:.4f} ± {q['ppl_ratio_se']:.4f} | "
        f"{q['kl_mean']:.4f} ± {q['kl_se']:.4f} | {q['kl_p99']:.3f} | {q['top1_agreement']:.1%} | "
        f"{'passes' if gate.passed else 'fails'} |"
    )


def table(documents: dict[str, dict]) -> str:
    head = (
        "| method | engine | size MB | CPU s | peak GB | perplexity ratio | mean KL | p99 KL | top-1 | gate |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|"
    )
    return "\n".join([head, *(row(name, document) for name, document in documents.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--samples", default="128")
    parser.add_argument("--seq-len", default="512")
    parser.add_argument("--chunks", default="8")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    options = ["--samples", asked.samples, "--seq-len", asked.seq_len, "--chunks", asked.chunks]
    documents = {}
    for name in asked.methods.split(","):
        documents[name] = measure(name, asked.model, asked.work, options)
        print(row(name, documents[name]), file=sys.stderr, flush=True)
    first = next((d["data"] for d in documents.values() if not d["error"]), None)
    if first:
        print(
            f"Original: {first['sizes']['before_bytes'] / 1e6:.1f} MB; perplexity {first['quality']['ppl_base']:.2f} over "
            f"{first['quality']['tokens']} tokens; {os.cpu_count()} cores, Python {platform.python_version()}.\n"
        )
    print(table(documents))


if __name__ == "__main__":
    main()
