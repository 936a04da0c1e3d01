"""The one output: results on stdout, the rest on stderr, one exit code, whatever the work does."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

# A verb with a body that each test supplies, driven like any other.
PROGRAM = """
import ctypes, os, subprocess, sys, time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from llmops.cli import options, output
from llmops.errors import *
from llmops.findings import Finding
from llmops.report.document import *

@dataclass(frozen=True, slots=True)
class Answer:
    ok: bool
    findings: tuple
    price: Decimal = Decimal("0.10")
    path: Path = Path("a/b")

def work(progress):
    progress.phase("working")
{body}
    return Answer(True, ())

def view(answer):
    return Document("Answer", (Table(("name", "value"), (("price", str(answer.price)),), frozenset({{"value"}})),), Text("fine", "good"))

asked = options.Answer("try", json="--json" in sys.argv, quiet="-q" in sys.argv, verbose=2 * ("-vv" in sys.argv),
    reports=tuple(Path(a) for a in sys.argv[1:] if a[0] != "-"))
output.run(asked, work, view)
"""


def run(body, *args, env=None, cwd=None):
    program = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    "))
    merged = {**os.environ, "NO_COLOR": "1", **(env or {})}
    return subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, env=merged, cwd=cwd, timeout=60
    )


NOISE = """
print("python noise")
os.write(1, b"raw noise\\n")
ctypes.CDLL(None).puts(b"C noise")
ctypes.CDLL(None).fflush(None)
subprocess.run(["sh", "-c", "echo child noise"])
"""


def test_json_is_one_document_under_noise():
    done = run(NOISE, "--json")
    assert json.loads(done.stdout) == {
        "schema": "llmops.try/1",
        "ok": True,
        "data": {"price": "0.10", "path": "a/b"},
        "findings": [],
        "error": None,
    }
    for noise in ("python noise", "raw noise", "C noise", "child noise"):
        assert noise in done.stderr
        assert noise not in done.stdout
    assert done.returncode == 0


def test_human_output_is_the_table_alone_under_noise():
    done = run(NOISE)
    assert done.stdout.startswith("Answer\n")
    assert done.stdout.endswith("fine\n")
    assert "noise" not in done.stdout
    assert "working" in done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        ("UsageError('bad option', 'try this')", 2, "error: bad option"),
        ("MachineError('no GPU')", 3, "error: no GPU"),
        ("AccessError('budget used up')", 4, "error: budget used up"),
        ("OutsideError('provider down')", 5, "error: provider down"),
        ("InconclusiveError('too few samples')", 6, "error: too few samples"),
        ("ZeroDivisionError('x')", 70, "error: a bug in llmops: ZeroDivisionError: x"),
        ("OSError(28, 'No space left on device', '/out')", 3, "error: No space left on device: /out"),
        ("FileNotFoundError(2, 'No such file or directory', 'm')", 2, "error: No such file or directory: m"),
        ("KeyboardInterrupt()", 130, "error: interrupted"),
        ("UsageError('two\\nlines')", 2, "error: two lines"),
    ],
)
def test_failures_are_one_line_a_code_and_a_document(raised, code, line):
    done = run(f"raise {raised}", "--json", "-q")
    assert done.returncode == code
    assert done.stderr.splitlines()[0].startswith(line)
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert document["error"]["exit_code"] == code


def test_hint_has_its_own_line():
    assert run("raise UsageError('bad', 'do this')", "-q").stderr == "error: bad\nhint: do this\n"


def test_traceback_only_when_asked():
    body = "raise ZeroDivisionError('x')"
    assert "Traceback" in run(body, "-q", "-vv").stderr
    assert "Traceback" in run(body, "-q", env={"LLMOPS_DEBUG": "1"}).stderr


def test_the_answer_no_exits_1_and_reports(tmp_path):
    body = "return Answer(False, (Finding('too-slow', 'error', 'p99 is 600 ms', '--slo', 'r.yaml', 3),))"
    names = [str(tmp_path / f"r{suffix}") for suffix in (".json", ".xml", ".sarif", ".md", ".html")]
    done = run(body, "-q", *names)
    assert done.returncode == 1
    assert json.loads((tmp_path / "r.json").read_text())["findings"][0]["rule"] == "too-slow"
    assert '<failure message="p99 is 600 ms"' in (tmp_path / "r.xml").read_text()
    sarif = json.loads((tmp_path / "r.sarif").read_text())
    assert sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"] == 3
    assert "| price | 0.10 |" in (tmp_path / "r.md").read_text()
    assert "<td" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("name", ["r.docx", "no/such/dir/r.json"])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(name, tmp_path):
    done = run("open('started', 'w')", "-q", name, cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "started").exists()


def test_github_annotations_are_at_most_ten_and_go_to_stderr(tmp_path):
    body = "return Answer(False, tuple(Finding(f'r{i}', 'error', 'a%b\\nc', None, 'f.yaml', i) for i in range(30)))"
    summary = tmp_path / "summary.md"
    done = run(body, "--json", "-q", env={"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)})
    assert done.stderr.count("::error ") == 10
    assert "::error title=r0,file=f.yaml::a%25b%0Ac" in done.stderr.replace("r0,file=f.yaml,line=0", "r0,file=f.yaml")
    json.loads(done.stdout)
    assert "# Answer" in summary.read_text()


def test_secrets_are_masked_everywhere(tmp_path):
    secret = "sk-ant-" + "a1B2" * 8
    body = f"""
    progress.note("using {secret} and " + os.environ["MY_API_KEY"])
    return Answer(False, (Finding('leak', 'error', 'key {secret}'),))
    """
    report = tmp_path / "r.html"
    done = run(body, "--json", str(report), env={"MY_API_KEY": "plain-but-secret-value"})
    for text in (done.stdout, done.stderr, report.read_text()):
        assert secret not in text
        assert "plain-but-secret-value" not in text
    assert "***" in done.stderr
    failed = run(f"raise OutsideError('refused {secret}')", "--json", "-vv")
    assert secret not in failed.stdout + failed.stderr


def test_closed_pipe_is_no_traceback():
    program = PROGRAM.format(body="    pass")
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    done = subprocess.run(
        [sys.executable, "-c", program, "-q"], stdout=reader.stdin, stderr=subprocess.PIPE, text=True, timeout=60
    )
    reader.stdin.close()
    assert done.returncode == 128 + signal.SIGPIPE
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signals_unwind_and_set_the_code(signum, code, tmp_path):
    body = """
    try:
        print("up", flush=True)
        time.sleep(600)
    finally:
        open("cleaned", "w")
    """
    program = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    "))
    process = subprocess.Popen(
        [sys.executable, "-c", program, "-q"], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr.readline() == "up\n"
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert (tmp_path / "cleaned").exists()
    assert stderr.strip() == "error: interrupted"


def test_progress_without_a_terminal_is_one_line_a_phase():
    done = run("progress.update(1, 10); progress.phase('second')")
    assert done.stderr.splitlines() == ["working", "second"]


def test_full_disk_leaves_no_half_report(tmp_path):
    """A real full file system: the report's directory is a size-limited tmpfs, where this user may mount one."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(small)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        big = "return Answer(True, tuple(Finding('x', 'note', 'y' * 1000) for _ in range(100)))"
        done = run(big, "-q", str(small / "r.json"))
        assert done.returncode == 3
        assert "No space left on device" in done.stderr
        assert "hint: free some space" in done.stderr
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
