"""Robustness of reading: forms, sizes, hostile input, and evidence that is really there."""

from __future__ import annotations

import io
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.diagnosis import diagnose_text, explain_log, remedies
from llmops.diagnosis.noise import is_no_event, level, prefix_length
from llmops.diagnosis.phrases import compile_phrase, unify
from llmops.diagnosis.rules import rule_book
from llmops.diagnosis.scan import scan

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
PHRASES = [phrase.text for phrase in rule_book().vocabulary.phrases]


def _scan(data: bytes):
    return scan("log", 0, io.BytesIO(data), rule_book().vocabulary)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=4000))
def test_random_bytes_never_crash(data):
    scanned = _scan(data)
    assert scanned.lines <= data.count(b"\n") + 1


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.sampled_from([*PHRASES, OOM, "Traceback (most recent call last):", "\x1b[31m", "", "INFO ok"]), max_size=30
    ),
    st.randoms(),
)
def test_evidence_is_a_line_of_the_input(lines, random):
    text = "\n".join(line[: random.randint(0, len(line))] if random.random() < 0.2 else line for line in lines)
    diagnosis = diagnose_text("log", text)
    split = text.split("\n")
    for cause in diagnosis.causes:
        assert cause.evidence
        for evidence in cause.evidence:
            assert evidence.text in split[evidence.line - 1]
    assert (diagnosis.status == "failed") == bool(diagnosis.causes)


def _seconds(data: bytes) -> float:
    began = time.process_time()
    _scan(data)
    return time.process_time() - began


@pytest.mark.parametrize(
    "unit",
    [
        b"a" * 64,
        b"cuda out of memory " * 4,
        b"is not divisible by " * 3,
        b"maximum context length is 1 tokens. however, you requested ",
        b"([{(((([[[[{{{{" * 4,
        b"1.1.1.1,,,,1_1_1_1" * 4,
        b"error: argument  invalid choice: ",
        b"\x1b[1;31m\x1b[0m",
        b'\'"`\\n\\"' * 8,
        b"nvrm: xid (pci:0000:) : 79, ",
    ],
)
def test_time_grows_with_the_size_only(unit):
    """A single line without end, made of what the phrases are made of: eight times the text, not sixty times the time."""
    small = (unit * (2**16 // len(unit)))[: 2**16]
    _scan(small[:1000])
    once = min(_seconds(small) for _ in range(2))
    eightfold = _seconds(small * 8)
    assert eightfold < 8 * 6 * max(once, 0.02)


def test_a_line_of_ten_megabytes():
    line = b"x" * 5_000_000 + OOM.encode() + b"y" * 5_000_000
    scanned = _scan(line)
    assert scanned.lines == 1
    hit = next(hit for hit in scanned.hits if hit.phrase == "cuda out of memory")
    assert (hit.line, len(hit.text) <= 400) == (1, True)


def test_far_apart_blocks_keep_their_line_numbers():
    filler = b"INFO 05-01 10:00:00 [loggers.py:116] Avg prompt throughput: 1.0 tokens/s\n" * 60_000
    scanned = _scan(filler + OOM.encode() + b"\n" + filler)
    assert {hit.line for hit in scanned.hits if hit.phrase == "cuda out of memory"} == {60_001}
    assert scanned.lines == 120_001


@pytest.mark.parametrize("lines", [200, 60_000])
def test_colours_do_not_move_line_numbers(lines):
    filler = "".join(f"\x1b[36m(Worker pid={n})\x1b[0m INFO step {n}\n" for n in range(lines))
    text = filler + "\x1b[31mERROR\x1b[0m torch.\x1b[1mOutOfMemoryError\x1b[0m: CUDA out of memory. Tried\n" + filler
    diagnosis = diagnose_text("log", text)
    assert {evidence.line for evidence in diagnosis.top.evidence} == {lines + 1}
    assert all(evidence.text in text.split("\n")[lines] for evidence in diagnosis.top.evidence)
    assert "\x1b" not in diagnosis.top.evidence[0].text


def test_a_message_cut_by_a_block_is_found():
    for shift in range(0, 120, 7):
        data = b"." * (2**18 - 60 + shift) + b" " + OOM.encode() + b"\nend\n"
        assert any(hit.phrase == "cuda out of memory" for hit in _scan(data).hits), shift


def test_newest_first_logs_are_turned_round():
    lines = [
        "2025-05-01 10:00:00 INFO Starting to load model x",
        "2025-05-01 10:00:05 INFO model weights take 10 GiB; # GPU blocks: 100, # CPU blocks: 5",
        "2025-05-01 10:00:06 INFO Capturing the model for CUDA graphs",
        "2025-05-01 10:00:09 INFO:     Application startup complete.",
        f"2025-05-01 10:03:09 ERROR {OOM}",
        "2025-05-01 10:03:10 INFO bye",
    ]
    assert diagnose_text("log", "\n".join(lines)).top.cause == "gpu-oom-runtime"
    assert diagnose_text("log", "\n".join(reversed(lines))).top.cause == "gpu-oom-runtime"


def test_the_same_words_in_another_phase_are_another_cause():
    start = "INFO Starting to load model x\n"
    kv = start + "INFO Model loading took 5 GiB\nINFO GPU KV cache size: 100 tokens\n"
    graphs = kv + "Capturing CUDA graph shapes:  10%\n"
    ready = graphs + "INFO:     Application startup complete.\n"
    causes = [diagnose_text("log", text + f"ERROR {OOM}").top.cause for text in (start, kv, graphs, ready)]
    assert causes == ["gpu-oom-weights", "gpu-oom-warmup", "gpu-oom-cudagraph", "gpu-oom-runtime"]


def test_wrapped_and_boxed_lines_are_joined():
    boxed = "│ ValueError: Bfloat16 is only supported on GPUs with compute      │\n│ capability of at least 8.0. Your Tesla T4 GPU has 7.5.            │\n"
    assert diagnose_text("log", boxed).top.cause == "bf16-unsupported-gpu"
    prefixed = "(Worker pid=1) ERROR 05-01 10:00:00 [w.py:1] CUDA out of\n(Worker pid=1) ERROR 05-01 10:00:00 [w.py:1] memory. Tried to allocate"
    assert diagnose_text("log", prefixed).top.family == "gpu-memory"


@pytest.mark.parametrize(
    "line",
    [
        "| rate_limit                       | OFF                      |",
        "  MemoryPressure       False   Mon, 04 May 2020 04:48:11 +0800   KubeletHasSufficientMemory",
        "args: Namespace(host=None, port=8000, trust_remote_code=False)",
        "non-default args: {'max_model_len': 8192}",
        "numpy                             1.26.4",
        "[pip3] torch==2.4.0",
        '127.0.0.1 - - [14/Sep/2025 21:57:00] "GET /error HTTP/1.1" 200 -',
    ],
)
def test_what_is_no_event(line):
    assert is_no_event(line)


@pytest.mark.parametrize(
    "line",
    [
        "  DiskPressure         True    Mon, 04 May 2020 04:48:11 +0800   KubeletHasDiskPressure",
        "ValueError: bad value for non-default args: Error: x",
        'INFO: 10.0.0.1:1 - "POST /v1/chat HTTP/1.1" 500 Internal Server Error',
    ],
)
def test_what_is_an_event(line):
    assert not is_no_event(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("(EngineCore pid=1849) ERROR 04-22 03:16:56 [v1/engine/core.py:1108] boom", "loud"),
        ("INFO 04-22 03:16:56 [core.py:1108] fine", "quiet"),
        ("INFO 04-22 03:16:56 [core.py:1108] request failed", "warning"),
        ("WARNING 04-22 03:16:56 [core.py:1108] slow", "warning"),
        ("W1122 06:45:56.029044 11735 pinned_memory_manager.cc:273] no pinned memory", "warning"),
        ("ValueError: x", "loud"),
    ],
)
def test_levels(line, expected):
    assert level(line) == expected


def test_prefixes_of_loggers_pods_and_kernels_are_known():
    for prefix in (
        "2025-05-01T10:00:00.123Z ",
        "(VllmWorkerProcess pid=93626) ERROR 08-02 21:32:15 multiproc_worker_utils.py:226] ",
        "[rank0]: ",
        "[ 1843.308145] ",
        "Nov 22 08:00:01 gpu7 kernel: ",
        "vllm-1  | ",
        "E1212 06:22:00.535254 11684 backend_model.cc:553] ",
    ):
        assert prefix_length(prefix + "Killed") == len(prefix), prefix


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PHRASES))
def test_every_phrase_without_variables_finds_itself(text):
    phrase = compile_phrase(text)
    if any(mark in text for mark in "*{<^"):
        return
    haystack = unify(text.encode())
    assert not phrase.leads or any(haystack.startswith(lead) for lead in phrase.leads)
    assert phrase in rule_book().vocabulary.possible(haystack)


def test_remedies_are_flags_in_the_callers_spelling():
    diagnosis = diagnose_text("log", "ValueError: LoRA rank 64 is greater than max_lora_rank 16.")
    assert dict(remedies(diagnosis, {"--max-lora-rank": "16"})) == {"--max-lora-rank": "64"}
    assert dict(remedies(diagnosis, {"max-lora-rank": "16"})) == {"max-lora-rank": "64"}
    assert dict(remedies(diagnosis, {"max-lora-rank": "64"})) == {}
    assert dict(remedies(diagnose_text("log", "fine"), {})) == {}


def test_a_remedy_goes_in_the_direction_that_helps():
    graphs = diagnose_text("log", "Capture cuda graph failed: CUDA out of memory. gpu_memory_utilization")
    assert dict(remedies(graphs, {"--gpu-memory-utilization": "0.95"})) == {"--gpu-memory-utilization": "0.85"}
    assert dict(remedies(graphs, {"--gpu-memory-utilization": "0.7"})) == {"--max-num-seqs": "64"}
    nothing_left = diagnose_text("log", "ValueError: No available memory for the cache blocks. vllm/v1")
    assert dict(remedies(nothing_left, {"--gpu-memory-utilization": "0.5"})) == {"--gpu-memory-utilization": "0.95"}
    unsure = diagnose_text("log", "Killed")
    assert unsure.top is not None
    assert dict(remedies(unsure, {})) == {}


def test_explaining_a_log_that_is_not_there_is_no_error(tmp_path):
    assert explain_log(tmp_path / "gone.log") is None


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("(59.32/79.15 GiB) on startup is less than desired GPU memory utilization (0.9, 71.24 GiB)", None),
        ("Free memory on device (59.32/79.15 GiB) on startup is less than desired GPU memory utilization (0.9, 71.24 GiB).", "--gpu-memory-utilization 0.74"),
        ("the estimated maximum model length is 50512.", "--max-model-len 50512"),
        ("The model's max seq len (32768) is larger than the maximum number of tokens that can be stored in KV cache (22577).", "--max-model-len 22576"),
        ("LoRA rank 48 is greater than max_lora_rank 16.", "--max-lora-rank 64"),
        ("Total number of attention heads (40) must be divisible by tensor parallel size (3).", "--tensor-parallel-size 2"),
        ("User-specified max_model_len (8192) is greater than the derived max_model_len (max_position_embeddings=2048 or x", "--max-model-len 2048"),
        ("Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29500, Requested 1200. Please try again in 6m0s. Visit x", "sleep 360"),
        ("Rate limit reached for gpt-4o on requests per min. Please try again in 852ms. Visit x", "sleep 1"),
    ],
)  # fmt: skip
def test_the_numbers_of_a_message_become_a_flag(text, command):
    top = diagnose_text("log", text).top
    assert top is not None
    assert command is None or top.fixes[0].command == command
