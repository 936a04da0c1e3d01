"""Speed and memory of reading a large log: ``python benchmarks/diagnosis/speed.py LOG [--megabytes 200] [--shuffled]``.

Repeats a log until it has the size, ends it with a failure, and reads it in this process. With ``--shuffled`` no line is
ever repeated: each is made of words of the log (give a long text) in random order, which is the slowest honest input.
Prints megabytes a second of CPU time, the same relative to ``bytes.lower`` on this machine, and the peak of memory.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import tempfile
import time
from pathlib import Path

from llmops.diagnosis import diagnose_files, diagnose_text

LAST = b"RuntimeError: CUDA error: no kernel image is available for execution on the device\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--shuffled", action="store_true", help="lines of random words instead of the log's own")
    options = parser.parse_args()
    diagnose_text("warm-up", "x")
    with tempfile.NamedTemporaryFile(suffix=".log") as file:
        data, size = options.log.read_bytes(), 0
        words = sorted(set(re.findall(rb"[A-Za-z]{2,20}", data)))
        source = random.Random(1)
        while size < options.megabytes * 1_000_000:
            size += file.write(_shuffled(words, source) if options.shuffled else data)
        file.write(LAST)
        file.flush()
        began = time.process_time()
        diagnosis = diagnose_files([Path(file.name)])
        took = time.process_time() - began
    sample = bytes(10_000_000)
    began = time.process_time()
    sample.lower()
    base = 10 / max(1e-9, time.process_time() - began)
    speed = size / 1e6 / took
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{speed:.0f} MB/s ({speed / base:.4f} of bytes.lower), {peak:.0f} MiB at most, {diagnosis.lines:,} lines")
    print(f"found: {diagnosis.top.cause if diagnosis.top else 'nothing'}")


def _shuffled(words: list[bytes], source: random.Random) -> bytes:
    lines = (b" ".join(source.choices(words, k=12)) for _ in range(1000))
    return b"".join(b"2026-01-01 10:00:00 INFO " + line + b"\n" for line in lines)


if __name__ == "__main__":
    main()
