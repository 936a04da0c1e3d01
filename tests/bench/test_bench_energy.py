"""Energy through the real NVML binding, over a small library compiled here that has a counter."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from bench_harness import bench, truth

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the stub of libnvidia-ml is compiled with gcc")


@pytest.mark.slow
def test_energy_is_the_counters_rise_less_the_idle_power(tmp_path):
    source = Path(__file__).with_name("energy_stub.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", tmp_path / "libnvidia-ml.so.1", source], check=True)
    with truth(ttft_ms=20, gap_ms=5) as server:
        load = (
            "--model",
            "truth",
            "--duration",
            "4s",
            "--concurrency",
            "2",
            "--output-tokens",
            "8",
            "--input-tokens",
            "32",
        )
        document, _ = bench(server.url, *load, env={"LD_LIBRARY_PATH": str(tmp_path)})
    energy, counts = document["data"]["energy"], document["data"]["counts"]
    assert energy["gpus"] == 2
    assert energy["idle_w"] == pytest.approx(100, rel=0.05)
    # Two GPUs at 200 W above idle for the four seconds of the load, less what of them lay before the stub's threshold.
    assert energy["joules_above_idle"] == pytest.approx(1600, rel=0.25)
    assert energy["joules"] > energy["joules_above_idle"] + 350
    each = energy["joules_above_idle"] / counts["output_tokens"]
    assert energy["joules_per_output_token"] == pytest.approx(each, rel=0.01)
