"""Export time and peak memory against calling torch.onnx.export directly: ``exporting.py MODEL_DIR [--dtype T] [--runs N]``.

Both load the same checkpoint and write the same graph in a process of their own, in turn, each round in the other order. Prints
the median of the rounds' ratios, each ratio, and the ratio of the least figures, which other work on the machine moves least; the
aim is at most 1.05. CPU time is that of the whole process, imports and loading among it. The comparison after an export is not
counted: calling torch directly compares nothing.
The last line compares the measured peak with what the pre-flight asks for, and with the weights.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DIRECT = """
import json, resource, sys, time, warnings, torch, transformers
from pathlib import Path
warnings.simplefilter("ignore")
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[3])).eval()
class Plain(torch.nn.Module):
    def __init__(self): super().__init__(); self.model = model
    def forward(self, input_ids, attention_mask, position_ids):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False).logits
ids = torch.ones(2, 8, dtype=torch.long); mask = torch.ones_like(ids); mask[0, :2] = 0
axes = {0: "batch", 1: "sequence"}
began = time.monotonic()
with torch.no_grad():
    torch.onnx.export(Plain(), (ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)), sys.argv[2], dynamo=True, external_data=True, optimize=True,
        input_names=["input_ids", "attention_mask", "position_ids"], output_names=["logits"], verbose=False,
        dynamic_shapes={"input_ids": axes, "attention_mask": axes, "position_ids": axes})
print(json.dumps({"export_s": time.monotonic() - began, "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def direct(model, out, threads, dtype):
    done = subprocess.run([sys.executable, "-c", DIRECT, model, out / "model.onnx", dtype], capture_output=True, text=True, check=True,
                          env={"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "PATH": "/usr/bin:/bin", "HOME": str(Path.home())})  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def ours(model, out, threads, dtype):
    from llmops.export.children import run_worker
    from llmops.progress import Silent

    job = {"kind": "onnx-export", "model": str(model), "out": str(out), "task": "causal-lm", "dtype": dtype, "opset": None,
           "exporter": "dynamo", "pooling": None, "normalize": False, "threads": threads}  # fmt: skip
    return run_worker(job, out / "log", Silent(), threads=threads)


def cpu_s():
    """Of all children so far, imports and loading among it: less moved by other work on the machine than the clock is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    rounds = []
    for number in range(options.runs):
        found = {}
        sides = (("direct", direct), ("llmops", ours))
        for name, call in sides if number % 2 == 0 else reversed(sides):
            with tempfile.TemporaryDirectory() as scratch:
                before = cpu_s()
                run = call(options.model, Path(scratch), options.threads, options.dtype)
                found[name] = {**run, "cpu_s": cpu_s() - before}
        rounds.append(found)
    for key, unit, scale in (("export_s", "s", 1), ("cpu_s", "s", 1), ("peak_rss_bytes", "MiB", 2**20)):
        middle = {name: statistics.median(each[name][key] for each in rounds) / scale for name in ("direct", "llmops")}
        ratios = [each["llmops"][key] / each["direct"][key] for each in rounds]
        shown = " ".join(f"{ratio:.3f}" for ratio in ratios)
        least = min(each["llmops"][key] for each in rounds) / min(each["direct"][key] for each in rounds)
        print(f"{key}: direct {middle['direct']:.1f} {unit}, llmops {middle['llmops']:.1f} {unit}, "
              f"median ratio {statistics.median(ratios):.3f} (of {shown}), ratio of the least {least:.3f}")  # fmt: skip
    from llmops.checkpoint import read_model
    from llmops.export.onnx.plan import RAM_BASE_BYTES, RAM_FACTOR
    from llmops.export.onnx.spec import DTYPE_BYTES

    weights = read_model(options.model).parameters * DTYPE_BYTES[options.dtype]
    peak = max(each["llmops"]["peak_rss_bytes"] for each in rounds)
    asked = RAM_FACTOR * weights + RAM_BASE_BYTES
    print(f"peak {peak / 2**20:.0f} MiB is {peak / weights:.2f} times the weights; the pre-flight asks for {asked / 2**20:.0f} MiB, "
          f"{asked / peak:.2f} times the peak")  # fmt: skip


if __name__ == "__main__":
    main()
