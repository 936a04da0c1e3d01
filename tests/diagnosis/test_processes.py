"""Several processes in one log: each is judged by its own phases."""

from __future__ import annotations

import pytest

from llmops.diagnosis import diagnose_text
from llmops.diagnosis.speakers import speaker

OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 1 has a total capacity of 23.64 GiB"
)
CLOCK = "INFO 11-22 07:00:01 [gpu_model_runner.py:2338]"
TWO_WORKERS = f"""\
(APIServer pid=1) {CLOCK} vLLM API server version 0.11.0
(EngineCore_DP0 pid=9) {CLOCK} Initializing a V1 LLM engine (v0.11.0)
(Worker_TP0 pid=11) {CLOCK} Starting to load model /models/m...
(Worker_TP1 pid=12) {CLOCK} Starting to load model /models/m...
(Worker_TP0 pid=11) {CLOCK} Loading weights took 4.51 seconds
(Worker_TP0 pid=11) {CLOCK} Model loading took 7.5168 GiB and 4.919612 seconds
(Worker_TP1 pid=12) ERROR 11-22 07:00:09 [multiproc_executor.py:597] {OOM}
(EngineCore_DP0 pid=9) ERROR 11-22 07:00:09 [core.py:708] Exception: WorkerProc initialization failed due to an exception
"""
TWO_SERVICES = f"""\
big-1    | {CLOCK} Starting to load model /models/big...
small-1  | {CLOCK} Starting to load model /models/small...
big-1    | {OOM}
small-1  | INFO:     Application startup complete.
small-1  | {CLOCK} Avg prompt throughput: 3.1 tokens/s, Avg generation throughput: 7.0 tokens/s
big-1    | RuntimeError: Engine core initialization failed. See root cause above.
small-1  | INFO:     127.0.0.1:40404 - "POST /v1/completions HTTP/1.1" 200 OK
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (TWO_WORKERS, "gpu-oom-weights"),
        # The other worker had not begun to profile, this one had.
        (TWO_WORKERS.replace("(Worker_TP1 pid=12) ERROR", "(Worker_TP0 pid=11) ERROR"), "gpu-oom-warmup"),
        (TWO_SERVICES, "gpu-oom-weights"),
        # The same line of a server that is already serving.
        (TWO_SERVICES.replace("big-1    | torch", "small-1  | INFO:     Application startup complete.\nsmall-1  | torch"),
         "gpu-oom-runtime"),
    ],
    ids=["worker-loads", "worker-profiles", "service-starts", "service-serves"],
)  # fmt: skip
def test_each_process_has_its_own_phases(log, cause):
    found = diagnose_text("log", log)
    assert [c.cause for c in found.causes] == [cause]


@pytest.mark.parametrize(
    ("line", "service", "kind", "name"),
    [
        (f"(Worker_DP1_TP0 pid=71) {CLOCK} x", "", "Worker", "(Worker_DP1_TP0 pid=71)"),
        ("vllm-1  | (EngineCore pid=7) ERROR x", "vllm-1", "EngineCore", "(EngineCore pid=7)"),
        ("[pod/llm-0/engine] [rank3]: RuntimeError: x", "pod/llm-0/engine", "rank", "[rank3]"),
        ("[2025-01-01 10:00:00 DP0 TP1] Load weight begin.", "", "parallel", " DP0 TP1]"),
        ("(ServeReplica:default:llm pid=4, ip=10.0.0.7) x", "", "ServeReplica:default:llm",
         "(ServeReplica:default:llm pid=4, ip=10.0.0.7)"),
        ("[1,3]<stderr>:RuntimeError: x", "", "mpi", "[1,3]<stderr>"),
        ("| llama | 1 | UNAVAILABLE: Internal |", "", "", ""),
        ("RuntimeError: a (b pid c) d", "", "", ""),
    ],
)  # fmt: skip
def test_who_wrote_a_line(line, service, kind, name):
    found = speaker(line)
    assert (found.service, found.kind, found.name) == (service, kind, name)


def test_a_worker_that_died_is_named_only_where_nothing_says_of_what():
    died = "(EngineCore pid=9) ERROR 11-22 07:00:09 [multiproc_executor.py:315] Worker proc VllmWorker-0 died unexpectedly\n"
    killed = "Memory cgroup out of memory: Killed process 12 (python) total-vm:2812488kB, anon-rss:407976kB\n"
    assert [c.cause for c in diagnose_text("log", died).causes] == ["worker-killed"]
    assert [c.cause for c in diagnose_text("log", died + killed).causes] == ["host-oom-killed"]
